"""The overview over a filled installation: situation, gauges, results by benchmark."""

from __future__ import annotations

import json

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.campaign_file import ContestantSource
from backend.services.battles.campaigns import start_campaign
from backend.services.battles.raters import rater_for
from backend.services.context import LOCAL, Context
from backend.services.jobs.workers import beat
from backend.services.next_steps import StepKind
from backend.services.overview import get_overview, get_strip, group_results
from backend.services.situation import read_situation
from tests.support import battle_world, run_world
from tests.support.evaluation_world import CHOICES, TEXTS, add_benchmark, evaluated, predicted
from tests.support.filled_installation import fill


def test_the_votes_a_visitor_can_still_cast_are_counted(ctx: Context) -> None:
    campaign = battle_world.make_campaign(ctx, num_prompts=4)
    assert [votes.num_votes for votes in read_situation(ctx, LOCAL).votes] == [4]
    battle_world.vote_all(ctx, campaign.id, rater_for(ctx, LOCAL), battle_world.prefer("Oak"), limit=3)
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


def test_a_finished_run_is_named_until_one_of_its_checkpoints_is_evaluated(ctx: Context) -> None:
    run_world.add_parts(ctx)
    run = run_world.launch(ctx, name="first")
    taken = run_world.claim(ctx, run)
    early, last = run_world.add_checkpoint(ctx, run, 50), run_world.add_checkpoint(ctx, run, 100)
    assert read_situation(ctx, LOCAL).trained_without_evaluation == (), "it still trains"
    run_world.end(ctx, taken, run_world.Status.FINISHED)
    assert [item.id for item in read_situation(ctx, LOCAL).trained_without_evaluation] == [last]
    benchmark = add_benchmark(ctx, "questions", CHOICES)
    evaluated(ctx, early, benchmark, [1.0, 0.0] * 20)
    assert read_situation(ctx, LOCAL).trained_without_evaluation == ()


def test_the_first_steps_of_a_filled_installation_are_its_failures_and_votes(ctx: Context) -> None:
    fill(ctx)
    steps = get_overview(ctx, person=LOCAL).steps
    assert [step.kind for step in steps] == [StepKind.WORKERS, StepKind.RUN, StepKind.VOTE]
    assert "The loss became NaN at step 10." in steps[1].text


def test_results_are_grouped_by_benchmark_best_first_with_the_difference_from_the_best(ctx: Context) -> None:
    for name in ("Oak", "Elm"):
        battle_world.add_checkpoint(ctx, name)
    questions, texts = add_benchmark(ctx, "questions", CHOICES), add_benchmark(ctx, "texts", TEXTS, kind="text", val=4)
    evaluated(ctx, "Oak", questions, [1.0, 0.0] * 20)
    evaluated(ctx, "Elm", questions, [1.0, 1.0, 1.0, 0.0] * 10)
    predicted(ctx, "Oak", texts, [11.0, 12.0])
    predicted(ctx, "Elm", texts, [15.0, 16.0])
    groups = {group.benchmark: group for group in get_overview(ctx, person=LOCAL).results}
    assert [line.evaluation.checkpoint for line in groups["questions@1"].lines] == ["Elm", "Oak"]
    assert [line.delta for line in groups["questions@1"].lines] == [None, -0.25]
    assert [line.evaluation.checkpoint for line in groups["texts@1"].lines] == ["Oak", "Elm"], (
        "lower bits per byte are better"
    )
    assert groups["texts@1"].metric == "bits_per_byte"


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
        beat(ctx, name=f"{host}/{queue}", host=host, pid=1, queues=[queue], concurrency=1, devices=[], gauges=gauges)
    gauges_ = get_strip(ctx).gauges
    assert (gauges_.num_workers, gauges_.cpu_share, gauges_.memory_used_bytes, gauges_.memory_total_bytes) == (
        3,
        0.25,
        6,
        16,
    )
    assert (gauges_.num_gpus, gauges_.gpu_share) == (1, 0.5)
