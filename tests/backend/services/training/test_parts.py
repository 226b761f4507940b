"""Parts of a run: resolved once per request, and handed on to everything that needs them."""

from __future__ import annotations

from typing import Any

import pytest

from backend.db.tables import Checkpoint
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.estimates.forecasts import forecast
from backend.services.estimates.probes import find_probe, launch_probe
from backend.services.scaling.planner import find_pool
from backend.services.training.parts import resolve_parts
from backend.services.training.runs import launch_run
from tests.support.queries import count_selects
from tests.support.run_world import make_config
from tests.support.scenario import Scenario, add_row

PART_TABLES = ("datasets", "dataset_versions", "tokenizers", "architectures", "checkpoints", "workers")


@pytest.mark.parametrize("objective", ["pretrain", "sft"])
def test_a_rerun_of_the_launch_page_resolves_the_parts_once(ctx: Context, scenario: Scenario, objective: str) -> None:
    """Forecast, memory, queue and probe each looked them up again: three times a draw of the page."""
    scenario.parts()
    scenario.dataset("chats", kind="chat")
    add_row(ctx, Checkpoint(name="oak", origin="added", folder="checkpoints/oak", parameters=1_000_000))
    sft: dict[str, Any] = {
        "objective": "sft",
        "dataset": "chats",
        "architecture": None,
        "tokenizer": None,
        "base": "oak",
    }
    config = make_config(**(sft if objective == "sft" else {}))
    with count_selects(ctx.db.engine) as once:
        resolve_parts(ctx, config)
    with count_selects(ctx.db.engine) as draw:
        expected = forecast(ctx, config)
        find_probe(ctx, config, parts=expected.parts)
    with count_selects(ctx.db.engine) as law:  # the one thing that reads these tables for another reason
        if tokenizer := expected.parts.tokenizer:
            find_pool(ctx, version_id=expected.parts.version.id, tokenizer_id=tokenizer.id, context=config.context)
    assert {table: draw[table] for table in PART_TABLES} == {table: once[table] + law[table] for table in PART_TABLES}
    assert once["workers"] == 1


def test_a_launch_and_a_probe_take_the_parts_that_were_resolved(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    config = make_config()
    parts = resolve_parts(ctx, config)
    with count_selects(ctx.db.engine) as counts:
        launch_probe(ctx, config, person=LOCAL, parts=parts)
        run = launch_run(ctx, config, person=LOCAL, parts=parts)
    assert run.dataset == "tales@1"
    assert (counts["tokenizers"], counts["architectures"], counts["workers"]) == (0, 0, 0)


@pytest.mark.parametrize("path", ["eval_every", "checkpoint_every"])
def test_a_cadence_that_the_run_never_reaches_is_refused(scenario: Scenario, path: str) -> None:
    """A run of 77 steps was stored with an evaluation every 110 steps; a default that was not given stays silent."""
    scenario.parts()
    with pytest.raises(InvalidInput, match="every 110 steps would never come in a run of 77 steps") as caught:
        scenario.run(max_steps=77, **{path: 110})
    assert caught.value.field == path
    scenario.run(max_steps=7)
