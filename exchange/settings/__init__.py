"""Settings: ``EXCHANGE_*`` variables or a ``.env``, read once into one validated object.

Every fault is found at once and said in one sentence: the variable, what was expected, what was found. Values
that may hold a password are never printed. The file is ``.env`` in the working folder, or the one that
``EXCHANGE_ENV_FILE`` names; a variable of the process goes before it. One that somebody else than we or root could
have written is refused: it says what is run. Relative paths start at that named file's folder, else at the working
folder.
"""

from exchange.settings.faults import SettingsFaults, variable_name
from exchange.settings.loading import Variable, load_settings, misspelt, settings_file, variables
from exchange.settings.model import NEEDS_RESTART, REFERENCE_APP, Settings
from exchange.settings.told import WEBHOOKS, NotifyTarget

__all__ = [
    "NEEDS_RESTART",
    "REFERENCE_APP",
    "WEBHOOKS",
    "NotifyTarget",
    "Settings",
    "SettingsFaults",
    "Variable",
    "load_settings",
    "misspelt",
    "settings_file",
    "variable_name",
    "variables",
]
