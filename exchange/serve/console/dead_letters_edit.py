"""A dead letter's record mended on a page: by column as its schema has them, or as JSON; checked as one types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from exchange.api import RefusedArgument
from exchange.channels.schemas import stream_schema, takes_null
from exchange.channels.stream import HIDDEN, Stream
from exchange.dead_letters.edit import Draft, EditRefused
from exchange.format import json_pointer, strict_json
from exchange.format.errors import RecordError, TransientError
from exchange.people.roles import Role
from exchange.serve.console.visit import Visit, act, look
from exchange.serve.json_api.table import MOST_BODY_BYTES

LONG = 80
"""A longer text gets a field of several lines."""
GIVEN, NULL, ABSENT, KEPT = "value", "null", "absent", "kept"
"""How a column is meant: with what is in its field, as null, not in the record at all, or as it is.

The last is for what a form can't carry or can't show as it is: control characters, and what turns or hides text.
"""
MOST_REVISION_DIGITS = 9
MOST_TYPED_BYTES = MOST_BODY_BYTES - 8 * 1024
"""So long a record may be as a form sends it: a reason goes with it."""

_NOTHING = object()
_WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}


@dataclass(frozen=True)
class Field:
    """A column as a form has it: ``how`` is one of the words above, ``hows`` are those that are offered."""

    name: str
    text: str
    how: str
    hows: tuple[str, ...]
    choices: tuple[str, ...]
    """The values that it may have, nothing for null; none where it takes more than a few."""
    rule: str
    long: bool
    key: bool
    """Whether it is of the key, which no edit changes."""


def edit(visit: Visit) -> Response:
    """Show the form."""
    draft = visit.exchange.dead_letters.begin_edit(_id(visit))
    stream = _stream(draft)
    by_column = stream is not None and draft.file is None and _body(draft) is not None
    fields = list(_fields(draft, stream)) if stream and by_column else []
    as_json = visit.asked("as") == "json" or not fields
    try:
        text, fault = (_escaped(draft.text) if draft.file is None else draft.text), None
    except TransientError as error:  # it may hold what nobody is to see: the whole record is given anew
        text, fault = "", str(error)
    if len(urlencode({"record": text})) > MOST_TYPED_BYTES:
        number = draft.letter.id
        raise TransientError(f"the record is too long for a page; `exchange dead-letters edit {number}` mends it")
    return visit.render(
        "dead_letters_edit.html",
        letter=draft.letter,
        fields=fields,
        as_json=as_json,
        text=text,
        fault=fault,
        checked=None,
        every=0,
    )


def check(visit: Visit) -> Response:
    """Say what is wrong with what somebody has typed so far, or what would change; nothing is kept."""
    draft = visit.exchange.dead_letters.begin_edit(_id(visit))
    return visit.render("dead_letters_checked.html", checked=_check(visit, draft, _typed(visit, draft)), every=0)


def save(visit: Visit) -> Response:
    """Keep what was typed as the letter's newest revision, and lead to what a retry would do with it."""
    letters, number = visit.exchange.dead_letters, _id(visit)
    reason = visit.required_reason
    draft = _as_begun(letters.begin_edit(number), visit.form.get("revision", ""))
    typed = _typed(visit, draft)
    done = letters.save_edit(draft, typed, reason, pointers=_pointers(draft, typed))
    said = f"dead letter {number} has revision {done.revision}:\n{done.difference}\nA retry takes it:"
    return visit.back(said, to=f"/dead-letters/rehearsal?letter={number}")


def _as_begun(draft: Draft, revision: str) -> Draft:
    """Give the draft as of the revision that the form shows: a newer one refuses what is saved now."""
    if not (revision.isascii() and revision.isdecimal() and len(revision) <= MOST_REVISION_DIGITS):
        raise RefusedArgument("the form does not say which revision it began with; load the page again")
    return replace(draft, letter=replace(draft.letter, revision=int(revision)))


def _check(visit: Visit, draft: Draft, typed: bytes) -> Mapping[str, Any]:
    """Check what was typed; give what is wrong, or what would change."""
    try:
        done = visit.exchange.dead_letters.check_edit(draft, typed)
    except EditRefused as refused:
        return {"fault": str(refused), "pointer": refused.pointer, "difference": ""}
    return {"fault": "", "pointer": "", "difference": done.difference}


def _id(visit: Visit) -> int:
    return int(visit.request.path_params["id"])


def _stream(draft: Draft) -> Stream | None:
    """Give the stream that the record is of; None if it says none of its channel's."""
    name = draft.letter.stream or (draft.value or {}).get("stream")
    return next((one for one in draft.channel.streams if one.name == name), None)


def _body(draft: Draft) -> dict[str, Any] | None:
    """Give the columns of the record with hidden values hidden, if it is one that has some."""
    body = (draft.shown or {}).get("data")
    return body if isinstance(body, dict) else None


def _fields(draft: Draft, stream: Stream) -> Iterator[Field]:
    """Give the columns of the schema in their order, then what the record has besides."""
    body = _body(draft) or {}
    columns = stream_schema(stream)["properties"]
    for name, rule in columns.items():
        yield replace(_field(name, body.get(name, _NOTHING), rule), key=name in stream.key_names)
    for name in body.keys() - columns.keys():
        yield _field(name, body[name], None)


