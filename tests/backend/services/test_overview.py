"""The overview over a filled installation: situation, gauges, results by benchmark."""

from __future__ import annotations

import json
import subprocess

import pytest
from sqlalchemy import select

from backend.db.tables import Alert, Checkpoint, Run, RunGroup
from backend.domain.battles.campaign import CampaignConfig, ContestantSource
from backend.domain.evaluation.tasks.reading import read_task
from backend.domain.jobs.states import Status
from backend.domain.training.rewards import SAME_REWARDS
from backend.services import overview
from backend.services.battles.campaigns import start_campaign
from backend.services.battles.raters import rater_for
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.workers import beat
from backend.services.next_steps import AttentionItem, StepKind, next_steps
from backend.services.overview import get_overview, get_strip, group_results
from backend.services.people.accounts import add_user
from backend.services.people.dismissals import dismiss_step, restore_steps
from backend.services.situation import _open_alerts, read_situation
from backend.services.training.reports import run_report_text
from tests.support import battle_world, run_world
from tests.support.evaluation_world import CHOICES, TEXTS
from tests.support.filled_installation import fill
from tests.support.scenario import Scenario, add_row, add_rows


def test_the_votes_a_visitor_can_still_cast_are_counted(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=4)
    assert [votes.num_votes for votes in read_situation(ctx, LOCAL).votes] == [4]
    scenario.votes(campaign, battle_world.prefer("Oak"), limit=3)
    assert [votes.num_votes for votes in read_situation(ctx, LOCAL).votes] == [1]


def test_a_campaign_of_files_names_its_contestants(ctx: Context) -> None:
    """The overview named checkpoints alone, and stood empty beside other campaigns."""
    files = {
        f"{name}.jsonl": "\n".join(json.dumps({"prompt": f"p{n}", "completion": f"{name} {n}"}) for n in range(3))
        for name in ("old", "new")
    }
    sources = [ContestantSource(file=name) for name in files]
    start_campaign(
        ctx, name="Files", contestants=sources, dataset="", config=CampaignConfig(), person=LOCAL, files=files
    )
    (line,) = get_overview(ctx, person=LOCAL).campaigns
    assert line.contestants == ("old", "new")


def test_the_disk_in_use_is_what_df_says(ctx: Context) -> None:
    """The overview said 80 % where `df` said 43 %: it counted as used what is reserved for the system."""
    used = subprocess.check_output(["df", "--output=pcent", ctx.artifacts.root], text=True).split()[-1]
    assert get_strip(ctx).gauges.disk_share == pytest.approx(int(used.removesuffix("%")) / 100, abs=0.011)


def test_the_newest_ended_runs_are_shown_however_many_are_queued_after_them(ctx: Context, scenario: Scenario) -> None:
    """Behind a long queue the overview said that no run had ended."""
    first = scenario.run(name="first")
    run_world.end(ctx, run_world.claim(ctx, first), Status.FINISHED)
    for number in range(60):
        scenario.run(name=f"queued {number}")
    assert [run.name for run in get_overview(ctx, person=LOCAL).recent] == ["first"]


