"""Batches on their way out: changes composed, sealed and published, and sent again."""
