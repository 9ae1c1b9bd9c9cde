"""Dead letters to a file and back: kept before they are removed, or carried to the network that can mend them.

JSON lines are for programs and come back (``format.dead_letter_file``); CSV is for people and does not.
"""

from exchange.dead_letters.file.read import ImportedLetters, import_letters
from exchange.dead_letters.file.write import ExportedLetters, export_letters
from exchange.format.signed_file import FileFault

__all__ = ["ExportedLetters", "FileFault", "ImportedLetters", "export_letters", "import_letters"]