def test_a_finished_run_is_named_until_one_of_its_checkpoints_is_evaluated(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = run_world.claim(ctx, run)
    early, last = scenario.checkpoint(run=run, step=50), scenario.checkpoint(run=run, step=100)
    assert read_situation(ctx, LOCAL).trained_without_evaluation == (), "it still trains"
    run_world.end(ctx, taken, run_world.Status.FINISHED)
    assert [item.id for item in read_situation(ctx, LOCAL).trained_without_evaluation] == [last]
    benchmark = scenario.benchmark("questions", CHOICES)
    scenario.evaluation(early, benchmark, [1.0, 0.0] * 20)
    assert read_situation(ctx, LOCAL).trained_without_evaluation == ()


def test_what_fails_in_a_filled_installation_is_in_one_place_and_votes_are_next(ctx: Context) -> None:
    fill(ctx)
    add_rows(
        ctx,
        Alert(fingerprint="disk", kind="disk", severity="critical", message="The disk is nearly full."),
        Alert(fingerprint="old", kind="disk", severity="warning", message="Solved.", resolved_at=ctx.now()),
    )
    shown = get_overview(ctx, person=LOCAL)
    assert [step.kind for step in shown.alerts] == [StepKind.ALERT, StepKind.WORKERS, StepKind.RUN]
    assert shown.alerts[0].text == "The disk is nearly full."
    assert "The loss became NaN at step 10." in shown.alerts[2].text
    assert shown.steps[0].kind is StepKind.VOTE


def test_a_run_in_trouble_is_an_alert_while_it_trains(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="wild", max_steps=400)
    taken = run_world.claim(ctx, run)
    losses = [{"type": "metrics", "step": n, "time": 1000.0 + n, "values": {"train_loss": 3.0}} for n in range(1, 200)]
    run_world.report(ctx, taken, *losses)
    assert read_situation(ctx, LOCAL).troubled_runs == ()
    wild = [{"type": "metrics", "step": n, "time": 1000.0 + n, "values": {"train_loss": 90.0}} for n in range(200, 300)]
    run_world.report(ctx, taken, *wild)
    (item,) = read_situation(ctx, LOCAL).troubled_runs
    assert (item.id, item.name) == (run.id, "wild")
    (alert,) = [step for step in get_overview(ctx, person=LOCAL).alerts if step.kind is StepKind.RUN]
    assert alert.text.startswith("The run wild is in trouble: ")
    dismiss_step(ctx, alert.key, person=LOCAL)
    wild = [{"type": "metrics", "step": n, "time": 1000.0 + n, "values": {"train_loss": 95.0}} for n in range(300, 390)]
    run_world.report(ctx, taken, *wild)
    add_row(
        ctx, Alert(fingerprint=f"diverging:{run.id}", kind="run_diverging", severity="critical", message="Run wild.")
    )
    assert get_overview(ctx, person=LOCAL).alerts == (), "its loss is another, and the alert tells the same"
    assert read_situation(ctx, LOCAL).troubled_runs[0].detail != item.detail


def test_a_run_that_learned_nothing_is_said_and_not_to_be_evaluated(ctx: Context, scenario: Scenario) -> None:
    """All its completions got the reward 0, and it was finished, to be deployed, with a loss of 0.000."""
    run = scenario.grpo(max_steps=4)
    taken = run_world.claim(ctx, run)
    values = {"train_loss": 0.0, "grad_norm": 0.0, "reward/mean": 0.0, "reward/std": 0.0}
    run_world.report(
        ctx, taken, *({"type": "metrics", "step": n, "time": 1000.0 + n, "values": values} for n in range(1, 5))
    )
    made = scenario.checkpoint(run=run, step=4, is_final=True, metrics={"val_reward/mean": 0.0})
    assert read_situation(ctx, LOCAL).troubled_runs == (), "the first steps of a run say nothing yet"
    run_world.end(ctx, taken, Status.FINISHED)
    situation = read_situation(ctx, LOCAL)
    assert [(one.id, one.detail) for one in situation.troubled_runs] == [(run.id, SAME_REWARDS)]
    assert made not in {one.id for one in (*situation.checkpoints, *situation.trained_without_evaluation)}
    assert get_overview(ctx, person=LOCAL).best == (), "the best of nothing"
    assert SAME_REWARDS in run_report_text(ctx, run.id)
    assert "train_loss" not in run_report_text(ctx, run.id).partition("## ")[0]


def test_a_run_that_diverged_and_finished_stays_an_alert_until_dismissed(ctx: Context, scenario: Scenario) -> None:
    """It was green, "finished", and the alert of its divergence gone, while its validation loss was 705."""
    runs = [scenario.run(name=name, max_steps=4, warmup_steps=0) for name in ("wild", "calm", "tried", "stopped")]
    with ctx.db.write() as session:
        session.add(group := RunGroup(name="rates", kind="sweep", config={}))
        session.flush()
        session.get_one(Run, runs[2].id).group_id = group.id
    for run, loss, status in zip(
        runs, (555.8, 3.0, 555.8, 555.8), [Status.FINISHED] * 3 + [Status.CANCELLED], strict=True
    ):
        taken = run_world.claim(ctx, run)
        metrics = (
            {"type": "metrics", "step": n, "time": 1000.0 + n, "values": {"train_loss": loss}} for n in (1, 2, 3, 4)
        )
        run_world.report(ctx, taken, *metrics)
        scenario.checkpoint(run=run, step=4, is_final=True)
        run_world.end(ctx, taken, status)
    (item,) = read_situation(ctx, LOCAL).troubled_runs
    assert (item.id, item.name) == (runs[0].id, "wild"), "a sweep tries rates, and who stopped a run knows of it"
    (alert,) = [step for step in get_overview(ctx, person=LOCAL).alerts if step.kind is StepKind.RUN]
    dismiss_step(ctx, alert.key, person=LOCAL)
    assert get_overview(ctx, person=LOCAL).alerts == ()


def test_a_dismissed_step_stays_away_from_that_person_until_its_situation_changes(
    ctx: Context, scenario: Scenario
) -> None:
    campaign = scenario.campaign(num_prompts=4)
    anna, bert = (add_user(ctx, name, "a long password", person=LOCAL) for name in ("Anna", "Bert"))

    def votes(person: Person) -> list[str]:
        return [step.text for step in get_overview(ctx, person=person).steps if step.kind is StepKind.VOTE]

    (step,) = [one for one in get_overview(ctx, person=anna).steps if one.kind is StepKind.VOTE]
    for _ in range(2):  # a double click
        dismiss_step(ctx, step.key, person=anna)
    assert (votes(anna), len(votes(bert))) == ([], 1)
    assert get_overview(ctx, person=anna).num_dismissed == 1
    scenario.votes(campaign, battle_world.prefer("Oak"), rater=rater_for(ctx, anna), limit=2)
    assert votes(anna) == [], "fewer votes await, and it is still that campaign"
    scenario.votes(campaign, battle_world.prefer("Oak"), rater=rater_for(ctx, anna))
    assert get_overview(ctx, person=anna).num_dismissed == 0, "nothing awaits: there is nothing to keep away"
    dismiss_step(ctx, step.key, person=bert)
    restore_steps(ctx, person=bert)
    assert len(votes(bert)) == 1


def test_another_failure_of_what_was_dismissed_is_told(ctx: Context, scenario: Scenario) -> None:
    scenario.run(status=Status.FAILED, cause="NaN.", name="first")
    (step,) = [one for one in get_overview(ctx, person=LOCAL).alerts if one.kind is StepKind.RUN]
    dismiss_step(ctx, step.key, person=LOCAL)
    assert [one for one in get_overview(ctx, person=LOCAL).alerts if one.kind is StepKind.RUN] == []
    second = scenario.run(status=Status.FAILED, cause="NaN.", name="second")
    alerts = [one.subject for one in get_overview(ctx, person=LOCAL).alerts if one.kind is StepKind.RUN]
    assert alerts == [second.id]


def finished_run(ctx: Context, name: str, losses: dict[int, float], **config: object) -> str:
    """A finished run with a checkpoint at each step that measured val_loss."""
    run = Scenario(ctx).run(name=name, **config)
    taken = run_world.claim(ctx, run)
    for step, loss in losses.items():
        checkpoint = Scenario(ctx).checkpoint(run=run, step=step)
        with ctx.db.write() as session:
            session.get_one(Checkpoint, checkpoint).metrics = {"val_loss": loss}
    run_world.end(ctx, taken, Status.FINISHED)
    return run.id


def test_the_best_checkpoint_is_among_those_of_the_same_data_tokenizer_and_objective(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.parts()
    scenario.tokenizer("letters")
    scenario.dataset("poems")
    finished_run(ctx, "lowest, other tokenizer", {10: 0.2}, tokenizer="letters")
    finished_run(ctx, "lowest, other data", {10: 0.1}, dataset="poems")
    finished_run(ctx, "good", {10: 2.5, 20: 2.0, 30: 2.2}, seed=2)
    finished_run(ctx, "newest", {10: 2.1, 20: 2.4}, seed=3)
    if ctx.db.is_sqlite:  # PostgreSQL stores no NaN in JSON
        finished_run(ctx, "broken", {10: float("nan")}, seed=4)
    (best,) = get_overview(ctx, person=LOCAL).best
    assert (best.objective, best.name, best.value) == ("pretrain", "good · step 20", 2.0)
    assert (best.metric, best.data, best.num_runs, best.num_checkpoints) == ("val_loss", "tales@1", 2, 5)


def test_of_a_sweep_the_best_member_is_to_be_deployed_not_the_newest(ctx: Context, scenario: Scenario) -> None:
    with ctx.db.write() as session:
        session.add(group := RunGroup(name="rates", kind="sweep", config={}))
        session.flush()
        rates = group.id
    made = []
    for name, loss in (("rates 1", 6.0), ("rates 2", 6.5), ("rates 3", None)):
        run = scenario.run(name=name)
        run_world.end(ctx, run_world.claim(ctx, run), Status.FINISHED)
        with ctx.db.write() as session:
            session.get_one(Run, run.id).group_id = rates
        made.append(scenario.checkpoint(run=run, step=15, metrics={} if loss is None else {"val_loss": loss}))
    situation = read_situation(ctx, LOCAL)
    assert [one.id for one in situation.checkpoints] == [made[0]]
    (step,) = [step for step in next_steps(situation) if step.kind is StepKind.DEPLOY]
    assert step.text == "rates 1 · step 15 can answer at an endpoint."


def test_results_are_grouped_by_benchmark_best_first_with_the_difference_from_the_best(
    ctx: Context, scenario: Scenario
) -> None:
    questions, texts = scenario.benchmark("questions", CHOICES), scenario.benchmark("texts", TEXTS, kind="text", val=4)
    scenario.evaluation("Oak", questions, [1.0, 0.0] * 20)
    scenario.evaluation("Elm", questions, [1.0, 1.0, 1.0, 0.0] * 10)
    scenario.evaluation("Oak", texts, nlls=[11.0, 12.0])
    scenario.evaluation("Elm", texts, nlls=[15.0, 16.0])
    groups = {group.title: group for group in get_overview(ctx, person=LOCAL).results}
    assert [line.evaluation.checkpoint for line in groups["questions@1"].lines] == ["Elm", "Oak"]
    assert [line.delta for line in groups["questions@1"].lines] == [None, -0.25]
    assert [line.evaluation.checkpoint for line in groups["texts@1 (val split)"].lines] == ["Oak", "Elm"], (
        "lower bits per byte are better"
    )
    assert groups["texts@1 (val split)"].metric == "bits_per_byte"


def test_the_results_of_a_part_of_a_benchmark_say_so(ctx: Context, scenario: Scenario) -> None:
    """The overview named no limit of items where a benchmark had one column."""
    text = "name: law\ntitle: Law\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
    for name in ("questions", "contract_of_sale", "law-test"):
        scenario.benchmark(name, CHOICES)
    scenario.evaluation("Oak", "questions", [1.0, 0.0], limit=2)
    for name in ("contract_of_sale", "law-test"):
        scenario.evaluation("Oak", name, [1.0, 0.0], task=read_task(text), limit=2)
    titles = [group.title for group in get_overview(ctx, person=LOCAL).results]
    assert sorted(titles) == ["Law (contract_of_sale@1, 2 items)", "law-test@1 (2 items)", "questions@1 (2 items)"]


def test_no_evaluation_is_no_group() -> None:
    assert group_results([]) == ()


def test_gauges_count_each_machine_once(ctx: Context) -> None:
    assert get_strip(ctx).gauges.cpu_share is None
    assert get_strip(ctx).gauges.num_workers == 0
    gpu = {"index": "0", "utilisation_percent": 50.0, "memory_used_bytes": 10, "memory_total_bytes": 40}
    for host, queue, cpu, cores in (("a", "train", 100.0, 2), ("a", "cpu", 100.0, 2), ("b", "serve", 0.0, 6)):
        gauges = {
            "cpu_percent": cpu,
            "cpu_count": cores,
            "memory_used_bytes": 3,
            "memory_total_bytes": 8,
            "gpus": [gpu] if host == "a" else [],
        }
        beat(ctx, name=f"{host}/{queue}", host=host, pid=1, slots={queue: 1}, devices=[], gauges=gauges)
    gauges_ = get_strip(ctx).gauges
    assert (gauges_.num_workers, gauges_.cpu_share, gauges_.memory_used_bytes, gauges_.memory_total_bytes) == (
        3,
        0.25,
        6,
        16,
    )
    assert (gauges_.num_gpus, gauges_.gpu_share) == (1, 0.5)


def test_older_failures_follow_those_that_were_dismissed(ctx: Context, scenario: Scenario) -> None:
    for n in range(5):
        scenario.run(status=Status.FAILED, cause="NaN.", name=f"run {n}", seed=n)
    for step in get_overview(ctx, person=LOCAL).alerts[:3]:
        dismiss_step(ctx, step.key, person=LOCAL)
    assert len([one for one in get_overview(ctx, person=LOCAL).alerts if one.kind is StepKind.RUN]) == 2


def test_a_failing_endpoint_hides_its_own_lost_replicas_alone(ctx: Context) -> None:
    with ctx.db.write() as session:
        for name in ("a", "tales", "a:b"):
            message = f"{name}: 0 of 1 replicas ready"
            session.add(Alert(fingerprint=name, kind="replica_down", severity="critical", message=message))
    alerts = _open_alerts(ctx, [AttentionItem("a", "a")], [])
    assert sorted(one.name for one in alerts) == ["a:b: 0 of 1 replicas ready", "tales: 0 of 1 replicas ready"]


def test_a_stopped_runs_checkpoint_without_validation_is_counted_beside_the_best(ctx: Context) -> None:
    """A run of the lowest loss was left out without a word: *Stop and save* had not validated."""
    finished_run(ctx, "good", {10: 2.0})
    stopped = Scenario(ctx).run(name="stopped", seed=2)
    taken = run_world.claim(ctx, stopped)
    Scenario(ctx).checkpoint(run=stopped, step=30)
    run_world.end(ctx, taken, Status.CANCELLED)
    (best,) = get_overview(ctx, person=LOCAL).best
    assert (best.name, best.num_runs, best.num_checkpoints, best.num_unmeasured) == ("good · step 10", 1, 1, 1)
    with ctx.db.write() as session:
        checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.run_id == stopped.id)).one()
        checkpoint.metrics = {"val_loss": 1.5}
    (best,) = get_overview(ctx, person=LOCAL).best
    assert (best.name, best.num_unmeasured) == ("stopped · step 30", 0)


def test_newer_runs_without_a_measurement_do_not_hide_the_best_checkpoint(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "RUNS_COMPARED", 2)
    Scenario(ctx).parts()
    Scenario(ctx).dataset("poems")
    finished_run(ctx, "good", {10: 2.0})
    finished_run(ctx, "without a split", {}, dataset="poems")
    for n in range(3):
        finished_run(ctx, f"tuned {n}", {}, seed=n)
    with ctx.db.write() as session:
        for run in session.scalars(select(Run).where(Run.name.startswith("tuned"))):
            run.objective = "sft"
    assert [best.name for best in get_overview(ctx, person=LOCAL).best] == ["good · step 10"]
