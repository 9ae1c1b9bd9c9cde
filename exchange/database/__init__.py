"""This side's own state: the engine and its locks, the tables, the ledger, the audit.

Applications import ``make_engine`` from here.
"""

from exchange.database.engine import make_engine

__all__ = ["make_engine"]
