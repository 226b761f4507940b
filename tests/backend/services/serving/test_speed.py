"""Speed probes of a checkpoint: one at a time, the newest finished one is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.domain.estimates.prices import DevicePrices
from backend.domain.jobs.serving_probe import ServingProbePayload
from backend.errors import NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.serving.speed import find_speed, find_speed_probe, launch_speed_probe, speed_choices
from tests.support.jobs import finish_job, take_job
from tests.support.scenario import Scenario

LOADS = [
    {"users": 1, "tokens_per_s": 20.0, "ttft_ms": 90.0, "answers": 3},
    {"users": 8, "tokens_per_s": 70.0, "ttft_ms": None, "answers": 0},
]
RESULT = {
    "device": "A chip",
    "device_kind": "cpu",
    "engine": "batching",
    "dtype": "float32",
    "threads": 1,
    "load_s": 1.0,
    "prompt_tokens": 64,
    "new_tokens": 32,
}


def test_a_checkpoint_has_one_active_probe_and_the_newest_result_is_shown(ctx: Context, scenario: Scenario) -> None:
    checkpoint, other = scenario.checkpoints("oak", "elm")
    assert find_speed(ctx, checkpoint) is None
    first = launch_speed_probe(ctx, checkpoint, person=LOCAL)
    assert launch_speed_probe(ctx, checkpoint, person=LOCAL).id == first.id
    assert launch_speed_probe(ctx, other, person=LOCAL).id != first.id
    claim = take_job(ctx, first.id)
    assert isinstance(claim.payload, ServingProbePayload)
    assert claim.payload.checkpoint == "checkpoints/oak"
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, **RESULT, loads=LOADS)
    speed = find_speed(ctx, checkpoint)
    assert speed is not None
    assert [(load.users, load.tokens_per_s, load.ttft_ms) for load in speed.loads] == [(1, 20.0, 90.0), (8, 70.0, None)]
    assert speed.conditions == "One replica on A chip, 1 thread, float32, prompts of 64 and answers of 32 tokens"
    again = launch_speed_probe(ctx, checkpoint, person=LOCAL)
    assert again.id != first.id
    probe = find_speed_probe(ctx, checkpoint)
    assert probe is not None
    assert (probe.id, probe.is_active) == (again.id, True)
    assert find_speed(ctx, checkpoint) == speed, "the last measurement stays until the next one ends"
    assert find_speed(ctx, other) is None


def test_precision_and_users_at_once_are_shown_as_money_and_quality(ctx: Context, scenario: Scenario) -> None:
    """At $0.36 an hour, 20 tokens/s cost $5 a million, 100 tokens/s cost $1."""
    checkpoint = scenario.checkpoint("oak")
    job = launch_speed_probe(ctx, checkpoint, person=LOCAL, with_int8=True)
    claim = take_job(ctx, job.id)
    assert claim.payload.precisions == ("float32", "int8")
    check = {"precision": "int8", "perplexity_ratio": 1.01, "greedy_agreement": 0.98, "num_tokens": 9, "num_layers": 2}
    fast = {"users": 8, "tokens_per_s": 100.0, "ttft_ms": 9.0, "answers": 9, "precision": "int8"}
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, **RESULT, loads=[LOADS[0], fast], precision_check=check)
    speed = find_speed(ctx, checkpoint)
    assert speed is not None
    priced = replace(ctx, policy=replace(ctx.policy, prices=DevicePrices(default=0.36)))
    choices = [(c.usd_per_million_tokens, c.perplexity_ratio) for c in speed_choices(priced, speed)]
    assert choices == [(pytest.approx(5.0), 1.0), (pytest.approx(1.0), 1.01)]
    unpriced = replace(ctx, policy=replace(ctx.policy, prices=DevicePrices()))
    assert [c.usd_per_million_tokens for c in speed_choices(unpriced, speed)] == [None, None]


def test_raters_and_checkpoints_without_files_are_refused(ctx: Context, scenario: Scenario) -> None:
    checkpoint = scenario.checkpoint("oak")
    with pytest.raises(NotAllowed):
        launch_speed_probe(ctx, checkpoint, person=Person(id="r", name="Rater", role="rater"))
    with pytest.raises(NotFound):
        launch_speed_probe(ctx, "nothing", person=LOCAL)
