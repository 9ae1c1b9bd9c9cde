"""Exchange files between two networks that must stay apart: signed batches, applied exactly once."""

__version__ = "0.1.0"
