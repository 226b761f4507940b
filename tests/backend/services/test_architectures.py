"""Architectures: stored once, never changed."""

from __future__ import annotations

import pytest

from backend.db.tables import Run
from backend.domain.architectures.config import ArchitectureConfig
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.architectures import (
    architecture_yaml,
    archive_architecture,
    delete_architecture,
    get_architecture,
    list_architectures,
    parse_architecture,
    save_architecture,
)
from backend.services.context import LOCAL, Context
from tests.support.scenario import add_row

CONFIG = ArchitectureConfig(
    num_layers=2, width=64, num_heads=4, num_kv_heads=2, context=64, vocab_size=300, feed_forward=128
)


def test_a_saved_architecture_is_read_back_unchanged(ctx: Context) -> None:
    saved = save_architecture(ctx, name="  small   one ", config=CONFIG, person=LOCAL)
    assert saved.name == "small one"
    assert get_architecture(ctx, "small one").config == CONFIG
    assert saved.parameters == 300 * 64 + 2 * (64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128) + 5 * 64


def test_a_name_refers_to_one_shape_for_ever(ctx: Context) -> None:
    first = save_architecture(ctx, name="a", config=CONFIG, person=LOCAL)
    assert save_architecture(ctx, name="a", config=CONFIG, person=LOCAL).id == first.id
    with pytest.raises(Conflict, match="another architecture"):
        save_architecture(ctx, name="a", config=CONFIG.model_copy(update={"num_layers": 3}), person=LOCAL)


def test_architecture_of_a_run_is_archived_not_deleted(ctx: Context) -> None:
    saved = save_architecture(ctx, name="a", config=CONFIG, person=LOCAL)
    add_row(ctx, Run(name="r", objective="pretrain", config={}, architecture_id=saved.id))
    with pytest.raises(Conflict, match="run “r”"):
        delete_architecture(ctx, "a", person=LOCAL)
    archive_architecture(ctx, "a", person=LOCAL)
    assert list_architectures(ctx) == []
    assert [view.num_runs for view in list_architectures(ctx, archived=True)] == [1]


def test_yaml_survives_a_round_trip() -> None:
    assert parse_architecture(architecture_yaml(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width: 130", "130 / 4 is not whole"),
        ("- 1", "mapping"),
        ("a: [", "not YAML"),
        ("wdith: 8", "wdith"),
        ("width: wide", "wide"),
    ],
)
def test_an_impossible_architecture_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_architecture(text)


def test_an_unknown_architecture_suggests_similar_ones(ctx: Context) -> None:
    save_architecture(ctx, name="village-1m", config=CONFIG, person=LOCAL)
    with pytest.raises(NotFound, match="village-1m"):
        get_architecture(ctx, "vilage-1m")
