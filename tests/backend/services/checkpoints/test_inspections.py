"""Readings: asked for once, answered from the store after that, kept with what they are about."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from backend.domain.checkpoints.inspection_config import ReadingConfig
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.checkpoints.checkpoints import delete_checkpoint
from backend.services.checkpoints.inspection_results import ReadingContents
from backend.services.checkpoints.inspections import delete_reading, find_reading, get_reading, launch_reading, list_readings
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.jobs import request_stop
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.inspection_networks import add_network, make_network
from tests.support.job_work import do_job

TEXT = ReadingConfig(text="The cat.")


def answered(ctx: Context, checkpoint: str, config: ReadingConfig = TEXT, **values: Any) -> ReadingContents:
    """Ask, do the work, and open the answer."""
    reading = launch_reading(ctx, checkpoint=checkpoint, config=config, person=LOCAL, **values)
    if not reading.is_ready:
        do_job(ctx, str(reading.job_id))
    return ReadingContents(ctx, get_reading(ctx, reading.id))


def test_the_same_question_gives_the_stored_answer(ctx: Context) -> None:
    oak, elm = add_network(ctx, "oak"), add_network(ctx, "elm", seed=1)
    first = launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    twice = launch_reading(ctx, checkpoint=oak, config=TEXT, person=LOCAL)
    assert (twice.id, twice.reused, first.reused) == (first.id, True, False)
    do_job(ctx, str(first.job_id))
    stored = launch_reading(ctx, checkpoint=oak, config=TEXT, person=LOCAL)
    assert (stored.id, stored.is_ready) == (first.id, True)
    assert find_reading(ctx, checkpoint=oak, config=TEXT) == get_reading(ctx, first.id)
    others = [
        launch_reading(ctx, checkpoint=oak, config=TEXT, person=LOCAL, again=True),
        launch_reading(ctx, checkpoint=oak, config=ReadingConfig(text="The cat"), person=LOCAL),
        launch_reading(ctx, checkpoint=oak, config=ReadingConfig(), person=LOCAL),
        launch_reading(ctx, checkpoint=oak, config=TEXT, person=LOCAL, against="elm"),
        launch_reading(ctx, checkpoint=elm, config=TEXT, person=LOCAL, against="oak"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 6
    assert {view.id for view in list_readings(ctx, elm)} == {others[3].id, others[4].id}
    assert [view.label for view in list_readings(ctx, oak)][-1] == "The cat."


def test_a_failed_or_lost_answer_is_made_anew(ctx: Context) -> None:
    add_network(ctx, "oak")
    first = launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    request_stop(ctx, str(first.job_id))
    second = launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    assert second.id != first.id
    do_job(ctx, str(second.job_id))
    ctx.artifacts.remove(f"readings/{second.id}")
    with pytest.raises(NotFound, match="gone"):
        ReadingContents(ctx, get_reading(ctx, second.id))
    assert launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL).id != second.id


def test_contents_say_what_was_expected_at_each_token(ctx: Context) -> None:
    add_network(ctx, "oak")
    contents = answered(ctx, "oak")
    lines = contents.tokens()
    assert "".join(line.text for line in lines[1:]) == "The cat."
    assert (lines[0].special, lines[0].surprisal, lines[0].rank, lines[0].expected) == (True, None, None, ())
    assert all(len(line.expected) == 10 for line in lines[1:])
    assert sum(line.surprisal or 0 for line in lines) == pytest.approx(contents.reading.result["loss"]["sum_nats"], rel=1e-5)
    for line in lines[1:]:
        if line.rank is not None and line.rank <= 10 and line.surprisal is not None:
            chosen = line.expected[line.rank - 1]
            assert (chosen.id, chosen.probability) == (line.id, pytest.approx(math.exp(-line.surprisal), rel=1e-4))
    assert contents.attention(0).shape == (4, 9, 9)
    with pytest.raises(NotFound):
        contents.attention(17)


def test_a_pair_and_weights_are_opened_too(ctx: Context) -> None:
    add_network(ctx, "oak")
    add_network(ctx, "elm", seed=1)
    pair = answered(ctx, "oak", against="elm")
    assert pair.reading.other == "elm"
    assert pair.tokens(prefix="other_")[1].surprisal != pair.tokens()[1].surprisal
    weights = answered(ctx, "oak", ReadingConfig(), against="elm")
    (line,) = [line for line in weights.tensors() if line.name == "model.layers.1.mlp.up_proj.weight"]
    assert (line.layer, line.part, line.shape) == (1, "mlp.up_proj.weight", (48, 32))
    assert {change.name for change in weights.changes()} == {line.name for line in weights.tensors()}
    assert weights.missing == {"only_first": [], "only_other": [], "unlike": []}


def test_nothing_is_unpickled(ctx: Context) -> None:
    add_network(ctx, "oak")
    contents = answered(ctx, "oak")
    np.savez(ctx.artifacts.path(f"readings/{contents.reading.id}/numbers.npz"), ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        contents.array("ids")


def test_what_can_t_be_asked_is_refused_in_words(ctx: Context, tmp_path: Path) -> None:
    add_network(ctx, "oak")
    with pytest.raises(InvalidInput, match="empty"):
        launch_reading(ctx, checkpoint="oak", config=ReadingConfig(text=" \n"), person=LOCAL)
    with pytest.raises(NotFound, match="ash"):
        launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL, against="ash")
    with pytest.raises(NotFound):
        launch_reading(ctx, checkpoint=str(tmp_path), config=TEXT, person=LOCAL)
    with pytest.raises(NotAllowed):
        launch_reading(ctx, checkpoint="oak", config=TEXT, person=Person(id=None, name="r", role="rater"))
    folder = str(ctx.artifacts.path("checkpoints/oak"))
    assert launch_reading(ctx, checkpoint=folder, config=TEXT, person=LOCAL).checkpoint_id is None
    with pytest.raises(NotAllowed, match="not folders"):
        launch_reading(ctx, checkpoint=folder, config=TEXT, person=Person(id="e", name="Engineer", role="engineer"))
    with pytest.raises(ValidationError, match="NUL"):
        ReadingConfig(text="a\x00b")
    with pytest.raises(ValidationError, match="not both"):
        ReadingConfig.model_validate({"text": "a", "messages": [{"content": "b"}]})
    with pytest.raises(NotFound):
        get_reading(ctx, "none")


def test_a_reading_is_deleted_with_its_files_even_while_it_is_made(ctx: Context) -> None:
    oak = add_network(ctx, "oak")
    reading = answered(ctx, "oak").reading
    delete_reading(ctx, reading.id, person=LOCAL)
    assert not ctx.artifacts.path(f"readings/{reading.id}").exists()
    waiting = launch_reading(ctx, checkpoint="oak", config=TEXT, person=LOCAL)
    with pytest.raises(Conflict, match="running inspection"):
        delete_checkpoint(ctx, oak, person=LOCAL)
    delete_reading(ctx, waiting.id, person=LOCAL)
    assert list_readings(ctx, oak) == []
    delete_checkpoint(ctx, oak, person=LOCAL)


def test_a_folder_of_this_machine_is_read_until_its_files_change(ctx: Context, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "folder")
    first = launch_reading(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL)
    assert (first.checkpoint_id, first.checkpoint) == (None, "folder")
    do_job(ctx, str(first.job_id))
    assert launch_reading(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL).id == first.id
    save_network(folder, seed=1)
    assert launch_reading(ctx, checkpoint=str(folder), config=TEXT, person=LOCAL).id != first.id


def save_network(folder: Path, *, seed: int = 0) -> Path:
    save_checkpoint(folder, model=make_network("gpt2", seed=seed), tokenizer=byte_tokenizer(), meta={})
    return folder
