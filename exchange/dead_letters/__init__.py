"""Dead letters: records that did not take effect, kept with why, until a person or a later batch settles them.

What takes a Connection works in the caller's transaction and commits nothing; what takes a Site or an Engine begins
and commits its own.
"""
