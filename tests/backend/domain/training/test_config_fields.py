"""One list of a run's fields: each states its traits, and every list of fields in the product is derived from them."""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, create_model

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.setting import setting_of
from backend.domain.training import config_fields
from backend.domain.training.config import RunConfig, parse_run_config
from backend.domain.training.config_fields import (
    default_at,
    distinguishing_values,
    form_groups,
    idle_fields,
    kind_of,
    list_paths,
    measured_values,
    paths_affecting,
    traits_of,
    unmet_condition,
    value_at,
    values_affecting,
    with_values,
)
from backend.domain.training.traits import COST, Effect
from backend.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[4]
SHAPE = ArchitectureConfig(
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, context=256, vocab_size=300, feed_forward=64
)
IN_USE: dict[str, dict[str, Any]] = {
    "sft": {},
    "adapters": {"method": "lora"},
    "qlora": {"method": "qlora"},
    "grpo": {"objective": "grpo", "context": 256, "grpo": {"rewards": [{"kind": "exact"}]}},
    "devices": {"devices": {"count": 4}},
    "zero": {"devices": {"count": 4, "sharding": "zero2"}},
    "machines": {"devices": {"count": 4, "nodes": 2}},
    "dpo": {"objective": "dpo"},
    "simpo": {"objective": "simpo"},
    "kto": {"objective": "kto"},
    "wsd": {"schedule": "wsd"},
}


def make(**values: Any) -> RunConfig:
    return RunConfig.model_validate({"objective": "sft", "dataset": "d", "base": "b", **values})


def config_using(path: str) -> RunConfig:
    """A config in which a field has an effect."""
    configs = [make(**values) for values in IN_USE.values()]
    configs.append(RunConfig(dataset="d", architecture="a", tokenizer="t"))
    using = [config for config in configs if unmet_condition(path, partial(value_at, config)) is None]
    assert using, f"no config of IN_USE uses {path}: add one"
    return using[0]


def other_values(path: str) -> list[Any]:
    """Values that a field may have besides its default."""
    kind, default = kind_of(path), default_at(path)
    if kind is bool:
        return [not default]
    if isinstance(kind, tuple):
        return [value for value in kind if value != default]
    return [default * 2] if default else [0.5 if kind is float else 1]


def varied(path: str) -> list[tuple[RunConfig, RunConfig]]:
    """Pairs of valid configs that differ in one field in use."""
    config, pairs = config_using(path), []
    for value in other_values(path):
        try:
            pairs.append((config, with_values(config, {path: value})))
        except InvalidInput:
            continue
    return pairs


COSTLY = [
    path for path in paths_affecting(*COST) if not traits_of(path).names_row and path not in ("objective", "device")
]


def test_every_field_states_its_traits() -> None:
    for path in list_paths():
        traits = traits_of(path)
        assert config_fields.field_at(path).title, path
        assert traits.group is None or config_fields.field_at(path).description, (
            f"{path} is on the form and has no help"
        )


def test_a_field_without_traits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = create_model("Grown", __base__=RunConfig, momentum=(float, Field(default=0.9)))
    monkeypatch.setattr(config_fields, "RunConfig", grown)
    with pytest.raises(TypeError, match="momentum states no traits"):
        traits_of("momentum")


def test_labels_are_unique_so_that_an_error_names_one_field() -> None:
    labels = [config_fields.field_at(path).title for path in list_paths()]
    assert sorted(labels) == sorted(set(labels))


@pytest.mark.parametrize("path", COSTLY)
def test_a_field_that_affects_memory_or_time_makes_another_measurement(path: str) -> None:
    """A peak measured with AdamW was shown as measured for Lion, if the base's family was unknown."""
    pairs = varied(path)
    assert pairs, path
    for before, after in pairs:
        assert measured_values(before) != measured_values(after)
    settings = [(setting_of(a, SHAPE, device="gpu"), setting_of(b, SHAPE, device="gpu")) for a, b in pairs]
    assert any(a != b for a, b in settings), f"no value of {path} leads to another TrainingSetting"
    assert all((a == b) == (a.fingerprint == b.fingerprint) for a, b in settings)


@pytest.mark.parametrize(
    "path", [path for path in list_paths() if traits_of(path).group and not traits_of(path).affects & COST]
)
def test_a_field_without_effect_on_memory_or_time_shares_the_measurement(path: str) -> None:
    for before, after in varied(path):
        assert measured_values(before) == measured_values(after)
        assert setting_of(before, SHAPE, device="cpu") == setting_of(after, SHAPE, device="cpu")


def test_values_are_reduced_to_what_a_measurement_depends_on() -> None:
    assert (
        measured_values(make(grad_accum_steps=2))
        == measured_values(make(grad_accum_steps=8))
        != measured_values(make())
    )
    assert measured_values(make(dropout=0.1)) == measured_values(make(dropout=0.2)) != measured_values(make())
    assert values_affecting(make(grad_accum_steps=2), Effect.STEP_TIME)["grad_accum_steps"] == 2


