"""``python -m exchange``: the ``exchange`` command."""

from exchange.cli import main

main()
