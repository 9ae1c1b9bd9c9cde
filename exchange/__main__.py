"""``python -m exchange``: the ``exchange`` command."""

import sys

from exchange.files.ownership import Stranger, refuse_imports

try:
    refuse_imports()
except Stranger as stranger:
    print(stranger, file=sys.stderr)  # noqa: T201 - what else prints is not imported yet
    sys.exit(2)

from exchange.cli import main

main()
