"""Dead letters to a file and back: kept before they are removed, or carried to the network that can mend them.

JSON lines are for programs and come back (``format.letters``); CSV is for people and does not.
"""

from exchange.format.letters import FileFault
from exchange.letter_files.bringing import Brought, bring
from exchange.letter_files.saving import Saved, save

__all__ = ["Brought", "FileFault", "Saved", "bring", "save"]
