"""Drafts of deployments: which are refused and why, what happens to them later, and that their checkpoints stay."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.db.tables import Checkpoint
from backend.domain.jobs.events import GaugeEvent
from backend.errors import Conflict, InvalidInput
from backend.services.checkpoints.checkpoints import delete_checkpoint, list_checkpoint_users
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.serving.deployments import deploy, stop_endpoint, swap_checkpoint
from backend.services.serving.drafts import list_drafts
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.memory import deployment_memory
from backend.services.serving.promotions import promote
from backend.services.serving.replicas import record_gauge
from tests.support.scenario import add_row

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": 3,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128, "vocab_size": 3}


def add(ctx: Context, name: str, *, parameters: int, config: dict[str, Any] | None = None, tokens: str = "abc") -> str:
    """Insert a checkpoint with a config.json and a tokenizer.json."""
    folder = ctx.artifacts.folder("checkpoints", name)
    (folder / "config.json").write_text(json.dumps(config or CONFIG))
    vocab = {token: index for index, token in enumerate(tokens)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": []}))
    return add_row(
        ctx, Checkpoint(name=name, origin="added", folder=ctx.artifacts.relative(folder), parameters=parameters)
    )


@pytest.fixture
def large(ctx: Context) -> str:
    return add(ctx, "large", parameters=1000)


@pytest.fixture
def small(ctx: Context) -> str:
    return add(ctx, "small", parameters=100)


def deploy_drafted(ctx: Context, checkpoint_id: str, draft_id: str, **options: Any) -> None:
    deploy(ctx, checkpoint_id=checkpoint_id, name="tales", config={"draft": draft_id, **options}, person=LOCAL)


def test_a_replica_gets_the_folder_of_the_draft_and_the_endpoint_shows_what_was_accepted(
    ctx: Context, large: str, small: str
) -> None:
    deploy_drafted(ctx, large, small)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    assert claim.payload["draft"] == "checkpoints/small"
    view = get_endpoint(ctx, "tales")
    assert (view.draft_name, view.acceptance) == ("small", None)
    with ctx.db.write() as session:
        record_gauge(
            session,
            ctx,
            claim,
            GaugeEvent(running=1, waiting=0, tokens_per_second=9.0, drafted_tokens=200, accepted_tokens=150),
        )
    view = get_endpoint(ctx, "tales")
    assert (view.drafted_tokens, view.acceptance) == (200, 0.75)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"tokens": "acb"}, {}, r"“draft” can't draft for “large”: their vocabularies differ"),
        ({"parameters": 1000}, {}, r"1,000 parameters, and 1,000 are served"),
        ({"config": GPT2}, {}, r"of “draft”, its family is gpt2"),
        ({}, {"engine": "serial"}, r"with engine serial"),
        ({}, {"device": "gpu"}, r"with device gpu"),
    ],
    ids=["vocabulary", "size", "family", "engine", "device"],
)
def test_a_draft_that_does_not_fit_is_refused_before_anything_starts(
    ctx: Context, large: str, values: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    draft = add(ctx, "draft", **{"parameters": 100, **values})
    with pytest.raises(InvalidInput, match=message) as caught:
        deploy_drafted(ctx, large, draft, **options)
    assert caught.value.field == "draft"
    assert claim_next(ctx, "serve", owner="lab/serve#1", host="lab") is None


def test_an_unknown_draft_is_refused(ctx: Context, large: str) -> None:
    with pytest.raises(InvalidInput, match="no checkpoint 'nothing' to draft"):
        deploy_drafted(ctx, large, "nothing")


def test_a_checkpoint_in_float32_may_be_drafted_by_itself_in_int8(ctx: Context, large: str) -> None:
    deploy_drafted(ctx, large, large)
    assert get_endpoint(ctx, "tales").draft_name == "large"
    with pytest.raises(InvalidInput, match="in int8: it has"):
        deploy_drafted(ctx, large, large, precision="int8")


def test_drafts_to_choose_from_are_the_smaller_ones_with_the_same_tokens_and_itself(
    ctx: Context, large: str, small: str
) -> None:
    tiny = add(ctx, "tiny", parameters=10)
    add(ctx, "foreign", parameters=10, tokens="xyz")
    add(ctx, "larger", parameters=5000)
    assert list(list_drafts(ctx, large).items()) == [
        (tiny, "tiny"),
        (small, "small"),
        (large, "large (itself, in int8)"),
    ]


def test_a_checkpoint_that_drafts_is_not_deleted_until_the_endpoint_stops(ctx: Context, large: str, small: str) -> None:
    deploy_drafted(ctx, large, small)
    assert list_checkpoint_users(ctx, small) == ["endpoint “tales” (as its draft)"]
    with pytest.raises(Conflict, match="as its draft"):
        delete_checkpoint(ctx, small, person=LOCAL)
    stop_endpoint(ctx, "tales", person=LOCAL)
    delete_checkpoint(ctx, small, person=LOCAL)


def test_another_checkpoint_is_served_without_a_draft_that_does_not_fit_it(
    ctx: Context, large: str, small: str
) -> None:
    """A swap and a moved alias go on without the draft: the answers are the same."""
    twin, foreign = add(ctx, "twin", parameters=1000), add(ctx, "foreign", parameters=1000, tokens="xyz")
    deploy_drafted(ctx, large, small)
    assert swap_checkpoint(ctx, "tales", checkpoint_id=twin, person=LOCAL).draft_name == "small"
    assert swap_checkpoint(ctx, "tales", checkpoint_id=foreign, person=LOCAL).draft_name is None


def test_a_moved_alias_deploys_without_a_draft_that_does_not_fit(ctx: Context, large: str, small: str) -> None:
    foreign = add(ctx, "foreign", parameters=1000, tokens="xyz")
    promote(ctx, "large", alias="tales@production", reason="first", person=LOCAL)
    deploy(ctx, checkpoint_id=large, name="tales", config={"draft": small}, alias="tales@production", person=LOCAL)
    promote(ctx, "foreign", alias="tales@production", reason="better", person=LOCAL)
    view = get_endpoint(ctx, "tales")
    assert (view.checkpoint_id, view.draft_name) == (foreign, None)


def test_the_estimate_holds_both_networks(ctx: Context, large: str, small: str) -> None:
    plain, both = deployment_memory(ctx, large).replica, deployment_memory(ctx, large, draft_id=small).replica
    assert plain is not None
    assert both is not None
    assert both.weight_bytes > plain.weight_bytes
    assert (both.cache_bytes or 0) > (plain.cache_bytes or 0)
