"""Answers compared as text: SQuAD's rules, verbatim, containment, numbers."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks.mlqa import utils as squad

from backend.domain.evaluation.metrics.answers import contains, exact_match, f1, normalise_answer, verbatim_match
from backend.domain.evaluation.metrics.numbers import last_number, numeric_match, read_number, read_numbers

TEXTS = st.text(alphabet="aAn theU.S'-,!xyé ", max_size=24)


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "overlap"),
    [
        ("US", ["U.S."], 1, 1),
        ("its", ["it's"], 1, 1),
        ("The Old Mill.", ["old mill"], 1, 1),
        ("Paris!", ["London", "paris"], 1, 1),
        ("in the old mill", ["old mill"], 0, 0.8),
        ("", ["mill"], 0, 0),
        ("", [""], 1, 1),
        ("anything", [], 0, 0),
        ("", [], 1, 1),
        ("It is 1,000.", ["1000"], 0, 0.5),
        ("1,000", ["1000"], 1, 1),
    ],
)
def test_answers_are_normalised_as_squad_does(
    prediction: str, references: list[str], exact: float, overlap: float
) -> None:
    assert exact_match(prediction, references) == exact
    assert f1(prediction, references) == pytest.approx(overlap)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_squads_script_gives_the_same(prediction: str, reference: str) -> None:
    assert normalise_answer(prediction) == squad.normalize_answer(prediction, "en")
    if normalise_answer(prediction) or normalise_answer(reference):  # SQuAD 1.1 has no empty answers
        assert f1(prediction, [reference]) == pytest.approx(squad.f1_score(prediction, reference, "en"))
    if not reference.strip() or any(mark.isalnum() for mark in reference):
        assert exact_match(prediction, [reference]) == squad.exact_match_score(prediction, reference, "en")


@pytest.mark.parametrize(("prediction", "reference"), [("3.5", "35"), ("-4", "4"), ("( [", "] )"), ("-", "+")])
def test_answers_that_lose_their_meaning_by_normalising_are_not_equal(prediction: str, reference: str) -> None:
    """SQuAD's script drops every sign and point, so that these would be right."""
    assert exact_match(prediction, [reference]) == 0
    assert exact_match(reference, [reference]) == 1


CHINESE = st.text(alphabet="北京市的首都是上海。，？", max_size=16)


@settings(max_examples=200, deadline=None)
@given(CHINESE, CHINESE)
def test_characters_of_chinese_are_tokens_as_in_the_script_of_mlqa(prediction: str, reference: str) -> None:
    assert normalise_answer(prediction) == squad.normalize_answer(prediction, "zh")
    if normalise_answer(prediction) or normalise_answer(reference):
        assert f1(prediction, [reference]) == pytest.approx(squad.f1_score(prediction, reference, "zh"))
    if any(mark.isalnum() for mark in reference):
        assert exact_match(prediction, [reference]) == squad.exact_match_score(prediction, reference, "zh")


@pytest.mark.parametrize(
    ("prediction", "reference", "overlap"),
    [
        ("中国的首都是北京。", "北京", 2 * 2 / 10),
        ("答案是42个。", "42", 2 * 1 / 6),
        ("เมืองหลวงของประเทศไทยคือกรุงเทพมหานคร", "กรุงเทพมหานคร", None),
        ("日本の首都は東京です。", "東京", 2 * 2 / 12),
        ("スーパーで買った", "スーパー", 2 * 4 / 12),
        ("수도는 서울입니다.", "서울", 2 * 2 / 10),
        ("រាជធានីគឺភ្នំពេញ", "ភ្នំពេញ", None),
    ],
    ids=["Chinese", "number in Chinese", "Thai", "Japanese", "Katakana", "Korean", "Khmer"],
)
def test_an_answer_without_spaces_that_holds_the_reference_counts(
    prediction: str, reference: str, overlap: float | None
) -> None:
    """Both scores were 0: the whole sentence was one word."""
    assert contains(prediction, [reference]) == 1
    assert contains(reference, [prediction]) == 0
    share = f1(prediction, [reference])
    assert 0 < share < 1
    if overlap is not None:
        assert share == pytest.approx(overlap)


