"""``python -m exchange``: the ``exchange`` command."""

import sys

from exchange.files.ownership import WrongOwner, refuse_imports

try:
    refuse_imports()
except WrongOwner as fault:
    print(fault, file=sys.stderr)  # noqa: T201 - what else prints is not imported yet
    sys.exit(2)

from exchange.cli import main

main()
