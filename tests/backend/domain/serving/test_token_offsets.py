"""Where tokens begin in a text: by a tokenizer's special tokens, bytes within characters, spaces and normalising."""

from __future__ import annotations

import pytest

from backend.domain.serving.token_offsets import TokenOffsets, token_bytes


@pytest.mark.parametrize(
    ("text", "pieces", "begins"),
    [
        ("Hi łódź", [b"<|bos|>", b"Hi", b" \xc5", b"\x82", b"\xc3\xb3d", b"\xc5\xba"], [0, 0, 2, 3, 4, 6]),
        ("Hello you", [b"<s>", b" Hello", b" you", b"</s>"], [0, 0, 5, 9]),
        (" Hello", [b" Hello"], [0]),
        ("<|bos|>x", [b"<|bos|>", b"<|bos|>", b"x"], [0, 7, 7]),
        ("HELLO you", [b"hello", b" you"], [0, 5]),
        ("", [b"<|bos|>"], [0]),
        ("</s><s>hello", [b"<s>", b"</s>", b"<s>", b"he", b"llo"], [0, 0, 4, 7, 9]),
    ],
    ids=[
        "special and split characters",
        "a space in front",
        "its own space",
        "spelt",
        "normalised",
        "empty",
        "another first",
    ],
)
def test_tokens_begin_where_the_text_has_them(text: str, pieces: list[bytes], begins: list[int]) -> None:
    offsets = TokenOffsets(text)
    assert offsets.of(pieces) == begins
    offsets.end_text()
    assert offsets.of([b" new", b"\xc3", b"\xa9", b"x"]) == [len(text) + n for n in (0, 4, 4, 5)]


def test_a_text_that_its_tokens_do_not_make_up_is_not_complete() -> None:
    offsets = TokenOffsets("Hello you")
    offsets.of([b"Hello", b"token_id:7"])
    assert not offsets.is_complete


def test_a_generated_text_counts_all_its_tokens() -> None:
    assert TokenOffsets().of([b"<|bos|>", b"\xc5", b"\x82", b"a"]) == [0, 7, 7, 8]


def test_bytes_of_a_token_as_an_api_shows_it() -> None:
    assert [token_bytes(shown) for shown in (r"bytes:\xc5\x82", "bytes:", "bytes: é", "é")] == [
        b"\xc5\x82",
        b"bytes:",
        "bytes: é".encode(),
        "é".encode(),
    ]
