"""From votes to a preference set, a DPO run and a rematch."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, DatasetVersion, Job, Run
from backend.domain.battles.preference_pairs import CastVote, resolve_preferences
from backend.domain.jobs.events import CheckpointEvent
from backend.domain.jobs.results import TrainResult
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services import job_events as outcomes
from backend.services.battles.preference_sets import (
    DpoLaunch,
    enter_new_checkpoint,
    launch_dpo_from_votes,
    make_preference_set,
    preview_preferences,
    rematch_ready,
)
from backend.services.battles.raters import rater_for
from backend.services.battles.views import get_campaign, list_rematches
from backend.services.context import LOCAL, Context
from tests.support.battle_world import make_campaign, prefer, vote_all, write_all
from tests.support.jobs import take_job


def cast(vote: str, winner: str | None, *, rater: str = "r", prompt: str = "p", pair: tuple[str, str] = ("x", "y")) -> CastVote:
    return CastVote(vote=vote, rater=rater, prompt=prompt, contestants=pair, winner=winner)


def test_the_majority_of_decisive_votes_decides_a_pair() -> None:
    votes = [cast("1", "x", rater="r"), cast("2", "y", rater="s"), cast("3", "x", rater="t", pair=("y", "x")), cast("4", None, rater="u")]
    resolution = resolve_preferences(votes)
    (pair,) = resolution.preferences
    assert (pair.chosen, pair.rejected, pair.votes, pair.num_raters) == ("x", "y", ("1", "2", "3"), 3)
    assert pair.agreement == pytest.approx(2 / 3)
    assert (resolution.undecided_votes, resolution.split_pairs) == (1, 0)


def test_a_prompt_on_which_raters_split_evenly_gives_no_pair() -> None:
    resolution = resolve_preferences([cast("1", "x"), cast("2", "y", rater="s"), cast("3", "x", prompt="q")])
    assert [pair.prompt for pair in resolution.preferences] == ["q"]
    assert resolution.split_pairs == 1


def voted(ctx: Context, *, num_prompts: int = 6, dataset_rows: int = 40, limit: int = 1000) -> str:
    campaign = make_campaign(ctx, num_prompts=num_prompts, dataset_rows=dataset_rows)
    vote_all(ctx, campaign.id, rater_for(ctx, LOCAL), prefer("Elm"), limit=limit)
    return campaign.id


def finish_run(ctx: Context, launch: DpoLaunch, *, final: bool = True) -> None:
    """Report what the training room reports: the dataset is ready, a checkpoint, the end."""
    with ctx.db.write() as session:
        run = session.get_one(Run, launch.run_id)
        session.get_one(Job, run.job_id).depends_on_id = None
        job_id = run.job_id
    claim = take_job(ctx, job_id)
    folder = ctx.artifacts.relative(ctx.artifacts.folder("runs", launch.run_id, "step-10"))
    event = CheckpointEvent(step=10, folder=folder, final=final, adapter=True, bytes=10, facts={"context": 128})
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [event])
        outcomes.record_finish(session, ctx, claim, TrainResult(final_step=10, stopped=None if final else "stop_and_save"))


def test_a_preference_set_holds_prompt_chosen_and_rejected_with_its_provenance(ctx: Context) -> None:
    campaign_id = voted(ctx)
    made = make_preference_set(ctx, campaign_id, name="liked", person=LOCAL)
    assert (made.version.kind, made.version.dataset) == ("preference", "liked")
    with ctx.db.read() as session:
        version = session.get_one(DatasetVersion, made.version.id)
        payload: dict[str, Any] = session.get_one(Job, version.job_id).payload
        provenance = version.provenance
    rows = [json.loads(line) for line in ctx.artifacts.path(payload["source"]).read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert row["prompt"][-1]["role"] == "user"
        question = row["prompt"][-1]["content"]
        assert row["chosen"] == [{"role": "assistant", "content": f"Elm answers: {question}"}]
        assert row["rejected"] == [{"role": "assistant", "content": f"Oak answers: {question}"}]
    assert provenance["campaign_id"] == campaign_id
    assert {contestant["name"] for contestant in provenance["contestants"]} == {"Oak", "Elm"}
    assert all(len(row["votes"]) == 1 and row["raters"] == 1 and row["agreement"] == 1.0 for row in provenance["rows"])


def test_ties_and_both_bad_give_no_pair(ctx: Context) -> None:
    campaign = make_campaign(ctx, num_prompts=4)
    labels = iter(["TIE", "BOTH_BAD", "TIE", "BOTH_BAD"])
    vote_all(ctx, campaign.id, rater_for(ctx, LOCAL), lambda a, b: next(labels))
    assert preview_preferences(ctx, campaign.id).undecided_votes == 4
    with pytest.raises(InvalidInput, match="No vote in this campaign prefers"):
        launch_dpo_from_votes(ctx, campaign.id, person=LOCAL, idempotency_key="k")


def test_one_click_makes_the_set_the_run_and_the_rematch_and_a_second_click_nothing_more(ctx: Context) -> None:
    campaign_id = voted(ctx)
    launch = launch_dpo_from_votes(ctx, campaign_id, person=LOCAL, idempotency_key="click")
    again = launch_dpo_from_votes(ctx, campaign_id, person=LOCAL, idempotency_key="click")
    assert (launch.base, launch.num_pairs, launch.held_out) == ("Elm", 6, True)
    assert (again.run_id, again.rematch.id, again.dataset) == (launch.run_id, launch.rematch.id, launch.dataset)
    with ctx.db.read() as session:
        (run,) = session.scalars(select(Run)).all()
        job = session.get_one(Job, run.job_id)
        assert (run.config["objective"], run.config["method"], run.config["context"]) == ("dpo", "lora", 128)
        assert job.depends_on_id == session.get_one(DatasetVersion, run.dataset_version_id).job_id
        assert len(session.scalars(select(Campaign)).all()) == 2
    (rematch,) = list_rematches(ctx, campaign_id)
    assert (rematch.parent_id, rematch.run_id) == (campaign_id, run.id)
    assert [contestant.name for contestant in rematch.contestants] == ["Elm"]


def test_a_rematch_uses_prompts_that_the_run_has_not_trained_on(ctx: Context) -> None:
    campaign_id = voted(ctx)
    launch = launch_dpo_from_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k")
    with ctx.db.read() as session:
        hashes = [
            set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == which)))
            for which in (campaign_id, launch.rematch.id)
        ]
    assert len(hashes[1]) == 6
    assert not hashes[0] & hashes[1]


def test_a_rematch_without_enough_unseen_prompts_says_so_and_reuses_the_old_ones(ctx: Context) -> None:
    campaign_id = voted(ctx, num_prompts=6, dataset_rows=7)
    launch = launch_dpo_from_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k")
    assert not launch.held_out
    assert get_campaign(ctx, launch.rematch.id).num_prompts == 6


def test_a_second_rematch_uses_no_prompt_of_earlier_preference_sets(ctx: Context) -> None:
    first = voted(ctx, num_prompts=8, dataset_rows=40)
    launch = launch_dpo_from_votes(ctx, first, person=LOCAL, idempotency_key="1")
    finish_run(ctx, launch)
    write_all(ctx, launch.rematch.id)
    vote_all(ctx, launch.rematch.id, rater_for(ctx, LOCAL), prefer("Elm"))
    second = launch_dpo_from_votes(ctx, launch.rematch.id, person=LOCAL, idempotency_key="2")
    with ctx.db.read() as session:
        hashes = [
            set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == which)))
            for which in (first, launch.rematch.id, second.rematch.id)
        ]
    assert second.held_out
    assert not hashes[2] & (hashes[0] | hashes[1])
    assert second.rematch.name == "Rematch of Stories 2"


def test_the_finished_run_enters_its_checkpoint_against_its_parent(ctx: Context) -> None:
    launch = launch_dpo_from_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
    finish_run(ctx, launch)
    rematch = get_campaign(ctx, launch.rematch.id)
    with ctx.db.read() as session:
        new = session.scalars(select(Checkpoint).where(Checkpoint.run_id == launch.run_id)).one()
    assert {contestant.checkpoint_id for contestant in rematch.contestants} == {new.id, new.parent_id}
    assert all(contestant.is_writing for contestant in rematch.contestants)
    assert rematch_ready(ctx, rematch.id) is None
    assert len(enter_new_checkpoint(ctx, rematch.id, person=LOCAL).contestants) == 2
    with ctx.db.read() as session:
        assert len(session.scalars(select(Job).where(Job.kind == "generate")).all()) == 4


def test_a_run_stopped_before_its_end_enters_nothing(ctx: Context) -> None:
    launch = launch_dpo_from_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
    finish_run(ctx, launch, final=False)
    assert len(get_campaign(ctx, launch.rematch.id).contestants) == 1
    assert rematch_ready(ctx, launch.rematch.id) is None
    with pytest.raises(Conflict, match="has not finished"):
        enter_new_checkpoint(ctx, launch.rematch.id, person=LOCAL)


def test_a_checkpoint_that_was_not_entered_automatically_can_be_entered_by_hand(ctx: Context) -> None:
    launch = launch_dpo_from_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
    folder = ctx.artifacts.relative(ctx.artifacts.folder("runs", launch.run_id, "step-10"))
    with ctx.db.write() as session:
        session.add(Checkpoint(name="new", origin="run", run_id=launch.run_id, step=10, is_final=True, folder=folder))
    ready = rematch_ready(ctx, launch.rematch.id)
    assert ready is not None
    assert ready.name == "new"
    assert {contestant.name for contestant in enter_new_checkpoint(ctx, launch.rematch.id, person=LOCAL).contestants} == {"Elm", "new"}


def test_a_base_outside_the_campaign_or_a_rater_launches_nothing(ctx: Context) -> None:
    campaign_id = voted(ctx, limit=3)
    with ctx.db.write() as session:
        stranger = Checkpoint(name="Stranger", origin="added", folder="checkpoints/Oak")
        session.add(stranger)
        session.flush()
        stranger_id = stranger.id
    with pytest.raises(InvalidInput, match="is not in this campaign"):
        launch_dpo_from_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k", base_id=stranger_id)
    with pytest.raises(NotAllowed):
        launch_dpo_from_votes(ctx, campaign_id, person=replace(LOCAL, role="rater"), idempotency_key="k")
    with ctx.db.read() as session:
        assert session.scalars(select(Run)).all() == []
