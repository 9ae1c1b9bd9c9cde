"""People's files become rows: dropped, claimed, loaded by segments through the loader, past bad rows.

The order of steps, and what a process that dies of each leaves:

1. **Claim** (``folders.py``): a rename within the folder. The file lies in ``taken/`` and is in no ledger yet: the next
   look takes it in. What a command names stays where it lies.
2. **Take in** (``take_in.py``): its bytes are hashed, how it is written is found out, and one transaction writes it
   into the ledger (``ledger.py``), ``waiting``, with its parts; or as a ``duplicate`` of the same bytes. Before the
   commit there is nothing of it, and it is done again.
3. **Attempt**: under the part's lock the attempt is counted and committed, and the file is ``loading``. A part that
   ends the process as often as the limits say without a segment in between has its file refused.
4. **Segment** (``load.py``): one transaction with rows, letters, counts and the part's place. Before the commit
   nothing of it is there, and the next process begins at the place before; after it, behind it: each row is loaded
   once.
5. **End**: the last segment of the last part has its file be ``loaded`` in its own transaction.
6. **Refusal**, a file's own fault: one transaction says so (``refusing``, or ``refused`` where nothing was loaded),
   and another one (``undo.py``) deletes by their keys the rows that were inserted, with all letters: before its commit
   all is as it was, and the next run does it again. Where rows can't be taken back so, 4 is one transaction for the
   file.
7. **Put away** (``folders.py``): a rename into ``done/`` or ``refused/``, after the ledger says so, done again until
   it is.

What the world does (the database away, a disk, a lock) rolls a segment back, and the file waits for its next try.
"""
