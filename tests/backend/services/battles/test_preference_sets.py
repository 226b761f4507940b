"""From votes to a preference set, a DPO run and a rematch."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from backend.db.tables import (
    AnswerRating,
    Campaign,
    CampaignPrompt,
    Checkpoint,
    Completion,
    DatasetVersion,
    Job,
    RaterExclusion,
    Run,
    Vote,
)
from backend.domain.battles.preferences import LeftOut, PreferenceRules
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.jobs.events import CheckpointEvent
from backend.domain.jobs.results import TrainResult
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services import job_events as outcomes
from backend.services.battles.ballots import ballot_progress
from backend.services.battles.preference_sets import describe_left_out, make_vote_dataset, preview_preferences
from backend.services.battles.raters import rater_for
from backend.services.battles.rematches import enter_new_checkpoint, rematch_ready
from backend.services.battles.views import get_campaign, list_rematches
from backend.services.battles.vote_training import TrainingLaunch, plan_training, train_on_votes
from backend.services.context import LOCAL, Context
from backend.services.next_steps import next_steps
from backend.services.situation import read_situation
from tests.support.battle_world import write_all
from tests.support.jobs import take_job
from tests.support.scenario import Scenario, add_row


def voted(ctx: Context, *, num_prompts: int = 6, dataset_rows: int = 40, limit: int = 1000) -> str:
    campaign = Scenario(ctx).campaign(num_prompts=num_prompts, dataset_rows=dataset_rows)
    Scenario(ctx).votes(campaign, "Elm", limit=limit)
    return campaign.id


def hashes_of(ctx: Context, campaign_id: str) -> set[str]:
    with ctx.db.read() as session:
        return set(
            session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == campaign_id))
        )


def finish_run(ctx: Context, launch: TrainingLaunch, *, final: bool = True) -> None:
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
        outcomes.record_finish(
            session, ctx, claim, TrainResult(final_step=10, stopped=None if final else "stop_and_save")
        )


def test_a_preference_set_holds_prompt_chosen_and_rejected_with_its_provenance(ctx: Context) -> None:
    campaign_id = voted(ctx)
    made = make_vote_dataset(ctx, campaign_id, name="liked", person=LOCAL)
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
    assert isinstance(provenance, VotesProvenance)
    assert provenance.campaign_id == campaign_id
    assert {contestant["name"] for contestant in provenance.contestants} == {"Oak", "Elm"}
    assert all(len(row["votes"]) == 1 and row["raters"] == 1 and row["agreement"] == 1.0 for row in provenance.rows)


def test_ties_and_both_bad_give_no_pair(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4, dataset_rows=20)
    labels = iter(["TIE", "BOTH_BAD", "TIE", "BOTH_BAD"])
    scenario.votes(campaign, lambda a, b: next(labels))
    left_out = preview_preferences(ctx, campaign.id).resolution.left_out
    assert left_out == {LeftOut.NO_PREFERENCE: 4}
    assert describe_left_out({LeftOut.SPLIT: 4, **left_out}.items()) == (
        "raters split evenly (4), no vote prefers an answer (4)"
    ), "“4 raters split evenly” were four pairs"
    with pytest.raises(InvalidInput, match="No vote in this campaign prefers"):
        train_on_votes(ctx, campaign.id, person=LOCAL, idempotency_key="k")


def test_one_click_makes_the_set_the_run_and_the_rematch_and_a_second_click_nothing_more(ctx: Context) -> None:
    campaign_id = voted(ctx)
    launch = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="click")
    again = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="click")
    assert (launch.base, launch.num_rows, launch.rematch.held_out) == ("Elm", 6, True)
    assert (again.run_id, again.rematch.id, again.dataset) == (launch.run_id, launch.rematch.id, launch.dataset)
    with ctx.db.read() as session:
        (run,) = session.scalars(select(Run)).all()
        job = session.get_one(Job, run.job_id)
        assert (run.config.objective, run.config.method, run.config.context) == ("dpo", "lora", 128)
        assert job.depends_on_id == session.get_one(DatasetVersion, run.dataset_version_id).job_id
        assert len(session.scalars(select(Campaign)).all()) == 2
    (rematch,) = list_rematches(ctx, campaign_id)
    assert (rematch.parent_id, rematch.run_id) == (campaign_id, run.id)
    assert [contestant.name for contestant in rematch.contestants] == ["Elm"]


def test_a_rematch_that_waits_for_its_run_asks_for_no_votes(ctx: Context, scenario: Scenario) -> None:
    """Its gold pairs were a ballot, and the overview asked for votes on them."""
    gold = [{"prompt": f"gold {n}", "better": f"right {n}", "worse": f"wrong {n}"} for n in range(3)]
    campaign = scenario.campaign(num_prompts=6, dataset_rows=40, gold=gold)
    scenario.votes(campaign, lambda a, b: "A" if a > b else "B")
    launch = train_on_votes(ctx, campaign.id, person=LOCAL, idempotency_key="k")
    assert ballot_progress(ctx, launch.rematch.id, rater_for(ctx, LOCAL)).total == 0
    assert launch.rematch.id not in [step.subject for step in next_steps(read_situation(ctx, LOCAL))]


def test_a_rematch_uses_prompts_that_the_run_has_not_trained_on(ctx: Context) -> None:
    campaign_id = voted(ctx)
    launch = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k")
    with ctx.db.read() as session:
        hashes = [
            set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == which)))
            for which in (campaign_id, launch.rematch.id)
        ]
    assert len(hashes[1]) == 6
    assert not hashes[0] & hashes[1]


def test_a_rematch_locks_voted_prompts_where_the_dataset_has_too_few_others(ctx: Context) -> None:
    campaign_id = voted(ctx, num_prompts=6, dataset_rows=7)
    preview = preview_preferences(ctx, campaign_id)
    assert (preview.num_locked, len(preview.pairs)) == (3, 3), "at most half"
    launch = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k")
    assert launch.rematch.held_out
    assert get_campaign(ctx, launch.rematch.id).num_prompts == 4, "three locked prompts and the dataset's last one"
    trained, rematch = (hashes_of(ctx, which) for which in (campaign_id, launch.rematch.id))
    assert len(trained - rematch) == 3


def test_prompts_of_a_rematch_are_never_trained_on_later(ctx: Context) -> None:
    campaign_id = voted(ctx, num_prompts=6, dataset_rows=6)
    launch = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k")
    everything = PreferenceRules(locked_share=0.0)
    assert len(preview_preferences(ctx, campaign_id, everything).pairs) == 3
    again = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="again", rules=everything)
    assert hashes_of(ctx, again.rematch.id) == hashes_of(ctx, launch.rematch.id)


def test_a_set_that_leaves_no_prompt_for_the_rematch_is_refused(ctx: Context) -> None:
    campaign_id = voted(ctx, num_prompts=4, dataset_rows=4)
    with pytest.raises(InvalidInput, match="none is left for the rematch"):
        train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k", rules=PreferenceRules(locked_share=0.0))
    with ctx.db.read() as session:
        assert session.scalars(select(Run)).all() == []


def test_a_second_rematch_uses_no_prompt_of_earlier_preference_sets(ctx: Context, scenario: Scenario) -> None:
    first = voted(ctx, num_prompts=8, dataset_rows=40)
    launch = train_on_votes(ctx, first, person=LOCAL, idempotency_key="1")
    finish_run(ctx, launch)
    write_all(ctx, launch.rematch.id)
    scenario.votes(launch.rematch.id, "Elm")
    second = train_on_votes(ctx, launch.rematch.id, person=LOCAL, idempotency_key="2")
    with ctx.db.read() as session:
        hashes = [
            set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == which)))
            for which in (first, launch.rematch.id, second.rematch.id)
        ]
    assert second.rematch.held_out
    assert not hashes[2] & (hashes[0] | hashes[1])
    assert second.rematch.name == "Rematch of Stories 2"


def test_the_finished_run_enters_its_checkpoint_against_its_parent(ctx: Context) -> None:
    launch = train_on_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
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
    launch = train_on_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
    finish_run(ctx, launch, final=False)
    assert len(get_campaign(ctx, launch.rematch.id).contestants) == 1
    assert rematch_ready(ctx, launch.rematch.id) is None
    with pytest.raises(Conflict, match="has not finished"):
        enter_new_checkpoint(ctx, launch.rematch.id, person=LOCAL)


def test_a_checkpoint_that_was_not_entered_automatically_can_be_entered_by_hand(ctx: Context) -> None:
    launch = train_on_votes(ctx, voted(ctx), person=LOCAL, idempotency_key="k")
    folder = ctx.artifacts.relative(ctx.artifacts.folder("runs", launch.run_id, "step-10"))
    add_row(ctx, Checkpoint(name="new", origin="run", run_id=launch.run_id, step=10, is_final=True, folder=folder))
    ready = rematch_ready(ctx, launch.rematch.id)
    assert ready is not None
    assert ready.name == "new"
    assert {
        contestant.name for contestant in enter_new_checkpoint(ctx, launch.rematch.id, person=LOCAL).contestants
    } == {"Elm", "new"}


def test_a_base_outside_the_campaign_or_a_rater_launches_nothing(ctx: Context) -> None:
    campaign_id = voted(ctx, limit=3)
    with ctx.db.write() as session:
        stranger = Checkpoint(name="Stranger", origin="added", folder="checkpoints/Oak")
        session.add(stranger)
        session.flush()
        stranger_id = stranger.id
    with pytest.raises(InvalidInput, match="is not in this campaign"):
        train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k", base_id=stranger_id)
    with pytest.raises(NotAllowed):
        train_on_votes(ctx, campaign_id, person=replace(LOCAL, role="rater"), idempotency_key="k")
    with ctx.db.read() as session:
        assert session.scalars(select(Run)).all() == []


def test_votes_of_an_excluded_rater_train_nothing(ctx: Context) -> None:
    campaign_id = voted(ctx)
    rater = rater_for(ctx, LOCAL)
    add_row(
        ctx,
        RaterExclusion(
            campaign_id=campaign_id, rater_id=rater.id, excluded=True, reason="too fast", created_at=ctx.now()
        ),
    )
    preview = preview_preferences(ctx, campaign_id)
    assert (len(preview.pairs), preview.num_excluded_votes) == (0, 6)
    with ctx.db.write() as session:
        later = ctx.now() + timedelta(seconds=1)
        session.add(RaterExclusion(campaign_id=campaign_id, rater_id=rater.id, excluded=False, created_at=later))
    assert len(preview_preferences(ctx, campaign_id).pairs) == 6


def test_rewritten_and_rated_answers_become_chat_and_kto_rows_with_their_votes(ctx: Context) -> None:
    campaign_id = voted(ctx)
    with ctx.db.write() as session:
        votes = session.scalars(select(Vote).order_by(Vote.created_at)).all()
        votes[0].rewrite = "  A better story.  "
        completions = session.scalars(select(Completion).order_by(Completion.id)).all()
        for number, value in ((0, 5), (1, 1), (2, 3)):
            session.add(
                AnswerRating(
                    campaign_id=campaign_id,
                    completion_id=completions[number].id,
                    rater_id=votes[0].rater_id,
                    revision=1,
                    value=value,
                )
            )
        vote_id, ids = votes[0].id, [completion.id for completion in completions]
    assert preview_preferences(ctx, campaign_id).num_rows == {"dpo": 6, "sft": 1, "kto": 2}
    made = make_vote_dataset(ctx, campaign_id, name="better", objective="sft", person=LOCAL)
    rows, provenance = rows_of(ctx, made.version.id)
    assert made.version.kind == "chat"
    assert [row["messages"][-1] for row in rows] == [{"role": "assistant", "content": "A better story."}]
    assert provenance.rows[0]["votes"] == [vote_id]
    made = make_vote_dataset(ctx, campaign_id, name="labelled", objective="kto", person=LOCAL)
    rows, provenance = rows_of(ctx, made.version.id)
    assert {row["label"] for row in rows} == {True, False}
    assert {row["answer_id"] for row in provenance.rows} == set(ids[:2])


def test_a_kto_run_trains_on_answers_that_most_raters_call_bad(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4, dataset_rows=20)
    scenario.votes(campaign, lambda a, b: "BOTH_BAD")
    launch = train_on_votes(ctx, campaign.id, person=LOCAL, idempotency_key="k", objective="kto")
    assert launch.num_rows == 8
    with ctx.db.read() as session:
        assert session.get_one(Run, launch.run_id).config.objective == "kto"


def test_the_plan_is_edited_before_the_launch_and_keeps_base_and_objective(ctx: Context) -> None:
    campaign_id = voted(ctx)
    plan = plan_training(ctx, campaign_id)
    assert {label for label, _ in plan.reasons} == {"Steps", "Learning rate", "Beta", "Method"}
    text = plan.config.to_yaml()
    with pytest.raises(InvalidInput, match="objective is orpo"):
        train_on_votes(
            ctx,
            campaign_id,
            person=LOCAL,
            idempotency_key="k",
            config_yaml=text.replace("objective: dpo", "objective: orpo"),
        )
    with pytest.raises(InvalidInput, match="base is not"):
        train_on_votes(
            ctx, campaign_id, person=LOCAL, idempotency_key="k", config_yaml=text.replace(plan.base.id, "other")
        )
    launch = train_on_votes(ctx, campaign_id, person=LOCAL, idempotency_key="k", config_yaml=text + "seed: 9\n")
    with ctx.db.read() as session:
        config = session.get_one(Run, launch.run_id).config
    assert config is not None
    assert (config.seed, config.dataset) == (9, launch.dataset)


def rows_of(ctx: Context, version_id: str) -> tuple[list[dict[str, Any]], VotesProvenance]:
    with ctx.db.read() as session:
        version = session.get_one(DatasetVersion, version_id)
        payload: dict[str, Any] = session.get_one(Job, version.job_id).payload
        provenance = version.provenance
    assert isinstance(provenance, VotesProvenance)
    return [json.loads(line) for line in ctx.artifacts.path(payload["source"]).read_text().splitlines()], provenance
