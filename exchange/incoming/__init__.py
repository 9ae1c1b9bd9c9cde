"""Batches on their way in: believed, put in order, applied, or kept with the reason why not."""
