import io

import pytest

from exchange.format.errors import TransientError, Untrusted
from exchange.format.signed_file import FileFault, LineWriter, read_lines, read_tail
from exchange.format.signing import SigningKey, TrustedKeys

KEY = SigningKey.generate("writer")
LINES = [b'{"a":1}', b'{"b":2}']


def written(key: SigningKey | None = KEY) -> tuple[io.BytesIO, LineWriter]:
    out = io.BytesIO()
    writer = LineWriter(out)
    for line in LINES:
        writer.add(line + b"\n")
    writer.end(b'{"ending":true}', key)
    return out, writer


def test_lines_ending_and_signature_are_read_as_they_were_written() -> None:
    file, writer = written()
    tail = read_tail(file)
    assert (tail.line, tail.start) == (b'{"ending":true}', writer.bytes)
    TrustedKeys({"writer": KEY.private.public_key()}).check(tail.line, tail.signature, "it")
    assert list(read_lines(file, writer.bytes, writer.sha256, 100)) == [*enumerate(LINES, 1)]


def test_a_file_may_be_unsigned() -> None:
    tail = read_tail(written(None)[0])
    assert (tail.line, tail.signature) == (b'{"ending":true}', None)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "it is empty"),
        (b'{"ending":true}', "it ends within a line: the end is missing"),
        (KEY.sign(b"").encode() + b"\n", "it has no ending"),
    ],
)
def test_a_file_without_its_end_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(FileFault, match=f"^{words}$"):
        read_tail(io.BytesIO(content))


def test_what_is_no_signature_in_its_place_is_not_trusted() -> None:
    with pytest.raises(Untrusted):
        read_tail(io.BytesIO(b'{"ending":true}\n{"algorithm":5}\n'))


def test_changed_bytes_and_lines_too_long_are_refused() -> None:
    file, writer = written()
    with pytest.raises(FileFault, match="it was changed or damaged"):
        list(read_lines(file, writer.bytes, "0" * 64, 100))
    with pytest.raises(FileFault, match="line 1 is longer than 5 bytes"):
        list(read_lines(file, writer.bytes, writer.sha256, 5))


def test_a_full_disk_is_said() -> None:
    class Full(io.BytesIO):
        def write(self, _piece: object) -> int:
            return 0

    with pytest.raises(TransientError, match="the disk may be full"):
        LineWriter(Full()).add(b"{}\n")
