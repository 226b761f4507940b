"""Adapters of an endpoint: checked by their base, listed as models, kept through a restart, and dropped with another
base.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from backend.db.tables import Alias, Checkpoint, Usage
from backend.errors import Conflict, InvalidInput, NotFound
from backend.gateway.installed import InstalledDirectory
from backend.services.checkpoints.checkpoints import delete_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.serving import adapters
from backend.services.serving.adapters import (
    add_adapter,
    list_adapter_checkpoints,
    list_adapter_endpoints,
    list_adapters,
    remove_adapter,
)
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.deployments import deploy, start_endpoint, stop_endpoint
from backend.services.serving.endpoints import deployed_endpoints, get_endpoint
from backend.services.serving.replicas import ready_targets
from backend.services.serving.usage import UsageRow, add_usage
from tests.support.scenario import add_row
from tests.support.serving.serving_world import ServingWorld


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    changes_told: list[dict[str, Any]] = []
    monkeypatch.setattr(adapters, "change_adapters", lambda url, *, token, change: changes_told.append(change))
    return changes_told


@pytest.fixture
def scene(ctx: Context, told: list[dict[str, Any]]) -> ServingWorld:
    scene = ServingWorld(ctx)
    scene.deploy(num_replicas=2)
    return scene


def adapter(scene: ServingWorld, name: str, *, base: str | None) -> str:
    id_ = scene.checkpoint(name)
    with scene.ctx.db.write() as session:
        row = session.get_one(Checkpoint, id_)
        row.is_adapter, row.parent_id = True, base
    return id_


def oak(scene: ServingWorld) -> str:
    return get_endpoint(scene.ctx, "tales").checkpoint_id


def test_an_adapter_of_the_base_becomes_a_model_at_every_replica(
    scene: ServingWorld, told: list[dict[str, Any]]
) -> None:
    red = adapter(scene, "red", base=oak(scene))
    assert [view.id for view in list_adapter_checkpoints(scene.ctx, get_endpoint(scene.ctx, "tales"))] == [red]
    views = add_adapter(scene.ctx, "tales", "poems", checkpoint_id=red, person=LOCAL)
    assert [(view.model, view.checkpoint_name) for view in views] == [("tales:poems", "red")]
    assert told == [{"load": "bases/red"}] * 2
    assert [target.adapter for target in ready_targets(scene.ctx)["tales:poems"]] == ["bases/red"] * 2
    assert [target.adapter for target in ready_targets(scene.ctx)["tales"]] == [None] * 2
    assert [name for name, _ in deployed_endpoints(scene.ctx)] == ["tales", "tales:poems"]
    assert endpoint_facts(scene.ctx, ["tales:poems"])["tales:poems"].checkpoint_id == red
    assert [(view.name, view.checkpoint_name, view.num_ready) for view in list_adapter_endpoints(scene.ctx)] == [
        ("tales:poems", "red", 2)
    ]
    with pytest.raises(Conflict, match="as an adapter"):
        delete_checkpoint(scene.ctx, red, person=LOCAL)
    assert remove_adapter(scene.ctx, "tales", "poems", person=LOCAL) == []
    assert told[2:] == [{"unload": "bases/red"}] * 2
    with closing(InstalledDirectory(scene.ctx)) as directory:
        assert [model.name for model in directory.list_models()] == ["tales"]
        with pytest.raises(NotFound):
            directory.replicas_for("tales:poems")


def test_an_adapter_answers_in_the_moment_it_is_added(scene: ServingWorld, told: list[dict[str, Any]]) -> None:
    """A script that added one and asked got 404 for up to a second."""
    red = adapter(scene, "red", base=oak(scene))
    with closing(InstalledDirectory(scene.ctx)) as directory:
        for name in ("one", "two", "three"):
            assert directory.list_models(), "a snapshot is there that lacks it"
            add_adapter(scene.ctx, "tales", name, checkpoint_id=red, person=LOCAL)
            assert len(directory.replicas_for(f"tales:{name}")) == 2


def test_an_alias_stands_for_its_endpoint_before_the_adapter_too(
    scene: ServingWorld, told: list[dict[str, Any]]
) -> None:
    red = adapter(scene, "red", base=oak(scene))
    add_row(scene.ctx, Alias(name="story@production", checkpoint_id=oak(scene)))
    assert "story@production:poems" not in ready_targets(scene.ctx)
    add_adapter(scene.ctx, "tales", "poems", checkpoint_id=red, person=LOCAL)
    targets = ready_targets(scene.ctx)
    assert targets["story@production:poems"] == targets["tales:poems"]
    assert [target.adapter for target in targets["story@production:poems"]] == ["bases/red"] * 2
    assert [name for name, _ in deployed_endpoints(scene.ctx)] == [
        "story@production",
        "story@production:poems",
        "tales",
        "tales:poems",
    ]
    assert {view.name: view.checkpoint_id for view in list_adapter_endpoints(scene.ctx)} == dict.fromkeys(
        ["tales:poems", "story@production:poems"], red
    )
    row = UsageRow(
        "u1",
        "story@production:poems",
        None,
        targets["tales"][0].replica_id,
        3,
        4,
        1.0,
        2.0,
        "finished",
        datetime.now(UTC),
    )
    add_usage(scene.ctx, [row])
    with scene.ctx.db.read() as session:
        used = session.get_one(Usage, "u1")
        assert (used.checkpoint_id, used.variant) == (red, "poems")
        assert used.endpoint_id is not None
    assert len(told) == 2, "each replica loads it once"


def test_what_does_not_fit_is_refused_with_the_cure(scene: ServingWorld, told: list[dict[str, Any]]) -> None:
    elm = scene.checkpoint("elm")
    for checkpoint, message in (
        (adapter(scene, "other", base=elm), "“other” was trained on “elm”, and 'tales' serves “oak”"),
        (adapter(scene, "stray", base=None), "unknown base"),
        (elm, "“elm” is not an adapter"),
    ):
        with pytest.raises(InvalidInput, match=message) as refusal:
            add_adapter(scene.ctx, "tales", "x", checkpoint_id=checkpoint, person=LOCAL)
        assert refusal.value.remedy
    red = adapter(scene, "red", base=oak(scene))
    with pytest.raises(InvalidInput, match="can't be an adapter's name"):
        add_adapter(scene.ctx, "tales", "a:b", checkpoint_id=red, person=LOCAL)
    deploy(scene.ctx, checkpoint_id=elm, name="tales:poems", person=LOCAL)
    with pytest.raises(Conflict, match="tales:poems already"):
        add_adapter(scene.ctx, "tales", "poems", checkpoint_id=red, person=LOCAL)
    with pytest.raises(NotFound, match="no adapter 'gone'"):
        remove_adapter(scene.ctx, "tales", "gone", person=LOCAL)
    assert told == []


def test_one_adapter_too_many_is_refused_before_a_replica_loads_it(
    scene: ServingWorld, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "MAX_ADAPTERS", 1)
    red, blue = (adapter(scene, name, base=oak(scene)) for name in ("red", "blue"))
    add_adapter(scene.ctx, "tales", "poems", checkpoint_id=red, person=LOCAL)
    with pytest.raises(Conflict, match="has 1 adapters"):
        add_adapter(scene.ctx, "tales", "prose", checkpoint_id=blue, person=LOCAL)
    assert told == [{"load": "bases/red"}] * 2
    add_adapter(scene.ctx, "tales", "poems", checkpoint_id=blue, person=LOCAL)
    assert [view.checkpoint_name for view in list_adapters(scene.ctx, "tales")] == ["blue"]


def test_a_replica_that_can_not_serve_it_leaves_everything_as_it_was(
    scene: ServingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, *, token: str, change: dict[str, Any]) -> None:
        raise InvalidInput("red is no plain LoRA adapter (use_dora).")

    monkeypatch.setattr(adapters, "change_adapters", refuse)
    with pytest.raises(InvalidInput, match="use_dora"):
        add_adapter(scene.ctx, "tales", "poems", checkpoint_id=adapter(scene, "red", base=oak(scene)), person=LOCAL)
    assert list_adapters(scene.ctx, "tales") == []


def test_adapters_stay_with_their_base_and_go_with_another(scene: ServingWorld) -> None:
    base = oak(scene)
    add_adapter(scene.ctx, "tales", "poems", checkpoint_id=adapter(scene, "red", base=base), person=LOCAL)
    deploy(scene.ctx, checkpoint_id=base, name="tales", config={"threads": 2}, person=LOCAL)
    scene.start_all()
    stop_endpoint(scene.ctx, "tales", person=LOCAL)
    start_endpoint(scene.ctx, "tales", person=LOCAL)
    assert ready_targets(scene.ctx)["tales:poems"] == [], "known, and not ready yet"
    scene.start_all()
    assert [view.name for view in list_adapters(scene.ctx, "tales")] == ["poems"]
    scene.deploy("elm")
    assert list_adapters(scene.ctx, "tales") == []
    assert "tales:poems" not in ready_targets(scene.ctx)


def test_usage_belongs_to_the_endpoint_and_the_adapters_checkpoint(scene: ServingWorld) -> None:
    red = adapter(scene, "red", base=oak(scene))
    add_adapter(scene.ctx, "tales", "poems", checkpoint_id=red, person=LOCAL)
    replica = ready_targets(scene.ctx)["tales:poems"][0].replica_id
    common: dict[str, Any] = {
        "key_id": None,
        "replica_id": replica,
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "ttft_ms": 1.0,
    }
    common |= {"total_ms": 2.0, "status": "finished", "created_at": datetime.now(UTC)}
    add_usage(
        scene.ctx, [UsageRow(id="u1", endpoint="tales:poems", **common), UsageRow(id="u2", endpoint="tales", **common)]
    )
    with scene.ctx.db.read() as session:
        poems, base = session.get_one(Usage, "u1"), session.get_one(Usage, "u2")
        assert (poems.checkpoint_id, poems.variant) == (red, "poems")
        assert (base.checkpoint_id, base.variant) == (oak(scene), "")
        assert poems.endpoint_id == base.endpoint_id is not None
