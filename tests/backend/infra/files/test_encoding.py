"""Text in other encodings is read as the same UTF-8, whatever the size of a read; nothing undecodable is lost."""

from __future__ import annotations

import io

import pytest

from backend.domain.data.parsing.encodings import ENCODINGS
from backend.errors import InvalidInput
from backend.infra.files.encoding import Utf8Stream, check_encoding, guess_encoding, guess_wide_encoding

TEXT = "Größe, 漢字, 😀\nsecond line\n"


def read_all(stream: Utf8Stream, size: int) -> bytes:
    return b"".join(iter(lambda: stream.read(size), b""))


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (TEXT.encode(), None),
        (TEXT.encode("utf-8-sig"), None),
        (TEXT.encode("utf-16"), None),
        (TEXT.encode("utf-32"), None),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "cp1252"),
        (TEXT.encode("utf-16-le"), "utf-16-le"),
    ],
    ids=["utf-8", "its mark", "utf-16", "utf-32", "a mark outweighs a name", "by name"],
)
def test_a_stream_is_utf_8_without_its_mark(data: bytes, encoding: str | None, size: int) -> None:
    assert read_all(Utf8Stream(io.BytesIO(data).read, encoding=encoding), size).decode() == TEXT


def test_bytes_that_can_not_be_decoded_are_kept() -> None:
    data = "ab".encode("utf-16-le") + b"\x00\xd8" + "c".encode("utf-16-le")
    text = read_all(Utf8Stream(io.BytesIO(data).read, encoding="utf-16-le"), 4096)
    assert text == b"ab\x00\xd8c"


@pytest.mark.parametrize("data", [TEXT.encode(), TEXT.encode("utf-8-sig"), TEXT.encode("utf-16")])
@pytest.mark.parametrize("skipped", [0, 1, 5, 20, 1000])
def test_what_is_skipped_is_what_would_have_been_read(data: bytes, skipped: int) -> None:
    source = io.BytesIO(data)
    stream = Utf8Stream(source.read, skip=lambda size: source.seek(size, io.SEEK_CUR) and None)
    stream.skip(skipped)
    assert read_all(stream, 7) == TEXT.encode()[skipped:]


@pytest.mark.parametrize("data", [TEXT.encode(), TEXT.encode("utf-16")])
def test_a_buffer_is_filled_with_the_same_bytes(data: bytes) -> None:
    source = io.BytesIO(data)
    stream, buffer, out = Utf8Stream(source.read), bytearray(5), b""
    while count := stream.read_into(memoryview(buffer), source.readinto):
        out += buffer[:count]
    assert out == TEXT.encode()


def test_encodings_are_known_by_their_aliases_and_others_are_named() -> None:
    assert check_encoding("windows-1252") == check_encoding("CP1252") == "cp1252"
    with pytest.raises(InvalidInput, match="'klingon' is not an encoding"):
        check_encoding("klingon")


def test_encodings_are_guessed_from_bytes() -> None:
    assert guess_encoding("Die Größe der Brücke beträgt zwölf Fuß, sagte Jürgen.".encode("cp1252")) == "cp1252"
    assert guess_wide_encoding("plain words".encode("utf-16-le")) == "utf-16-le"
    assert guess_wide_encoding("plain words".encode("utf-16-be")) == "utf-16-be"
    assert guess_wide_encoding(b"plain words") is None
    assert guess_wide_encoding(b"") is None


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("data", ["これは".encode("shift_jis") * 9, b"\xff\xfe\xfa" * 3, b"a", b""])
def test_bytes_in_any_encoding_are_read_or_refused(name: str, data: bytes) -> None:
    """The import form ended with "went wrong on our side" where utf-16 was chosen for a file of Shift JIS."""
    if name in ("utf-16", "utf-32") and data and not data.startswith(b"\xff\xfe"):
        with pytest.raises(InvalidInput, match="does not begin with the mark"):
            Utf8Stream(io.BytesIO(data).read, encoding=name)
        return
    text = read_all(Utf8Stream(io.BytesIO(data).read, encoding=name), 4096)
    assert bool(text) == bool(data.removeprefix(b"\xff\xfe"))
