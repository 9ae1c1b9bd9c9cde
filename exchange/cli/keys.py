"""``exchange keys``: this side's signing keys and the other side's public ones."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Annotated

import typer

from exchange import keys
from exchange.cli import output
from exchange.cli.output import Json
from exchange.cli.running import Refused, settings

app = typer.Typer(help="Keys: who signs here, and who is trusted.", no_args_is_help=True)


@app.command()
def new(
    name: Annotated[
        str | None,
        typer.Argument(help="What manifests call it (default: the network and the year).", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a signing key; it signs from the next export on."""
    from exchange.initialise import new_key_name

    current = settings()
    public = keys.new(current.keys_folder, name or new_key_name(current))
    if as_json:
        output.emit({"name": public.stem, "path": str(public), "fingerprint": fingerprint(public)})
        return
    output.tell(f"made {public.stem}; its public half is {public}")
    output.tell(f"fingerprint {fingerprint(public)}")
    output.tell(f"carry that file to {current.peer} and run there: exchange keys trust {public.name}")


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="The other side's public key, a PEM file.", show_default=False)],
    name: Annotated[
        str | None, typer.Option(help="What manifests call it (default: the file's stem).", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Accept what this key has signed, from the next import on."""
    if not file.is_file():
        raise Refused(f"{file}: expected the file of a public key, found none")
    copy = keys.trust(settings().keys_folder, file, name)
    if as_json:
        output.emit({"name": copy.stem, "path": str(copy), "fingerprint": fingerprint(copy)})
        return
    output.tell(f"{copy.stem} is trusted; fingerprint {fingerprint(copy)}")
    output.tell("compare the fingerprint with the one that `exchange keys list` shows on the other side")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List own keys and trusted ones."""
    current = settings()
    found = [
        {
            "name": key.name,
            "trusted": key.trusted,
            "signs": key.signs,
            "path": str(key.path),
            "fingerprint": fingerprint(key.path if key.trusted else key.path.with_suffix(".pem")),
        }
        for key in keys.listed(current.keys_folder, current.signing_key)
    ]
    if as_json:
        for fields in found:
            output.emit(fields)
        return
    if not found:
        output.say("there are no keys yet; `exchange keys new` makes one")
        return
    output.table(
        ["name", "use", "fingerprint", "path"],
        [
            (
                fields["name"],
                "trusted" if fields["trusted"] else "signs" if fields["signs"] else "retired",
                fields["fingerprint"],
                fields["path"],
            )
            for fields in found
        ],
    )


def fingerprint(public: Path) -> str | None:
    """Give the SHA-256 of a public key in DER form, to be compared by telephone; None if there is none to read."""
    try:
        lines = public.read_bytes().splitlines()
        return hashlib.sha256(base64.b64decode(b"".join(line for line in lines if b"-----" not in line))).hexdigest()
    except (OSError, ValueError):
        return None