def _field(name: str, value: Any, rule: Mapping[str, Any] | None) -> Field:
    kinds = _kinds(rule)
    how = ABSENT if value is _NOTHING else NULL if value is None and kinds else GIVEN
    hows = [GIVEN]
    choices = _choices(rule, kinds) if value != HIDDEN else []
    if choices and how == NULL:
        how = GIVEN  # it is one of the choices
    elif not choices and (how == NULL or (rule is not None and kinds and takes_null(rule))):
        hows.append(NULL)
    if how == ABSENT or rule is None:
        hows.append(ABSENT)
    text = _shown(value, rule) if how == GIVEN and value is not None else ""
    if how == GIVEN and _escaped(text) != text:
        how = KEPT
        hows.insert(0, KEPT)
    return Field(
        name,
        text,
        how,
        tuple(hows),
        tuple(choices),
        _rule_words(rule, kinds),
        long=len(text) > LONG or "\n" in text or "\r" in text,
        key=False,
    )


def _shown(value: Any, rule: Mapping[str, Any] | None) -> str:
    """Write a value into its field: text as such where the column takes nothing else, else as JSON."""
    return value if isinstance(value, str) and (value == HIDDEN or _is_text(rule)) else _json(value)


def _escaped(text: str) -> str:
    """Write a JSON text, or a value, with what does not show as it is by its code."""
    return "".join(one if one.isprintable() or one in "\r\n" else _json_escape(one) for one in text)


def _json_escape(character: str) -> str:
    return json.dumps(character)[1:-1]


def _kinds(rule: Mapping[str, Any] | None) -> list[str]:
    """Name the types that a column takes but null; none where it takes anything."""
    said = (rule or {}).get("type", [])
    return [one for one in ([said] if isinstance(said, str) else said) if one != "null"]


def _is_text(rule: Mapping[str, Any] | None) -> bool:
    return _kinds(rule) == ["string"]


def _choices(rule: Mapping[str, Any] | None, kinds: list[str]) -> list[str]:
    if rule and "enum" in rule:
        found = [_shown(one, rule) for one in rule["enum"] if one is not None]
    else:
        found = ["true", "false"] if kinds == ["boolean"] else []
    return ["", *found] if found and rule and takes_null(rule) else found


def _rule_words(rule: Mapping[str, Any] | None, kinds: list[str]) -> str:
    """Say in words what a column takes."""
    if rule is None:
        return "no column of the schema"
    said = [" or ".join(_WORDS.get(one, one) for one in kinds) or "any JSON"]
    said += [words.format(rule[one]) for one, words in _BOUNDS.items() if one in rule and rule[one] != NO_NUL]
    if takes_null(rule):
        said.append("may be null")
    return ", ".join(said)


NO_NUL = "^[^\\u0000]*$"
"""What every text keeps to."""
_BOUNDS = {
    "format": "as {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "pattern": "as {}",
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# What was typed


def _typed(visit: Visit, draft: Draft) -> bytes:
    """Give the record that a form means. Raises RefusedArgument for a form without one."""
    form = visit.form
    if "record" in form:
        return form["record"].encode("utf-8", "surrogateescape")
    stream = _stream(draft)
    body = _body(draft)
    if stream is None or body is None or draft.file is not None:
        raise RefusedArgument("the record has no columns that could be mended one by one; nothing was changed")
    columns = stream_schema(stream)["properties"]
    mended: dict[str, Any] = {}
    for name in dict.fromkeys((*body, *columns)):
        how = form.get(f"how:{name}")
        if how == NULL:
            mended[name] = None
        elif how == GIVEN:
            mended[name] = _value(form.get(f"value:{name}", ""), columns.get(name), body.get(name, _NOTHING))
        elif how != ABSENT and name in body:
            mended[name] = body[name]
    return strict_json.dumps({**(draft.shown or {}), "data": mended})


def _value(typed: str, rule: Mapping[str, Any] | None, before: Any) -> Any:
    """Read a field: as it was if nobody touched it, text where the column takes nothing else; else JSON, else text."""
    if before is not _NOTHING and typed == _as_posted(_shown(before, rule)):
        return before
    if not typed and rule and takes_null(rule) and _choices(rule, _kinds(rule)):
        return None
    if _is_text(rule):
        return typed
    try:
        return strict_json.loads(typed.strip().encode())
    except RecordError:
        return typed


def _as_posted(text: str) -> str:
    """Give a text as it comes back from a form that nobody touched."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _pointers(draft: Draft, typed: bytes) -> list[str]:
    """Name what was changed, for the audit: places, never values."""
    if draft.file is not None:
        return draft.changed(typed)
    try:
        after = strict_json.loads(typed.strip())
    except RecordError:
        return []
    before, body = _body(draft), after.get("data") if isinstance(after, dict) else None
    if before is None or not isinstance(body, dict):
        return []
    names = dict.fromkeys((*before, *body))
    changed = [name for name in names if before.get(name, _NOTHING) != body.get(name, _NOTHING)]
    return [f"/data{json_pointer.join(name)}" for name in changed]


ROUTES = (
    look("/dead-letters/{id:int}/edit", edit, least=Role.OPERATOR),
    act("/dead-letters/{id:int}/check", check, "edit_dead_letter"),
    act("/dead-letters/{id:int}/edit", save, "edit_dead_letter"),
)
