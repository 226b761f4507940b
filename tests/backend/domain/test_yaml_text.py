"""YAML from outside stays small, plain and quick to refuse."""

from __future__ import annotations

import pytest

from backend.domain.training.config import parse_run_config
from backend.domain.training.config_fields import with_changes
from backend.domain.yaml_text import MAX_CHARACTERS, parse_yaml
from backend.errors import InvalidInput

LAUGHS = "name: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


def test_plain_yaml_is_read_unchanged() -> None:
    assert parse_yaml("a: 1\nb: [x, {c: 2.5}]\n", what="It") == {"a": 1, "b": ["x", {"c": 2.5}]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "aliases"),
        ("[" * 20_000, "nested too deeply"),
        ("width: " + "9" * 5000, "can't be read"),
        ("name: 2024-13-45", "can't be read"),
        ("#" * (MAX_CHARACTERS + 1), "characters"),
        ("a:\n\t- b", "line 2"),
        ("!!python/object/apply:os.getcwd []", "constructor"),
    ],
    ids=[
        "billion laughs",
        "deep nesting",
        "a number of 5000 digits",
        "a 13th month",
        "too long",
        "a tab",
        "a Python object",
    ],
)
def test_hostile_yaml_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_yaml(text, what="The recipe")


def test_a_message_quotes_at_most_a_line_of_the_input() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_run_config(f"dataset: tales\nname: {'x' * 5000}")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "line",
    [
        "seed: 99999999999999999999999",
        "weight_decay: .inf",
        "grad_clip: .inf",
        "preference: {beta: .inf}",
        "lora: {alpha: .inf}",
    ],
)
def test_a_number_that_no_trainer_could_take_is_refused_at_launch(line: str) -> None:
    with pytest.raises(InvalidInput, match=line.split(":")[0]):
        parse_run_config(f"dataset: tales\narchitecture: small\ntokenizer: pieces\n{line}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: c: d", "line 2, column 5"),
        ("a:\n\t- b", "line 2, column 1"),
        ("a: \x07", r"U\+0007"),
        ("a: [1, 2", "line 1"),
    ],
)
def test_a_syntax_error_is_one_line_with_its_place(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        parse_yaml(text, what="The recipe")
    assert "\n" not in str(caught.value)
    assert "unicode string" not in str(caught.value)


@pytest.mark.parametrize("value", ["2024-13-45", "[" * 400, "&a [*a]", "\0"])
def test_an_invalid_change_in_an_address_is_refused(value: str) -> None:
    config = parse_run_config("{objective: sft, dataset: d, base: b}")
    with pytest.raises(InvalidInput, match="is not a value"):
        with_changes(config, f"name:{value}")


def test_an_invalid_section_is_refused_by_field() -> None:
    recipe = "objective: dpo\ndataset: d\nbase: b\n"
    with pytest.raises(InvalidInput, match="preference"):
        parse_run_config(recipe + "preference: 5")


@pytest.mark.parametrize(("text", "value"), [("1e5", 1e5), ("1E+5", 1e5), ("2.5e-4", 2.5e-4), ("-3e2", -300.0)])
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    """YAML 1.1 reads `1e5` as text."""
    assert parse_yaml(f"a: {text}", what="It") == {"a": value}


@pytest.mark.parametrize("text", ["12e4567", "'1e5'", "1e5x", "e5"])
def test_what_only_resembles_a_number_stays_text(text: str) -> None:
    assert parse_yaml(f"a: {text}", what="It") == {"a": text.strip("'")}


def test_a_recipe_counts_in_powers_of_ten() -> None:
    text = "dataset: a\narchitecture: b\ntokenizer: c\nmax_steps: 1e5\nlearning_rate: 3e-4\n"
    config = parse_run_config(text)
    assert (config.max_steps, config.learning_rate) == (100_000, 3e-4)
    with pytest.raises(InvalidInput, match="whole number"):
        parse_run_config(text.replace("1e5", "1e-1"))


def test_a_change_that_shortens_a_run_brings_its_cadence_along() -> None:
    config = parse_run_config(
        "dataset: a\narchitecture: b\ntokenizer: c\nmax_steps: 1000\neval_every: 110\ncheckpoint_every: 20\n"
    )
    shorter = with_changes(config, "max_steps:77")
    assert (shorter.eval_every, shorter.checkpoint_every) == (77, 20)