def test_runs_are_the_same_experiment_if_they_differ_in_seed_hardware_memory_or_unused_fields() -> None:
    same = make(
        seed=2, priority=9, keep_last=7, recompute=True, trackers=["tensorboard"], lora={"rank": 64}, name="again"
    )
    assert distinguishing_values(same) == distinguishing_values(make())
    for values in (
        {"learning_rate": 1e-4},
        {"optimizer": "lion"},
        {"packing": False},
        {"eval_batches": 2},
        {"max_epochs": 1},
    ):
        assert distinguishing_values(make(**values)) != distinguishing_values(make()), values


def test_the_form_has_the_fields_in_use_and_no_others() -> None:
    config = make(schedule="constant", method="lora")
    paths = {path for group in form_groups(lambda path: value_at(config, path)).values() for path in group}
    assert {"lora.rank", "packing", "z_loss"} <= paths
    assert (
        not {"min_learning_rate", "decay_steps", "freeze_blocks", "preference.beta", "devices.nodes", "lora.bits"}
        & paths
    )


def test_fields_that_are_set_and_idle_name_the_choice_that_idles_them() -> None:
    config = make(decay_steps=5, devices={"rendezvous": "host:29400"}, grpo={"group_size": 4})
    idle = {path: condition.field for path, condition in idle_fields(config)}
    assert idle == {"decay_steps": "schedule", "grpo.group_size": "objective", "devices.rendezvous": "devices.count"}


def test_the_json_schema_carries_labels_and_effects() -> None:
    schema = json.loads(json.dumps(RunConfig.model_json_schema()))
    assert schema["properties"]["weight_decay"]["title"] == "Weight decay"
    assert schema["properties"]["context"]["unit"] == "tokens"


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("max_stepz: 10", "max_stepz is not a field; did you mean max_steps?"),
        ("lora: {rnak: 4}", "lora.rnak is not a field; did you mean lora.rank?"),
        ("rank: 4", "rank is not a field; did you mean lora.rank?"),
        ("Learning_Rate: 4", "did you mean learning_rate?"),
        ("qqqqqq: 4", "qqqqqq is not a field."),
    ],
)
def test_an_unknown_field_names_the_nearest(text: str, near: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_run_config(f"objective: sft\ndataset: d\nbase: b\n{text}\n")
    assert near in str(caught.value)
    assert "Extra inputs" not in str(caught.value)


FIELDS = frozenset(list_paths()) | frozenset(RunConfig.model_fields)
OF_EVERYTHING = frozenset(
    {"name", "dataset", "architecture", "tokenizer", "base", "objective", "method", "device", "devices", "queue"}
)
"""Words that are fields of a run and much else, such as columns of a table or parts of an address."""


def literal_lists(tree: ast.AST) -> list[tuple[int, list[str]]]:
    """Tuples, lists and sets of nothing but names of a run's fields, and dictionaries from such names to texts or
    numbers. Which fields a form draws, in which order, is the form's to say: `draw_fields(..., only=(...))`.
    """
    lists = []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    forms = {id(word.value) for call in calls for word in call.keywords if word.arg == "only"}
    for node in ast.walk(tree):
        if id(node) in forms:
            continue
        is_table = isinstance(node, ast.Dict) and all(isinstance(value, ast.Constant) for value in node.values)
        items = (
            node.keys
            if isinstance(node, ast.Dict) and is_table
            else node.elts
            if isinstance(node, ast.Tuple | ast.List | ast.Set)
            else []
        )
        names = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if len(names) == len(items) and len(set(names) - OF_EVERYTHING) >= 3 and set(names) <= FIELDS:
            lists.append((node.lineno, names))
    return lists


def test_no_list_of_fields_is_kept_by_hand() -> None:
    """Ten files kept such lists, and they had drifted."""
    repeated_lists = []
    for file in sorted([*ROOT.glob("backend/**/*.py"), *ROOT.glob("pages/**/*.py")]):
        source = file.read_text(encoding="utf-8")
        if len(FIELDS.intersection(re.findall(r"\w+(?:\.\w+)*", source))) >= 3:
            lists = literal_lists(ast.parse(source))
            repeated_lists += [f"{file.relative_to(ROOT)}:{line} {names}" for line, names in lists]
    assert repeated_lists == []


def test_the_search_finds_a_list_kept_by_hand() -> None:
    source = (
        'LATER = ("optimizer", "dropout", "ema_decay")\nLABELS = {"beta1": "Beta 1", "beta2": "Beta 2", "seed":'
        ' "Seed"}\n'
    )
    assert [line for line, _ in literal_lists(ast.parse(source))] == [1, 2]
