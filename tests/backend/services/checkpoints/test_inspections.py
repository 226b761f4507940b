"""Inspections: asked for once, answered from the store after that, kept with what they are about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from backend.db.tables import Analysis
from backend.domain.checkpoints.inspection import InspectionConfig
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.checkpoints.checkpoints import delete_checkpoint
from backend.services.checkpoints.inspections import (
    InspectionResults,
    delete_inspection,
    find_inspection,
    get_inspection,
    launch_inspection,
    list_inspections,
)
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.jobs import request_stop
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.job_work import do_job
from tests.support.networks.inspection_networks import add_network, make_network

TEXT = InspectionConfig(text="The cat.")


def answered(ctx: Context, checkpoint: str, config: InspectionConfig = TEXT, **values: Any) -> InspectionResults:
    """Ask, do the work, and open the answer."""
    inspection = launch_inspection(ctx, checkpoint=checkpoint, config=config, person=LOCAL, **values)
    if not inspection.is_ready:
        do_job(ctx, inspection.job_id)
    return InspectionResults(ctx, get_inspection(ctx, inspection.id))


def test_the_same_request_returns_the_stored_inspection(ctx: Context) -> None:
    oak, elm = add_network(ctx, "oak"), add_network(ctx, "elm", seed=1)
    first = launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    twice = launch_inspection(ctx, checkpoint=oak, config=TEXT, person=LOCAL)
    assert (twice.id, twice.reused, first.reused) == (first.id, True, False)
    do_job(ctx, first.job_id)
    stored = launch_inspection(ctx, checkpoint=oak, config=TEXT, person=LOCAL)
    assert (stored.id, stored.is_ready) == (first.id, True)
    assert find_inspection(ctx, checkpoint=oak, config=TEXT) == get_inspection(ctx, first.id)
    others = [
        launch_inspection(ctx, checkpoint=oak, config=TEXT, person=LOCAL, again=True),
        launch_inspection(ctx, checkpoint=oak, config=InspectionConfig(text="The cat"), person=LOCAL),
        launch_inspection(ctx, checkpoint=oak, config=InspectionConfig(), person=LOCAL),
        launch_inspection(ctx, checkpoint=oak, config=TEXT, person=LOCAL, against="elm"),
        launch_inspection(ctx, checkpoint=elm, config=TEXT, person=LOCAL, against="oak"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 6
    assert {view.id for view in list_inspections(ctx, elm)} == {others[3].id, others[4].id}
    assert [view.label for view in list_inspections(ctx, oak)][-1] == "The cat."


def test_a_failed_or_lost_inspection_is_run_again(ctx: Context) -> None:
    add_network(ctx, "oak")
    first = launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    request_stop(ctx, str(first.job_id))
    second = launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    assert second.id != first.id
    do_job(ctx, second.job_id)
    ctx.artifacts.remove(f"inspections/{second.id}")
    with pytest.raises(NotFound, match="deleted"):
        InspectionResults(ctx, get_inspection(ctx, second.id))
    assert launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL).id != second.id


def test_an_inspection_stored_under_the_old_folder_is_shown_and_deleted(ctx: Context) -> None:
    add_network(ctx, "oak")
    inspection = launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    do_job(ctx, inspection.job_id)
    old = ctx.artifacts.path(f"readings/{inspection.id}")
    old.parent.mkdir()
    ctx.artifacts.path(f"inspections/{inspection.id}").rename(old)
    with ctx.db.write() as session:
        session.get_one(Analysis, inspection.id).folder = f"readings/{inspection.id}"
    assert InspectionResults(ctx, get_inspection(ctx, inspection.id)).tokens()
    delete_inspection(ctx, inspection.id, person=LOCAL)
    assert not old.exists()


def test_results_hold_the_predictions_at_each_token(ctx: Context) -> None:
    add_network(ctx, "oak")
    results = answered(ctx, "oak")
    lines = results.tokens()
    assert "".join(line.text for line in lines[1:]) == "The cat."
    assert (lines[0].special, lines[0].surprisal, lines[0].rank, lines[0].expected) == (True, None, None, ())
    assert all(len(line.expected) == 10 for line in lines[1:])
    assert sum(line.surprisal or 0 for line in lines) == pytest.approx(
        results.inspection.result["loss"]["sum_nats"], rel=1e-5
    )
    for line in lines[1:]:
        if line.rank is not None and line.rank <= 10 and line.surprisal is not None:
            chosen = line.expected[line.rank - 1]
            assert (chosen.id, chosen.probability) == (line.id, pytest.approx(math.exp(-line.surprisal), rel=1e-4))
    assert results.attention(0).shape == (4, 9, 9)
    with pytest.raises(NotFound):
        results.attention(17)


def test_a_pair_and_weights_are_opened_too(ctx: Context) -> None:
    add_network(ctx, "oak")
    add_network(ctx, "elm", seed=1)
    pair = answered(ctx, "oak", against="elm")
    assert pair.inspection.other == "elm"
    assert pair.array("other_surprisal")[1] != pair.array("surprisal")[1]
    weights = answered(ctx, "oak", InspectionConfig(), against="elm")
    (line,) = [line for line in weights.tensors() if line.name == "model.layers.1.mlp.up_proj.weight"]
    assert (line.layer, line.part, line.shape) == (1, "mlp.up_proj.weight", (48, 32))
    assert {change.name for change in weights.changes()} == {line.name for line in weights.tensors()}
    assert weights.missing == {"only_first": [], "only_other": [], "unlike": []}


def test_nothing_is_unpickled(ctx: Context) -> None:
    add_network(ctx, "oak")
    results = answered(ctx, "oak")
    np.savez(
        ctx.artifacts.path(f"inspections/{results.inspection.id}/numbers.npz"), ids=np.array([{"a": 1}], dtype=object)
    )
    with pytest.raises(ValueError, match="allow_pickle"):
        results.array("ids")


def test_an_invalid_request_is_refused(ctx: Context, tmp_path: Path) -> None:
    add_network(ctx, "oak")
    with pytest.raises(InvalidInput, match="empty"):
        launch_inspection(ctx, checkpoint="oak", config=InspectionConfig(text=" \n"), person=LOCAL)
    with pytest.raises(NotFound, match="ash"):
        launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL, against="ash")
    with pytest.raises(NotFound):
        launch_inspection(ctx, checkpoint=str(tmp_path), config=TEXT, person=LOCAL)
    with pytest.raises(NotAllowed):
        launch_inspection(ctx, checkpoint="oak", config=TEXT, person=Person(id=None, name="r", role="rater"))
    folder = str(ctx.artifacts.path("checkpoints/oak"))
    assert launch_inspection(ctx, checkpoint=folder, config=TEXT, person=LOCAL).checkpoint_id is None
    with pytest.raises(NotAllowed, match="not folders"):
        launch_inspection(ctx, checkpoint=folder, config=TEXT, person=Person(id="e", name="Engineer", role="engineer"))
    with pytest.raises(ValidationError, match="NUL"):
        InspectionConfig(text="a\x00b")
    with pytest.raises(ValidationError, match="not both"):
        InspectionConfig.model_validate({"text": "a", "messages": [{"content": "b"}]})
    with pytest.raises(NotFound):
        get_inspection(ctx, "none")


def test_an_inspection_is_deleted_with_its_files_even_while_it_runs(ctx: Context) -> None:
    oak = add_network(ctx, "oak")
    inspection = answered(ctx, "oak").inspection
    delete_inspection(ctx, inspection.id, person=LOCAL)
    assert not ctx.artifacts.path(f"inspections/{inspection.id}").exists()
    waiting = launch_inspection(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    with pytest.raises(Conflict, match="running inspection"):
        delete_checkpoint(ctx, oak, person=LOCAL)
    delete_inspection(ctx, waiting.id, person=LOCAL)
    assert list_inspections(ctx, oak) == []
    delete_checkpoint(ctx, oak, person=LOCAL)


def test_a_folder_of_this_machine_is_read_until_its_files_change(ctx: Context, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "folder")
    first = launch_inspection(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL)
    assert (first.checkpoint_id, first.checkpoint) == (None, "folder")
    do_job(ctx, first.job_id)
    assert launch_inspection(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL).id == first.id
    save_network(folder, seed=1)
    assert launch_inspection(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL).id != first.id


def save_network(folder: Path, *, seed: int = 0) -> Path:
    save_checkpoint(folder, model=make_network("gpt2", seed=seed), tokenizer=byte_tokenizer(), meta={})
    return folder
