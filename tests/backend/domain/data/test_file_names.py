"""Names of datasets by their files: what tells sets apart, never only "test"."""

from __future__ import annotations

import pytest

from backend.domain.data.file_names import bare_name, propose_name


@pytest.mark.parametrize(
    ("stem", "folder", "name"),
    [
        ("test", "gsm8k", "gsm8k-test"),
        ("input_data", "ifeval", "ifeval-input_data"),
        ("all_sentences", "winogender", "winogender-all_sentences"),
        ("train-00000-of-00001", "arc", "train-00000-of-00001"),
        ("question", "mt_bench", "mt_bench-question"),
        ("HumanEval", "humaneval", "HumanEval"),
        ("greetings", "letters", "greetings"),
        ("prompts", "", "prompts"),
        ("test", "data", ""),
        ("", "", ""),
    ],
)
def test_a_file_that_names_only_its_part_takes_its_folders_name(stem: str, folder: str, name: str) -> None:
    assert propose_name(stem, folder=folder) == name


@pytest.mark.parametrize(
    ("name", "bare"), [("gsm8k-test", "gsm8k"), ("ifeval-input_data", "ifeval"), ("Test 2", ""), ("a.b_c", "a.b_c")]
)
def test_the_bare_name_leaves_out_words_of_parts(name: str, bare: str) -> None:
    assert bare_name(name) == bare
