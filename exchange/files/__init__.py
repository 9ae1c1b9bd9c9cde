"""Folders and files: the spool, what a carrier shares with us, keys, and who may read or write them."""
