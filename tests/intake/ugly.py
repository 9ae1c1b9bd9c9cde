"""A folder of ugly files, made at run time, and for each what must come of it.

Every file has ids of its own, so that all of them may be dropped at once. Whoever writes one says which rows are
loaded, which lines become letters and for which column and class of error, or what the sentence says that refuses it.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
import zstandard

from exchange.channels import Channel, Stream
from exchange.channels.intake import Intake, Written

metadata = sa.MetaData()
thing = sa.Table(
    "thing",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(40), nullable=False),
    sa.Column("price", sa.Numeric(8, 2)),
    sa.Column("day", sa.Date),
    sa.Column("seen", sa.DateTime(timezone=True)),
    sa.Column("weight", sa.Float),
    sa.Column("good", sa.Boolean),
    sa.Column("code", sa.String(20)),
    sa.Column("note", sa.Text),
    sa.Column("facts", sa.JSON(none_as_null=True)),
)
kinds = sa.Table(
    "kinds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("small", sa.SmallInteger),
    sa.Column("big", sa.BigInteger),
    sa.Column("money", sa.Numeric(6, 2)),
    sa.Column("real", sa.REAL),
    sa.Column("truth", sa.Boolean),
    sa.Column("word", sa.String(5)),
    sa.Column("fixed", sa.CHAR(4)),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column("naive", sa.DateTime),
    sa.Column("aware", sa.DateTime(timezone=True)),
    sa.Column("span", sa.Interval),
    sa.Column("uuid", sa.Uuid),
    sa.Column("choice", sa.Enum("a", "b", name="choice")),
    sa.Column("octets", sa.LargeBinary),
    sa.Column("document", sa.JSON(none_as_null=True)),
)
channels = [Channel("ugly", "plant", "office", [Stream(thing), Stream(kinds)])]
_GERMAN = Written(encoding="windows-1252", decimal=",", dates=["%d.%m.%Y"], time_zone="Europe/Berlin")
_AMERICAN = Written(dates=["%m/%d/%Y"], nulls=["", "NULL", "N/A"])
intakes = [
    Intake("plain", thing, folder="drop/plain", bad_share=1),
    Intake("german", thing, folder="drop/german", bad_share=1, written=_GERMAN),
    Intake("american", thing, folder="drop/american", bad_share=1, written=_AMERICAN),
    Intake("kinds", kinds, folder="drop/kinds", bad_share=1),
]

Letters = Mapping[int, tuple[str, str]]
"""By the line in which the row begins: the column at fault, if it is one, and the classes that its error may have."""


@dataclass(frozen=True)
class Ugly:
    """One file, and what must come of it."""

    name: str
    content: bytes
    rows: int = 0
    """How many are loaded."""
    letters: Letters = field(default_factory=dict)
    refused: str = ""
    """What the sentence says, as a pattern, if the file is refused."""
    intake: str = "plain"
    holds: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    """Some of its rows by their ids: values as the stream's records have them."""


def files(seed: int = 0) -> list[Ugly]:
    """Make all but the large ones."""
    made: list[Ugly] = []
    for make in (_quotes, _ragged, _columns, _controls, _line_ends, _encodings, _spreadsheets, _numbers, _dates):
        made += _with_ids(make, len(made))
    for make in (_words, _keys, _sizes, _compressed, _json_lines, _all_kinds):
        made += _with_ids(make, len(made))
    made += [_shuffled(random.Random(seed), 1_000_000 + 1_000 * seed)]
    assert len({(one.intake, one.name) for one in made}) == len(made)
    return made


