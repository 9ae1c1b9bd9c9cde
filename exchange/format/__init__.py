"""The batch format: bytes in, checked values out, and back.

Pure: nothing here knows a database, Celery, a setting, a path or a clock. ``schemas/FORMAT.md`` is the rule
book; what one side writes, the other reads with these same modules, so the format cannot drift.
"""
