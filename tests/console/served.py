"""A console that is served in this process, on a socket, and whoever asks it: as a person whose role is given."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urlencode

import uvicorn

from exchange.people.roles import Person, Role
from exchange.serve.app import make_app
from exchange.serve.identity import Identity
from exchange.settings import Settings

CSRF = "what-forms-carry"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def words(self) -> str:
        """The page as text, its white space as one blank."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.body)).split())


@dataclass
class Browser:
    """Asks one console, with what cookies it was given."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Answer:
        """Look at a page."""
        return self.ask("GET", path, None, headers)

    def answer(self, path: str, back: str = "/", **fields: str) -> Answer:
        """Do what a form of ours does that is answered by a page at once."""
        sent = urlencode({"csrf": CSRF, "back": back, **fields})
        return self.ask("POST", path, sent, {"Origin": f"http://127.0.0.1:{self.port}"})

    def post(self, path: str, back: str = "/", **fields: str) -> Answer:
        """Do what a form of ours does, and give the page that comes after it."""
        answer = self.answer(path, back, **fields)
        assert answer.status == 303, answer.body
        return self.get(answer.headers["location"])

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        """Ask, whatever it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if self.cookies:
            headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **headers}
        if body is not None:
            headers = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    key, _, said = value.partition(";")[0].partition("=")
                    self.cookies[key] = said
            shown = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, shown, answer.read().decode())
        finally:
            connection.close()


@contextmanager
def console(settings: Settings, role: Role | None = Role.ADMINISTRATOR, name: str = "nora") -> Iterator[Browser]:
    """Serve a side to one person until the block ends; without a role to whoever signs in."""
    identity = None
    if role is not None:
        person = Person(name, role, sees_sensitive=role is Role.ADMINISTRATOR, address="127.0.0.1")
        identity = Identity(person, CSRF)
    app = make_app(settings, identify=None if identity is None else lambda _request: identity)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="on"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, name="console")
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the console did not start"
            thread.join(0.01)
        yield Browser(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()
