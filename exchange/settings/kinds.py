"""The kinds of values that settings take: each checks one, and says in words what it expects."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from exchange.format.errors import printable
from exchange.format.names import KEY_NAME, NAME
from exchange.limits import Held
from exchange.settings.faults import ENV_FILE

_ONE_HANDLER = r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\s*=\s*)?(sql|http|echo|[A-Za-z_][\w.]*:[A-Za-z_]\w*)"


@dataclass(frozen=True)
class Expected:
    """What a variable takes, in the words that follow "expected" in a fault."""

    words: str


def _octal(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"0?o?[0-7]{3}", value):
        raise ValueError(f"expected permissions as octal digits, such as 0755, found {printable(repr(value))}")
    return int(value.replace("o", ""), 8)


def absolute(path: Path) -> Path:
    """Make a path absolute, from the named settings file's folder or else the working folder."""
    named = os.environ.get(ENV_FILE)
    base = Path(named).absolute().parent if named else Path.cwd()
    try:
        os.fspath(path).encode()
        return Path(os.path.normpath(base / path.expanduser()))
    except UnicodeError:
        raise ValueError(f"expected a path in UTF-8, found {printable(repr(str(path)))}") from None
    except RuntimeError:
        raise ValueError(f"expected a path, found {printable(repr(str(path)))} and no home to begin it with") from None


NetworkName = Annotated[
    str,
    Field(pattern=f"^{NAME.pattern}$"),
    Expected("a name of at most 31 lower-case letters, digits and _ that begins with a letter"),
]
KeyName = Annotated[
    str | None,
    Field(pattern=f"^{KEY_NAME.pattern}$"),
    Expected("the name of a key, as `exchange keys list` shows it"),
]
Attribute = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"), Expected("package.module:attribute")]
HandlerNames = Annotated[
    str,
    Field(pattern=rf"^{_ONE_HANDLER}(\s*,\s*{_ONE_HANDLER}){{0,31}}$"),
    Expected("sql, http, echo or package.module:function; or several with commas, each with KIND= before it or not"),
]
TomlFile = Annotated[Path | None, AfterValidator(lambda path: path and absolute(path)), Expected("a file in TOML")]
OptionalDatabaseUrl = Annotated[str | None, Expected("a SQLAlchemy URL of SQLite or PostgreSQL")]
CredentialsFile = Annotated[
    Path | None,
    AfterValidator(lambda path: path and absolute(path)),
    Expected("a file of one line, such as ApiKey and the key"),
]
Folder = Annotated[Path, AfterValidator(absolute), Expected("a folder")]
OptionalFolder = Annotated[Path | None, AfterValidator(lambda path: path and absolute(path)), Expected("a folder")]
PasswordFile = Annotated[
    Path | None, AfterValidator(lambda path: path and absolute(path)), Expected("a file of one line")
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number of seconds above 0")]
TaskSeconds = Annotated[float, Field(ge=10, allow_inf_nan=False), Expected("a number of seconds, 10 or more")]
Patience = Annotated[float, Field(ge=0, allow_inf_nan=False), Expected("a number of seconds, 0 or more")]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number of minutes above 0")]
Hours = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number of hours above 0")]
Days = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number of days above 0")]
Share = Annotated[float, Field(ge=0, le=1), Expected("a share from 0 to 1")]
Positive = Annotated[int, Field(ge=1, le=2**62), Expected("a whole number, 1 or more")]
Number = Annotated[int, Field(ge=0, le=2**62), Expected("a whole number, 0 or more")]
Mode = Annotated[int, BeforeValidator(_octal), Expected("permissions as octal digits, such as 0755")]
Host = Annotated[str, Field(pattern=r"^[0-9A-Za-z.:_-]{1,253}$"), Expected("an address or a name of this machine")]
Port = Annotated[int, Field(ge=0, le=65535), Expected("a port, from 0 to 65535")]
Switch = Annotated[bool, Expected("true or false")]
Recipient = Annotated[
    str | None, Field(pattern=r"^age1[02-9ac-hj-np-z]{10,2000}$"), Expected("a public key of age, such as age1...")
]
Group = Annotated[str | None, Expected("the name or the number of a group")]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
    Expected("DEBUG, INFO, WARNING or ERROR"),
]
LogFormat = Annotated[Literal["console", "json"], Expected("console or json")]
ChannelsOff = Annotated[
    str, Expected("names of channels with commas between, each as it is or with :in or :out behind it")
]
FirstLoad = Annotated[Literal["auto", "never"], Expected("auto or never")]
LinkKind = Annotated[Literal["two-way", "one-way"], Expected("two-way or one-way")]
DatabaseUrl = Annotated[str, Expected("a SQLAlchemy URL of SQLite or PostgreSQL")]
NotifyUrls = Annotated[
    str | None, Expected("URLs with spaces or line ends between them, each with NAME= before it or not")
]
NotifyLevel = Annotated[Literal["warning", "fault"], Expected("warning or fault")]
WebUrl = Annotated[str | None, Expected("an https:// or http:// URL")]
OptionalFile = Annotated[Path | None, AfterValidator(lambda path: path and absolute(path)), Expected("a file in PEM")]
HeaderName = Annotated[
    str | None,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,62}$"),
    Expected("the name of a header, such as X-Forwarded-User"),
]
Networks = Annotated[str, Expected("addresses or networks with commas between, such as 10.1.2.3,10.2.0.0/16")]
Window = Annotated[
    float, Field(gt=0, le=86_400, allow_inf_nan=False), Expected("a number of seconds above 0, up to 86400")
]
Origins = Annotated[str, Expected("origins with commas between, such as https://app.example.org,http://localhost:3000")]
RoleName = Annotated[
    Literal["viewer", "operator", "administrator"] | None, Expected("viewer, operator or administrator")
]
HeldActs = Annotated[
    str,
    Expected(f"names with commas between, each one of {', '.join(Held)}"),
]
ReportRhythm = Annotated[
    Literal["daily", "weekly", "daily,weekly"] | None,
    BeforeValidator(
        lambda value: ",".join(sorted(value.replace(" ", "").split(","))) if isinstance(value, str) else value
    ),
    Expected("daily, weekly or daily,weekly"),
]
TimeOfDay = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), Expected("a time of day as 07:00")]
BrokerUrl = Annotated[str | None, Expected("a redis://, rediss:// or sentinel:// URL")]