def large(seed: int = 0) -> Iterator[Ugly]:
    """Make those that take memory and time to make, one after the other."""
    del seed
    start = 2_000_000
    for name, length in (("a-line-of-17-mb", 17 * 2**20), ("a-cell-of-100-mb", 100 * 2**20)):
        content = _csv(f"{start},one", f'{start + 1},"{"a" * length}"', f"{start + 2},three")
        yield Ugly(f"{name}.csv", content, 2, {3: ("", "long")})
        start += 10
    bomb = gzip.compress(
        _csv(f"{start},one") + f"{start + 1},".encode() + bytes(97 for _ in range(300 * 2**20)) + b"\n"
    )
    yield Ugly("bomb.csv.gz", bomb, 1, {3: ("", "long")})
    header = io.BytesIO()
    with zipfile.ZipFile(header, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.csv", b"id," * (100 * 2**20))
    yield Ugly("bomb-of-a-header.zip", header.getvalue(), refused="header|column|no text|times|long")


def write(folder: Path, made: list[Ugly]) -> dict[str, Path]:
    """Write files into the folders of their intakes below ``folder``; give where, by their names."""
    places = {}
    for one in made:
        place = folder / "drop" / one.intake / one.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(one.content)
        places[f"{one.intake}/{one.name}"] = place
    return places


Make = Callable[[int], Iterator[Ugly]]


def _with_ids(make: Make, number: int) -> list[Ugly]:
    """Make some files whose ids begin where no other's do: a hundred each."""
    return [*make(10_000 * (number + 1))]


def _csv(*lines: str, header: str = "id,name") -> bytes:
    return "".join(f"{line}\n" for line in (header, *lines)).encode()


def _shuffled(draw: random.Random, start: int) -> Ugly:
    """Make rows of anything, quoted as it should be."""
    alphabet = "ab \",;\t\r\n'\\=+-@\u2028\u0085ü€😀\ufeff"
    names = ["".join(draw.choices(alphabet, k=draw.randrange(1, 30))) for _ in range(50)]
    quoted = [name.replace('"', '""') for name in names]
    lines = [f'{start + at},"{name}"' for at, name in enumerate(quoted)]
    return Ugly("anything.csv", _csv(*lines), 50, holds={start + at: {"name": name} for at, name in enumerate(names)})


def _quotes(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly(
        "quotes-in-quotes.csv",
        _csv(f'{n},"a ""b"" c"', f'{n + 1},""""', f'{n + 2},"""a"""'),
        3,
        holds={n: {"name": 'a "b" c'}, n + 1: {"name": '"'}, n + 2: {"name": '"a"'}},
    )
    n += 100
    yield Ugly(
        "line-breaks.csv",
        _csv(f'{n},"a\nb"', f'{n + 1},"a\r\nb\rc"', f"{n + 2},", f'{n + 3},"\n"'),
        3,
        {7: ("name", "schema")},
        holds={n: {"name": "a\nb"}, n + 1: {"name": "a\r\nb\rc"}, n + 3: {"name": "\n"}},
    )
    n += 100
    yield Ugly("quote-in-a-plain-cell.csv", _csv(f'{n},a"b', f"{n + 1},b"), 1, {2: ("", "quoting")})
    n += 100
    yield Ugly("never-closed.csv", _csv(f"{n},a", f'{n + 1},"b', f"{n + 2},c", f"{n + 3},d"), 3, {3: ("", "quoting")})
    n += 100
    yield Ugly("behind-a-quote.csv", _csv(f'{n},"a"b', f"{n + 1},b"), 1, {2: ("", "quoting")})
    n += 100
    yield Ugly("blank-before-a-quote.csv", _csv(f'{n}, "a"', f"{n + 1},b"), 1, {2: ("", "quoting")})
    n += 100
    yield Ugly("single-quotes.csv", _csv(f"'{n}','a, \"b'", header="'id','name'"), 1, holds={n: {"name": 'a, "b'}})
    n += 100
    yield Ugly(
        "all-quoted.csv",
        _csv(f'"{n}","a","1.50",""', f'"{n + 1}","b","",""', header='"id","name","price","note"'),
        2,
        holds={n: {"price": "1.50", "note": ""}, n + 1: {"price": None}},
    )
    n += 100
    yield Ugly("delimiters-in-quotes.csv", _csv(f'{n},"a,b;c\td|e"'), 1, holds={n: {"name": "a,b;c\td|e"}})
    n += 100
    yield Ugly("backslash-escapes.csv", _csv(f'{n},"a \\"b\\" c"', f"{n + 1},b"), 1, {2: ("", "quoting")})
    n += 100
    yield Ugly("name with blanks, ümläute and 😀.csv", _csv(f"{n},a"), 1)


def _ragged(start: int) -> Iterator[Ugly]:
    n, three = start, "id,name,price"
    yield Ugly(
        "ragged.csv",
        _csv(f"{n},a", f"{n + 1},b,1,2", f"{n + 2},c,3", f"{n + 3}", header=three),
        1,
        {2: ("", "ragged"), 3: ("", "ragged"), 5: ("", "ragged")},
    )
    n += 100
    yield Ugly("trailing-delimiters.csv", _csv(f"{n},a,", f"{n + 1},b,", header="id,name,"), 2)
    n += 100
    yield Ugly("trailing-delimiters-of-rows.csv", _csv(f"{n},a,", f"{n + 1},b"), 1, {2: ("", "ragged")})
    n += 100
    yield Ugly("blank-lines.csv", _csv("", f"{n},a", "", "   ", f"{n + 1},b", "", ""), 2)
    n += 100
    yield Ugly(
        "blank-lines-before-the-header.csv", b"\n\r\n  \n" + _csv(f"{n},a", f"{n + 1},"), 1, {6: ("name", "schema")}
    )
    n += 100
    yield Ugly(
        "ragged-among-quotes.csv",
        _csv(f'{n},"a,b"', f'{n + 1},"c","d"', f'{n + 2},"e'),
        1,
        {3: ("", "ragged"), 4: ("", "quoting")},
    )
    n += 100
    yield Ugly("total-line.csv", _csv(f"{n},a,1.5", "total,,1.5", header=three), 1, {3: ("id", "cell")})
    n += 100
    yield Ugly("header-again.csv", _csv(f"{n},a") + _csv(f"{n + 1},b"), 2, {3: ("id", "cell")})


def _columns(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly("a-column-twice.csv", _csv(f"{n},a,b", header="id,name,name"), refused='"?name"? is in it 2 times')
    yield Ugly(
        "a-column-twice-in-other-letters.csv", _csv(f"{n},a,b", header="id,name,NAME"), refused="is in it 2 times"
    )
    yield Ugly("header-in-other-letters.csv", _csv(f"{n},a", header="ID, Name "), 1, holds={n: {"name": "a"}})
    n += 100
    yield Ugly("near-miss.csv", _csv(f"{n},a", header="id,nmae"), refused='"nmae" meant to be column name')
    yield Ugly("unknown-columns.csv", _csv(f"x,{n},y,a", header="size,id,colour,name"), 1, holds={n: {"name": "a"}})
    n += 100
    yield Ugly("required-column-missing.csv", _csv(f"{n},1.5", header="id,price"), refused='"name" is missing')
    yield Ugly("key-missing.csv", _csv("a,1.5", header="name,price"), refused='"id" is missing')
    yield Ugly("no-header.csv", f"{n},a\n{n + 1},b\n".encode(), refused="no column of it is one of stream thing")
    yield Ugly("other-order.csv", _csv(f"1.5,a,{n}", header="price,name,id"), 1, holds={n: {"price": "1.50"}})
    n += 100
    yield Ugly("empty-header-cell.csv", _csv(f"{n},,a", header="id,,name"), 1)
    n += 100
    yield Ugly("another-files-header.csv", _csv("1;2", header="alpha;beta"), refused="no column of it is one of stream")


def _controls(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly("nul-in-a-cell.csv", _csv(f"{n},a\0b", f"{n + 1},b"), 1, {2: ("name", "schema")})
    n += 100
    yield Ugly("nul-in-the-header.csv", _csv(f"{n},a", header="id,na\0me"), refused="no text")
    yield Ugly("binary.csv", random.Random(7).randbytes(10_000), refused="no text|no column|in UTF-8")
    yield Ugly("picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(1000), refused="picture")
    yield Ugly("letter.csv", b"%PDF-1.7\n" + b"x" * 1000, refused="PDF")
    yield Ugly("old-workbook.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000), refused="workbook")
    yield Ugly("columns.csv", b"PAR1" + bytes(1000), refused="Parquet")
    yield Ugly("database.csv", b"SQLite format 3\0" + bytes(1000), refused="SQLite")
    yield Ugly("zeros.csv", bytes(5000), refused="no text|empty|no column")
    yield Ugly(
        "controls-in-cells.csv",
        _csv(f'{n},"a\x0b\x0c\x1cb"', f"{n + 1},\x7f\x1b[31mred"),
        2,
        holds={n: {"name": "a\x0b\x0c\x1cb"}},
    )


def _line_ends(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly(
        "mixed-line-ends.csv",
        f"id,name\r\n{n},a\n{n + 1},b\r{n + 2},c\r\n{n + 3},\n".encode(),
        3,
        {5: ("name", "schema")},
    )
    n += 100
    yield Ugly("carriage-returns.csv", f"id,name\r{n},a\r{n + 1},b\r".encode(), 2)
    n += 100
    yield Ugly(
        "windows-line-ends.csv", _csv(f"{n},a", f"{n + 1},b").replace(b"\n", b"\r\n"), 2, holds={n: {"name": "a"}}
    )
    n += 100
    yield Ugly("no-last-line-end.csv", _csv(f"{n},a", f"{n + 1},b").rstrip(), 2)
    n += 100
    yield Ugly("no-last-line-end-of-a-bad-row.csv", _csv(f"{n},a", f"{n + 1}").rstrip(), 1, {3: ("", "ragged")})
    n += 100
    yield Ugly(
        "other-line-ends.csv",
        _csv(f"{n},a\u2028b", f"{n + 1},c\u0085d", f"{n + 2},e\x0cf"),
        3,
        holds={n: {"name": "a\u2028b"}, n + 1: {"name": "c\u0085d"}},
    )
    n += 100
    yield Ugly("two-carriage-returns.csv", f"id,name\r\r\n{n},a\r\r\n".encode(), 1)


def _encodings(start: int) -> Iterator[Ugly]:
    n = start
    text = f"id,name\n{n},grün €\n"
    yield Ugly("utf8-with-mark.csv", text.encode("utf-8-sig"), 1, holds={n: {"name": "grün €"}})
    for name, encoding, mark in (
        ("utf16le-with-mark", "utf-16-le", "\ufeff"),
        ("utf16be-with-mark", "utf-16-be", "\ufeff"),
        ("utf16le", "utf-16-le", ""),
        ("utf16be", "utf-16-be", ""),
        ("utf32-with-mark", "utf-32-le", "\ufeff"),
    ):
        n += 100
        text = f"{mark}id,name\n{n},grün €\n{n + 1},\n"
        yield Ugly(f"{name}.csv", text.encode(encoding), 1, {3: ("name", "schema")}, holds={n: {"name": "grün €"}})
    n += 100
    yield Ugly("two-marks.csv", b"\xef\xbb\xbf\xef\xbb\xbf" + _csv(f"{n},a"), 1)
    n += 100
    yield Ugly(
        "invalid-utf8.csv",
        _csv(f"{n},a", f"{n + 1},b") + f"{n + 2},".encode() + b"\xff\xfe\n",
        2,
        {4: ("", "encoding")},
    )
    n += 100
    yield Ugly(
        "windows-1252-untold.csv", f"id,name\n{n},plain\n{n + 1},grün\n".encode("cp1252"), 1, {3: ("", "encoding")}
    )
    n += 100
    yield Ugly(
        "windows-1252-in-the-header.csv", f"id,name,größe\n{n},a,1\n".encode("cp1252"), refused="windows-1252|UTF-8"
    )
    yield Ugly(
        "windows-1252-told.csv",
        f"id;name;price\r\n{n};grün €;1.234,50\r\n".encode("cp1252"),
        1,
        intake="german",
        holds={n: {"name": "grün €", "price": "1234.50"}},
    )
    n += 100
    lone = (
        "\ufeffid,name\n".encode("utf-16-le")
        + f"{n},a\n{n + 1},".encode("utf-16-le")
        + b"\x00\xd8"
        + "\n".encode("utf-16-le")
    )
    yield Ugly("half-surrogate.csv", lone, 1, {3: ("", "encoding")})
    n += 100
    yield Ugly(
        "utf16-cut.csv", f"\ufeffid,name\n{n},a\n{n + 1},b".encode("utf-16-le") + b"\x61", 1, {3: ("", "encoding")}
    )
    n += 100
    family = "👨\u200d👩\u200d👧"
    yield Ugly(
        "emoji.csv", _csv(f"{n},{family}", f"{n + 1},{'😀' * 40}", f"{n + 2},{'😀' * 41}"), 2, {4: ("name", "schema")}
    )
    n += 100
    yield Ugly("overlong-utf8.csv", _csv(f"{n},a") + f"{n + 1},".encode() + b"\xc0\xaf\n", 1, {3: ("", "encoding")})
    n += 100
    yield Ugly(
        "utf8-surrogates.csv", _csv(f"{n},a") + f"{n + 1},".encode() + b"\xed\xa0\x80\n", 1, {3: ("", "encoding")}
    )
    n += 100
    both = _csv(f"{n},a") + b"\xef\xbb\xbf" + _csv(f"{n + 1},b")
    yield Ugly("two-files-in-one.csv", both, 2, {3: ("id", "cell")})


def _spreadsheets(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly("sep.csv", f"sep=;\r\nid;name;price\r\n{n};a;1,50\r\n".encode(), 1, holds={n: {"price": "1.50"}})
    n += 100
    yield Ugly(
        "sep-line-numbers.csv", f"sep=;\r\nid;name\r\n{n};a\r\n{n + 1};\r\n".encode(), 1, {4: ("name", "schema")}
    )
    n += 100
    yield Ugly(
        "unicode-text.txt",
        f'\ufeffid\tname\tnote\r\n{n}\t"a\tb"\tc\r\n'.encode("utf-16-le"),
        1,
        holds={n: {"name": "a\tb"}},
    )
    for name, mark in (("semicolons", ";"), ("tabs", "\t"), ("pipes", "|")):
        n += 100
        yield Ugly(f"{name}.csv", f"id{mark}name\n{n}{mark}a, b\n".encode(), 1, holds={n: {"name": "a, b"}})
    n += 100
    rows = (f"{n},=1+1", f'{n + 1},"=HYPERLINK(""x"")"', f"{n + 2},-5", f"{n + 3},@SUM(A1)")
    yield Ugly("formulas.csv", _csv(*rows), 4, holds={n: {"name": "=1+1"}})
    n += 100
    bad = dict.fromkeys(range(2, 8), ("price", "cell"))
    prices = ("#N/A", "#REF!", "5%", "€ 5", "5 EUR", "1.5E+3")
    yield Ugly(
        "what-spreadsheets-write.csv",
        _csv(*(f"{n + at},a,{price}" for at, price in enumerate(prices)), f"{n + 9},b,2", header="id,name,price"),
        1,
        bad,
    )
    n += 100
    yield Ugly("shortened.csv", _csv("1.23457E+12,a", f"{n},b"), 1, {2: ("id", "cell")})
    n += 100
    many = ",".join(f"c{at}" for at in range(1998))
    cells = ",".join("x" for _ in range(1998))
    yield Ugly(
        "two-thousand-columns.csv",
        _csv(f"{n},a,{cells}", f"{n + 1},b", header=f"id,name,{many}"),
        1,
        {3: ("", "ragged")},
    )


def _numbers(start: int) -> Iterator[Ugly]:
    n, three = start, "id,name,price"
    yield Ugly(
        "thousands.csv", _csv(f'{n},a,"1,234.50"', f"{n + 1},b,7", header=three), 2, holds={n: {"price": "1234.50"}}
    )
    n += 100
    yield Ugly(
        "decimal-commas.csv",
        _csv(f"{n};a;1.234,50", f"{n + 1};b;7", f"{n + 2};c;0,5", header="id;name;price"),
        3,
        holds={n: {"price": "1234.50"}, n + 2: {"price": "0.50"}},
    )
    n += 100
    yield Ugly(
        "commas-and-points.csv",
        _csv(f"{n};a;1,5", f"{n + 1};b;1,234.50", f"{n + 2};c;2.5", header="id;name;price"),
        1,
        {2: ("price", "cell"), 3: ("price", "cell")},
        holds={n + 2: {"price": "2.50"}},
    )
    n += 100
    yield Ugly("one-comma-of-three-digits.csv", _csv(f'{n},a,"1,234"', header=three), 0, {2: ("price", "cell")})
    n += 100
    yield Ugly(
        "leading-zeros.csv",
        _csv(f"00{n},a,007,01.50", header="id,name,code,price"),
        1,
        holds={n: {"code": "007", "price": "1.50"}},
    )
    n += 100
    wrong = ("99999999999999999999", "0x10", "1_000", "\u0661", "1.5", "--1", "1e1", "")
    yield Ugly(
        "no-whole-numbers.csv",
        _csv(f"{n},a", *(f"{one},b" for one in wrong)),
        1,
        dict.fromkeys(range(3, 10), ("id", "cell")) | {10: ("id", "schema")},
    )
    n += 100
    weights = ("NaN", "inf", "1e400", "0.12345678901234567890")
    yield Ugly(
        "floats.csv",
        _csv(f"{n},a,1e3", *(f"{n + 1},b,{one}" for one in weights), f"{n + 2},c,-2.5", header="id,name,weight"),
        2,
        dict.fromkeys(range(3, 7), ("weight", "cell")),
        holds={n: {"weight": 1000.0}},
    )
    n += 100
    yield Ugly(
        "too-many-digits.csv",
        _csv(f"{n},a,123.456", f"{n + 1},b,1234567", f"{n + 2},c,1.100", f"{n + 3},d,+5", header=three),
        2,
        {2: ("price", "cell"), 3: ("price", "cell")},
        holds={n + 2: {"price": "1.10"}},
    )
    n += 100
    yield Ugly(
        "german-numbers.csv",
        f"id;name;price\n{n};a;1 234,50\n{n + 1};b;1\xa0234,50\n{n + 2};c;1.5\n".encode("cp1252"),
        2,
        {4: ("price", "cell")},
        intake="german",
        holds={n: {"price": "1234.50"}, n + 1: {"price": "1234.50"}},
    )


def _dates(start: int) -> Iterator[Ugly]:
    n, three = start, "id,name,day"
    yield Ugly(
        "dates-of-three-kinds.csv",
        _csv(
            f"{n},a,2026-11-22", f"{n + 1},b,22.11.2026", f"{n + 2},c,11/22/2026", f"{n + 3},d,22-Nov-26", header=three
        ),
        1,
        dict.fromkeys((3, 4, 5), ("day", "cell")),
    )
    n += 100
    yield Ugly(
        "german-dates.csv",
        _csv(
            f"{n};a;22.11.2026;22.11.2026",
            f"{n + 1};b;2026-11-22;2026-11-22 06:15",
            f"{n + 2};c;31.2.2026;",
            header="id;name;day;seen",
        ),
        2,
        {4: ("day", "cell")},
        intake="german",
        holds={
            n: {"day": "2026-11-22", "seen": "2026-11-21T23:00:00.000000Z"},
            n + 1: {"seen": "2026-11-22T05:15:00.000000Z"},
        },
    )
    n += 100
    yield Ugly(
        "american-dates.csv",
        _csv(f"{n},a,11/22/2026", f"{n + 1},b,22/11/2026", f"{n + 2},c,N/A", header=three),
        2,
        {3: ("day", "cell")},
        intake="american",
        holds={n: {"day": "2026-11-22"}, n + 2: {"day": None}},
    )
    n += 100
    wrong = ("2026-02-30", "2026-13-01", "26-11-22", "20261122", "0000-01-01", "10000-01-01", "today")
    yield Ugly(
        "no-days.csv",
        _csv(f"{n},a,2024-02-29", *(f"{n + 1},b,{one}" for one in wrong), header=three),
        1,
        dict.fromkeys(range(3, 10), ("day", "cell")),
    )
    n += 100
    moments = ("2026-11-22T06:15:00", "2026-11-22T06:15:00.1234567Z", "2026-11-22T24:00:00Z", "06:15")
    good = ("2026-11-22T06:15:00Z", "2026-11-22 08:15+02:00", "2026-11-22T06:15:00.123+00")
    yield Ugly(
        "moments.csv",
        _csv(
            *(f"{n + at},a,{one}" for at, one in enumerate(good)),
            *(f"{n + 9},b,{one}" for one in moments),
            header="id,name,seen",
        ),
        3,
        dict.fromkeys(range(5, 9), ("seen", "cell")),
        holds={n + 1: {"seen": "2026-11-22T06:15:00.000000Z"}, n + 2: {"seen": "2026-11-22T06:15:00.123000Z"}},
    )
    n += 100
    yield Ugly(
        "the-hour-twice.csv",
        f"id;name;seen\n{n};a;2026-10-25 02:30\n{n + 1};b;2026-10-25 03:30\n".encode(),
        1,
        {2: ("seen", "cell")},
        intake="german",
    )


def _words(start: int) -> Iterator[Ugly]:
    n = start
    words = ("true", "FALSE", "Yes", "n", "1", "0", "on", "")
    yield Ugly(
        "truths.csv",
        _csv(*(f"{n + at},a,{one}" for at, one in enumerate(words)), f"{n + 9},b,maybe", header="id,name,good"),
        8,
        {10: ("good", "cell")},
        holds={n: {"good": True}, n + 3: {"good": False}, n + 7: {"good": None}},
    )
    n += 100
    yield Ugly(
        "nulls.csv",
        _csv(f'{n},"",', f'{n + 1},NULL,""', f"{n + 2},,a", header="id,name,note"),
        2,
        {4: ("name", "schema")},
        holds={n: {"name": "", "note": None}, n + 1: {"name": "NULL", "note": ""}},
    )
    n += 100
    yield Ugly(
        "null-words.csv",
        _csv(f"{n},a,NULL", f'{n + 1},"NULL","N/A"', header="id,name,note"),
        2,
        intake="american",
        holds={n: {"note": None}, n + 1: {"name": "NULL", "note": "N/A"}},
    )
    n += 100
    yield Ugly(
        "blanks.csv",
        _csv(f" {n} , a , 1.5 ", header="id,name,price"),
        1,
        holds={n: {"name": " a ", "price": "1.50"}},
    )
    n += 100
    facts = (
        '"{""a"":[1,null]}"',
        "null",
        "5",
        '"""="""',
        "{a:1}",
        '"{""a"":1,""a"":2}"',
        "NaN",
        "[12345678901234567890123]",
        "[" * 100 + "]" * 100,
    )
    yield Ugly(
        "documents.csv",
        _csv(*(f"{n + at},a,{one}" for at, one in enumerate(facts)), header="id,name,facts"),
        5,
        dict.fromkeys((6, 7, 8, 10), ("facts", "cell")),
        holds={n: {"facts": {"a": [1, None]}}, n + 1: {"facts:json": None}, n + 3: {"facts": "="}},
    )


def _keys(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly(
        "keys-twice.csv",
        _csv(f"{n},first", f"{n + 1},b", f"{n},second", f"0{n},third"),
        2,
        {4: ("id", "unique"), 5: ("id", "unique")},
        holds={n: {"name": "first"}},
    )
    n += 100
    yield Ugly("too-long.csv", _csv(f"{n},{'a' * 40}", f"{n + 1},{'a' * 41}"), 1, {3: ("name", "schema")})


def _sizes(start: int) -> Iterator[Ugly]:
    n = start
    yield Ugly("empty.csv", b"", refused="empty")
    yield Ugly("empty.jsonl", b"", 0)
    yield Ugly("blank.csv", b" \n\n \r\n", refused="empty")
    yield Ugly("only-a-header.csv", _csv(header="id,name,price"), 0)
    yield Ugly("only-a-header-without-a-line-end.csv", b"id,name,note", 0)
    yield Ugly("only-a-mark.csv", b"\xef\xbb\xbf", refused="empty")
    yield Ugly("a-long-cell.csv", _csv(f'{n},a,"{"b" * 1_000_000}"', f"{n + 1},c,d", header="id,name,note"), 2)
    n += 100
    yield Ugly("many-rows.csv", _csv(*(f"{n + at},row {at}" for at in range(50)), "x,y"), 50, {52: ("id", "cell")})


def _compressed(start: int) -> Iterator[Ugly]:
    n = start

    def rows() -> bytes:
        nonlocal n
        n += 100
        return _csv(f"{n},a", f"{n + 1},")

    letter: Letters = {3: ("name", "schema")}
    yield Ugly("packed.csv.gz", gzip.compress(rows()), 1, letter)
    yield Ugly("packed.csv.zst", zstandard.compress(rows()), 1, letter)
    yield Ugly("packed.zip", _zip({"a.csv": rows()}), 1, letter)
    yield Ugly("packed-and-not-said.csv", gzip.compress(rows()), 1, letter)
    yield Ugly("not-packed-and-said.csv.gz", rows(), 1, letter)
    yield Ugly("two-pieces.csv.gz", gzip.compress(rows()) + gzip.compress(f"{n + 2},c\n".encode()), 2, letter)
    yield Ugly(
        "two-frames.csv.zst", zstandard.compress(rows()) + zstandard.compress(f"{n + 2},c\n".encode()), 2, letter
    )
    noise = random.Random(3)
    long = _csv(*(f"{n + 1000 + at},{noise.randbytes(15).hex()}" for at in range(3000)))
    yield Ugly("cut-short.csv.gz", gzip.compress(long)[:-20], refused="damaged or cut short")
    yield Ugly("cut-short.csv.zst", zstandard.compress(long)[:-20], refused="damaged or cut short")
    yield Ugly("cut-short.zip", _zip({"a.csv": long})[:-20], refused="damaged")
    yield Ugly("damaged.csv.gz", _spoilt(gzip.compress(long)), refused="damaged")
    yield Ugly("damaged.zip", _spoilt(_zip({"a.csv": long})), refused="damaged")
    yield Ugly("two-members.zip", _zip({"a.csv": rows(), "b.csv": rows()}), refused="2 files.*a.csv, b.csv")
    yield Ugly("no-member.zip", _zip({}), refused="0 files")
    yield Ugly("from-a-mac.zip", _zip({"a.csv": rows(), "__MACOSX/._a.csv": b"x"}), 1, letter)
    yield Ugly("workbook.csv", _zip({"[Content_Types].xml": b"x", "xl/a.xml": b"x"}), refused="workbook")
    yield Ugly("packed-twice.csv.gz", gzip.compress(gzip.compress(rows())), refused="compressed twice")
    yield Ugly("behind-the-end.csv.gz", gzip.compress(rows()) + b"garbage", refused="damaged|behind")
    yield Ugly("packed-with-bzip2.csv.bz2", b"BZh91AY&SY" + bytes(100), refused="bzip2")
    yield Ugly("empty.csv.gz", gzip.compress(b""), refused="empty")


def _zip(members: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _spoilt(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(one ^ 255 for one in packed[middle : middle + 8]) + packed[middle + 8 :]


def _json_lines(start: int) -> Iterator[Ugly]:
    n = start

    def lines(*written: object) -> bytes:
        return "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in written).encode()

    good = {"id": n, "name": "a", "price": 1.5, "facts": {"a": [1, None]}, "day": "2026-11-22"}
    yield Ugly(
        "rows.jsonl",
        lines(good, "", {"id": n + 1, "name": "b"}),
        2,
        holds={n: {"price": "1.50", "facts": {"a": [1, None]}}},
    )
    n += 100
    yield Ugly("with-a-mark.jsonl", b"\xef\xbb\xbf" + lines({"id": n, "name": "a"}), 1)
    n += 100
    deep = "[" * 100 + "]" * 100
    wrong = (
        f'{{"id":{n + 1},"name":"a","name":"b"}}',
        f'{{"id":{n + 1},"name":"a","weight":NaN}}',
        f'{{"id":{n + 1},"name":"a","facts":{deep}}}',
        f'{{"id":{n + 1},"name":"\\ud800"}}',
        f'{{"id":{n + 1},"name":"a",}}',
        f'{{"id":{n + 1},"name":"a"',
        f'{{"id":{n + 1},"name":"a"}} {{}}',
        f"{{'id':{n + 1}}}",
        "[1,2]",
        '"a"',
        "5",
        "null",
    )
    yield Ugly(
        "no-objects.jsonl",
        lines({"id": n, "name": "a"}, *wrong),
        1,
        dict.fromkeys(range(2, 14), ("", "json")),
    )
    n += 100
    columns: tuple[tuple[str, str, str], ...] = (
        ("id", "99999999999999999999", "json"),
        ("id", '"7"', "schema"),
        ("id", "1.5", "schema"),
        ("id", "true", "schema"),
        ("id", "null", "schema"),
        ("name", "5", "schema"),
        ("price", "1.005", "cell"),
        ("price", "[]", "schema"),
        ("price", '"1,5"', "cell"),
        ("day", '"22.11.2026"', "cell"),
        ("seen", '"2026-11-22T06:15:00"', "cell"),
        ("good", '"yes"', "schema"),
        ("weight", "1e400", "json"),
    )
    bad = [
        "{"
        + ",".join(f'"{name}":{value}' for name, value in ({"id": f"{n + 1}", "name": '"b"'} | {column: value}).items())
        + "}"
        for column, value, _ in columns
    ]
    every = {"id": n, "name": "a", "price": None, "day": None, "seen": None, "good": None, "weight": None}
    yield Ugly(
        "wrong-values.jsonl",
        lines(every, *bad),
        1,
        {at + 2: ("" if error == "json" else column, error) for at, (column, _, error) in enumerate(columns)},
    )
    n += 100
    yield Ugly("nul.jsonl", lines({"id": n, "name": "a"}, f'{{"id":{n + 1},"name":"a\\u0000"}}'), 1, {2: ("", "json")})
    n += 100
    yield Ugly("unknown-members.jsonl", lines({"id": n, "name": "a", "size": 5}, {"id": n + 1, "name": "b"}), 2)
    n += 100
    yield Ugly("array.json", json.dumps([{"id": n, "name": "a"}]).encode(), refused="array")
    yield Ugly("pretty.json", json.dumps({"id": n, "name": "a"}, indent=2).encode(), refused="one object a line")
    yield Ugly("member-missing.jsonl", lines({"id": n, "price": 5}), refused='"name" is missing')
    yield Ugly(
        "nulls.jsonl", lines({"id": n, "name": "a", "facts:json": None}, {"id": n + 1, "name": "b", "facts": None}), 2
    )


def _all_kinds(start: int) -> Iterator[Ugly]:
    n = start
    good = {
        "small": "1",
        "big": "9223372036854775807",
        "money": "1.50",
        "real": "0.1",
        "truth": "true",
        "word": "abcde",
        "fixed": "ab",
        "day": "2026-11-22",
        "clock": "06:15",
        "naive": "2026-11-22T06:15:00",
        "aware": "2026-11-22T06:15:00Z",
        "span": "P1DT2H",
        "uuid": "6513270E-2B1F-4D3C-9F7A-0C5F4F8A1D22",
        "choice": "a",
        "octets": "3q2+7w==",
        "document": "[]",
    }
    wrong = {
        "small": ("40000", "cell|schema"),
        "big": ("9223372036854775808", "cell|schema"),
        "money": ("1.234", "cell"),
        "real": ("0.1234567890123", "cell|value"),
        "truth": ("2", "cell"),
        "word": ("abcdef", "schema"),
        "fixed": ("ab ", "schema"),
        "day": ("2026-02-29", "cell|schema"),
        "clock": ("25:00", "cell"),
        "naive": ("2026-11-22T06:15:00Z", "cell"),
        "aware": ("2026-11-22T06:15:00", "cell"),
        "span": ("yesterday", "cell"),
        "uuid": ("6513270e", "cell"),
        "choice": ("c", "cell"),
        "octets": ("3q2+7?==", "cell|value|schema"),
        "document": ("{", "cell"),
    }
    names = [*good]
    lines = [",".join([str(n), *good.values()])]
    for at, name in enumerate(names):
        lines.append(",".join([str(n + at + 1), *(good | {name: wrong[name][0]}).values()]))
    lines.append(f"{n + 50}" + "," * len(names))
    yield Ugly(
        "wrong-kinds.csv",
        _csv(*lines, header=",".join(["id", *names])),
        2,
        {at + 3: (name, wrong[name][1]) for at, name in enumerate(names)},
        intake="kinds",
    )