def test_marks_of_eastern_scripts_and_spaces_between_their_characters_decide_nothing() -> None:
    assert exact_match("北 京。", ["北京"]) == 1
    assert exact_match("「東京」", ["東京"]) == 1
    assert exact_match("上海", ["北京"]) == 0
    assert contains("Hotel", ["hot"]) == 0  # scripts with spaces still count whole words
    assert normalise_answer("Ann’s “hat”") == "ann’s “hat”"  # as SQuAD's script, which leaves marks beyond ASCII


def test_an_answer_is_contained_as_words() -> None:
    assert contains("She lives in the old mill, I think.", ["Old Mill"]) == 1
    assert contains("millstone", ["mill"]) == 0
    assert contains("a ] b", ["]"]) == 1
    assert contains("a b", ["", "  "]) == 0


def test_verbatim_options_are_those_of_the_harness() -> None:
    harness = pytest.importorskip("lm_eval.api.metrics").exact_match_hf_evaluate
    options = {
        "ignore_case": True,
        "ignore_punctuation": True,
        "ignore_numbers": True,
        "regexes_to_ignore": [",", r"\$"],
    }
    for prediction, reference in [("$1,000 Dollars.", "dollars"), ("x", "X"), ("a b", "ab"), ("#### 5", "####")]:
        for chosen in ({}, {"ignore_case": True}, options):
            expected = harness([prediction], [reference], **chosen)["exact_match"]
            assert verbatim_match(prediction, [reference], **chosen) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1939-1945", [1939, 1945]),
        ("-5", [-5]),
        ("from -3 to −4", [-3, -4]),
        ("1,000", [1000]),
        ("$1,234.50", [1234.5]),
        ("-$5, $-5", [-5, -5]),
        ("12%", [12]),
        ("3/4 or 1 1/2, on 11/27/2026", [0.75, 1.5, 11, 27, 2026]),
        (r"\boxed{\frac{3}{4}}", [0.75]),
        ("H2O, 3.11.7, word--5", [5]),
        ("5,6,7.", [5, 6, 7]),
        ("2.5e-3 and .5 and 5/0", [0.0025, 0.5, 5, 0]),
        ("x=-3; 8 - 3; 8-3", [-3, 8, 3, 8, 3]),
        ("3,14 and 0,125 and 12345,678", [3.14, 0.125, 12345.678]),
        ("1.234,56 €, -1.234.567,8, 1.234.567", [1234.56, -1234567.8, 1234567]),
        ("1\u202f234,56 and 12'345.67 and 1\u00a0234\u00a0567", [1234.56, 12345.67, 1234567]),
        ("12,34,567.5", [1234567.5]),
        ("1,234 and 1.234", [1234, 1.234]),
        ("(3,14), f(1,2), {4,5} and (3,14 m)", [3, 14, 1, 2, 4, 5, 3.14]),
        ("192.168.100.200 and 192.168.1.1", []),
        ("3,14 %; 2,5.", [3.14, 2.5]),
        ("9" * 5000, []),
        ("seven", []),
    ],
)
def test_numbers_are_read_with_sign_and_separators(text: str, numbers: list[float]) -> None:
    assert read_numbers(text) == numbers
    assert last_number(text) == (numbers[-1] if numbers else None)


@given(st.integers(-(10**9), 10**9))
def test_a_number_written_in_any_way_is_read_back(value: int) -> None:
    assert {read_number(text) for text in (str(value), f"{value:,}", f" {value:,}. ", f"{value}%")} == {float(value)}
    assert last_number(f"so the answer is {value:,}.") == value


@given(st.decimals(-(10**7), 10**7, places=2))
def test_a_number_with_a_decimal_comma_is_read_back(value: Decimal) -> None:
    english = f"{value:,}"
    german = english.translate(str.maketrans(".,", ",."))
    assert {read_number(text) for text in (english, german, f"{value}", f"{value}".replace(".", ","))} == {float(value)}
    assert numeric_match(f"Die Antwort ist {german}.", [english]) == 1


def test_the_last_number_decides() -> None:
    assert numeric_match("So 3 + 4 = 7.", ["#### 7"]) == 1
    assert numeric_match("7 of 8", ["7"]) == 0
    assert numeric_match("none", ["none"]) == 0
