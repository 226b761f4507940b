"""Words and fertility against examples counted by hand and a second implementation; pieces against the bytes they stand
for.
"""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.tokenizers.counts import TokenCounts, count_words, small_languages
from backend.domain.tokenizers.pieces import BYTE_OF_LETTER, PieceForm, unknown_token

BY_HAND = {
    "": 0,
    "   \n\t": 0,
    "one": 1,
    "Don't panic - it is fine!": 5,  # the dash holds no letter
    "e-mail, 3.14 and x_y": 4,
    "___ ... ---": 0,
    "磨坊主问": 4,
    "東京 is big。": 4,  # two characters, two words; the full stop is none
    "ロボットrobot": 5,
    "กี่โมง": 6,  # code points, vowel signs among them
    "سأل الطحان": 2,
    "한국어 문장": 2,  # Korean puts spaces between words
    "a\u00a0b": 2,
}


@pytest.mark.parametrize(("text", "words"), BY_HAND.items(), ids=range(len(BY_HAND)))
def test_words_are_those_counted_by_hand(text: str, words: int) -> None:
    assert count_words(text) == words


def _second_implementation(text: str) -> int:
    """Walk over the characters with a flag instead of searching for runs."""
    total, has_letter = 0, False
    for letter in text + " ":
        name = unicodedata.name(letter, "")
        unspaced = name.startswith(
            ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER", "THAI CHARACTER")
        )
        if letter.isspace() or unspaced:
            total += has_letter + unspaced
            has_letter = False
        else:
            has_letter = has_letter or letter.isalnum()
    return total


@given(st.text(alphabet="ab1 .-_\n\u3000磨東ひカกé한ж", max_size=60))
def test_words_are_those_of_a_second_implementation(text: str) -> None:
    assert count_words(text) == _second_implementation(text)


def test_a_megabyte_without_a_letter_is_counted_in_one_pass() -> None:
    assert count_words("-" * 1_000_000) == 0  # a search that goes back at each place would take minutes


def test_measures_are_ratios_of_sums_and_nothing_is_divided_by_nothing() -> None:
    counts = TokenCounts(rows=1, bytes=24, characters=20, words=4, tokens=6, raw_bytes=3, single_bytes=4)
    counts.add(TokenCounts(rows=1, bytes=16, characters=16, words=6, tokens=9, unknown=3, changed=1))
    measures = counts.measures()
    assert (measures["rows"], measures["tokens"], measures["words"], measures["changed"]) == (2, 15, 10, 1)
    assert measures["fertility"] == pytest.approx(1.5)
    assert measures["bytes_per_token"] == pytest.approx(40 / 15)
    assert measures["characters_per_token"] == pytest.approx(36 / 15)
    assert (measures["unknown_share"], measures["raw_byte_share"]) == (pytest.approx(0.2), pytest.approx(0.2))
    assert measures["single_byte_share"] == pytest.approx(4 / 15)
    empty = TokenCounts().measures()
    assert empty["fertility"] is None
    assert empty["bytes_per_token"] is None


def test_small_languages_are_put_together() -> None:
    sizes = {"en": 900, "de": 90, "fr": 6, "it": 4}
    assert small_languages(sizes, share=0.005, most=12) == {"it"}
    assert small_languages(sizes, share=0, most=2) == {"fr", "it"}


def test_letters_of_bytes_are_gpt2s() -> None:
    assert sorted(BYTE_OF_LETTER.values()) == list(range(256))
    assert (BYTE_OF_LETTER["Ġ"], BYTE_OF_LETTER["Ċ"], BYTE_OF_LETTER["a"], BYTE_OF_LETTER["Ā"]) == (32, 10, 97, 0)


def test_pieces_stand_for_the_bytes_of_their_form() -> None:
    level = PieceForm.of_decoder('{"type":"ByteLevel","add_prefix_space":false}')
    assert (level.bytes_of("Ġcaf"), level.bytes_of("Ã©"), level.bytes_of("Ã")) == (b" caf", "é".encode(), b"\xc3")
    assert [level.is_raw_byte(piece) for piece in ("Ã", "a", "Ã©")] == [True, False, False]
    marked = PieceForm.of_decoder(
        '{"decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"}]}'
    )
    assert (marked.bytes_of("▁a"), marked.bytes_of("<0x0A>"), marked.bytes_of("<0xZZ>")) == (b" a", b"\n", b"<0xZZ>")
    assert [marked.is_raw_byte(piece) for piece in ("<0x0A>", "a")] == [True, False]
    plain = PieceForm.of_decoder("")
    assert (plain.bytes_of("▁a"), plain.bytes_of("<0x0A>"), plain.is_raw_byte("<0x0A>")) == (
        "▁a".encode(),
        b"<0x0A>",
        False,
    )


def test_the_unknown_token_is_found_in_each_model() -> None:
    assert unknown_token({"model": {"type": "WordLevel", "unk_token": "?", "vocab": {"a": 0, "?": 1}}}) == (1, "?")
    assert unknown_token({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}) == (0, "<unk>")
    assert (
        unknown_token({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]], "byte_fallback": True}})
        is None
    )
    assert unknown_token({"model": {"type": "BPE", "unk_token": None, "vocab": {}}}) is None
    added = {
        "added_tokens": [{"content": "<unk>", "id": 7}],
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {}},
    }
    assert unknown_token(added) == (7, "<unk>")
    assert unknown_token({}) is None
