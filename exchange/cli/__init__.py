"""The ``exchange`` command: each command reads its arguments, calls one workflow and prints what came of it.

Commands import what they use when they run: neither ``exchange --help`` nor ``exchange verify`` loads a database.
"""

from exchange.operating import garbage


def main() -> None:
    """Run the command line."""
    garbage.collect_seldom()
    from exchange.cli.app import app

    app(prog_name="exchange")
