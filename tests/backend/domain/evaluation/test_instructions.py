"""IFEval's checks: one answer that follows and one that does not, and equality with lm-evaluation-harness."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from backend.domain.evaluation.instructions import (
    CHECKS,
    check_instructions,
    check_row,
    estimate_followed,
    followed_values,
    loose_versions,
)
from backend.errors import InvalidInput

EXAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["river", "stone"]}, "A Stone in the river", "A stone"),
    "keywords:frequency": ({"keyword": "sun", "frequency": 2, "relation": "at least"}, "Sun and sun", "the sun"),
    "keywords:forbidden_words": ({"forbidden_words": ["rain"]}, "trains run", "Rain falls"),
    "keywords:letter_frequency": ({"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "One", "Eel"),
    "language:response_language": (
        {"language": "de"},
        "Das ist ein schöner Tag im Sommer.",
        "This is a fine day in summer.",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 2, "relation": "at least"},
        "Dr. Smith left. He ran.",
        "Dr. Smith left.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n***\n \n***\ntwo"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "less than"}, "two words", "three words here"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        "First.\n\n'Then, it went.",
        "Then.\n\nFirst.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] at [place]", "[name] at place"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Bye.\nP. S. Call me", "Bye. PS Call me"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", "* one\n** two **"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* and **two**", "*one* and ** **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1 a\nSection 2 b",
        "SECTION 1",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<poem of joy>>", "<< >>"),
    "combination:two_responses": ({}, "one ****** two", "one ****** one"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So be it. the end."', "The end. Almost"),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG day",
        "A big day",
    ),
    "change_case:english_capital": ({}, "THIS IS A FINE DAY IN SUMMER", "This is a fine day in summer"),
    "change_case:english_lowercase": ({}, "this is a fine day in summer", "THIS IS A FINE DAY"),
    "punctuation:no_comma": ({}, "no comma; none", "one, two"),
    "startend:quotation": ({}, ' "all of it" ', '"'),
}


def test_there_is_an_example_of_every_instruction() -> None:
    assert set(EXAMPLES) == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_instruction_is_followed_or_not(name: str) -> None:
    arguments, followed, broken = EXAMPLES[name]
    assert check_instructions(followed, [name], [arguments]).strict == (True,)
    assert check_instructions(broken, [name], [arguments]).strict == (False,)
    assert check_instructions("  ", [name], [arguments]).loose == (False,)


def test_loose_forgives_a_first_line_and_asterisks() -> None:
    answer = 'Sure, here it is:\n"**quoted**"'
    check = check_instructions(answer, ["startend:quotation", "punctuation:no_comma"], [{}, {}])
    assert (check.strict, check.loose) == ((False, False), (True, True))
    assert len(loose_versions(answer)) == len(set(loose_versions(answer)))


def test_scores_count_prompts_and_instructions() -> None:
    rows = [
        (["punctuation:no_comma", "startend:quotation"], '"a"'),
        (["punctuation:no_comma", "startend:quotation"], "a"),
    ]
    checks = [check_row(answer, {"instruction_id_list": names, "kwargs": [{}, {}]}) for names, answer in rows]
    scores = estimate_followed([followed_values(check) for check in checks])
    assert (scores["prompt_strict"].value, scores["instruction_strict"].value) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no instructions"),
        ({"instruction_id_list": ["x:y"], "kwargs": [{}]}, "no instruction 'x:y'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": None}]}, "lacks keywords"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "0 sets of arguments"),
        (
            {
                "instruction_id_list": ["length_constraints:number_words"],
                "kwargs": [{"num_words": 3, "relation": "at most"}],
            },
            "relation 'at most'",
        ),
    ],
)
def test_a_row_that_can_not_be_checked_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_row("x", row)


def test_a_keyword_that_is_no_pattern_is_taken_literally() -> None:
    assert check_instructions("I write c++ daily", ["keywords:existence"], [{"keywords": ["c++", "(d"]}]).strict == (
        False,
    )
    assert check_instructions("I write c++ daily (d", ["keywords:existence"], [{"keywords": ["c++", "(d"]}]).strict == (
        True,
    )


def test_the_harness_judges_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness needs NLTK's Punkt model in a folder; it is written from the package that holds the same model."""
    nltk, punkt = pytest.importorskip("nltk"), pytest.importorskip("punkt")
    model, folder = punkt.load_model("english"), tmp_path / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    (folder / "abbrev_types.txt").write_text("\n".join(model.abbrev_types))
    (folder / "sent_starters.txt").write_text("\n".join(model.sent_starters))
    (folder / "collocations.tab").write_text("\n".join("\t".join(pair) for pair in model.collocations))
    (folder / "ortho_context.tab").write_text(
        "\n".join(f"{word}\t{int(flags)}" for word, flags in model.ortho_context.items())
    )
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    harness = pytest.importorskip("lm_eval.tasks.ifeval.utils")
    draw = random.Random(0)
    pieces = [text for _, first, second in EXAMPLES.values() for text in (first, second)]
    names = list(EXAMPLES)
    for _ in range(40):
        chosen = draw.sample(names, 4)
        arguments = [EXAMPLES[name][0] for name in chosen]
        answer = draw.choice([" ", "\n", "\n\n", "\n***\n"]).join(draw.sample(pieces, draw.randint(1, 6)))
        given = harness.InputExample(1, chosen, "prompt", arguments)
        check = check_instructions(answer, chosen, arguments)
        assert list(check.strict) == harness.test_instruction_following_strict(given, answer).follow_instruction_list
        assert list(check.loose) == harness.test_instruction_following_loose(given, answer).follow_instruction_list
