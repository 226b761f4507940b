"""An installation with one of everything, for tests that look at every page. Rows are written as workers write them;
nothing runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pyarrow
import pyarrow.parquet
from sqlalchemy import select

from backend.db.tables import DatasetVersion, PromptMatrix, Replica, Worker
from backend.domain.jobs.events import ReadyEvent
from backend.domain.jobs.states import Status
from backend.domain.serving.chat import AnswerUsage, ChatSettings, SideSettings
from backend.domain.serving.prompt_matrix import MatrixAnswers, MatrixCell
from backend.domain.serving.request_log import RequestLogConfig
from backend.domain.training.sweep import parse_sweep
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_job
from backend.services.jobs.workers import beat
from backend.services.people.accounts import add_user
from backend.services.people.keys import create_key
from backend.services.serving.deployments import deploy, stop_endpoint
from backend.services.serving.prompts import save_prompt
from backend.services.serving.replicas import record_ready
from backend.services.serving.request_log.policies import set_log_policy
from backend.services.training.sweeps import launch_sweep
from backend.services.training.views import RunView
from tests.support import battle_world, run_world
from tests.support.evaluation_world import CHOICES, TEXTS
from tests.support.opening import EVIL
from tests.support.scenario import Scenario
from tests.support.serving.stored_chat import add_message, start_conversation
from tests.support.serving.stored_traffic import store_load_test, store_requests

LONG = "a-rather-long-name-of-a-network-that-somebody-chose-with-care"

GONE = {
    "a run": "/run?run=gone",
    "a sweep": "/sweep?sweep=gone",
    "a dataset": "/datasets?dataset=gone",
    "a checkpoint": "/checkpoints?checkpoint=gone",
    "an evaluation": "/evaluations?evaluation=gone",
    "a campaign": "/battles?campaign=gone",
    "an endpoint": "/endpoints?name=gone",
    "a conversation": "/playground?conversation=gone",
    "a prompt": "/prompts?prompt=gone",
    "a request": "/requests?request=gone",
    "an architecture": "/architectures?architecture=gone",
    "a tokenizer": "/tokenizers?tokenizer=gone",
    "a study": "/planner?study=gone",
    "an inspection": "/inspect?inspection=gone",
}
"""Links to what was deleted meanwhile."""

HOSTILE_ANSWER = """It stood by the **river**, ![map](http://evil.example/map.png) <script>window.evil = 1</script>
<img src=x onerror="window.evil = 1">
[here](javascript:window.evil=1) and [there](https://evil.example/), since $e^{i\\pi} = \\href{javascript:window.evil=1}{-1}$.

| Wheel | Width |
|:--|--:|
| old | 3 m |

```python
def turn(wheel):  # slowly
    return wheel + 1
```
"""  # noqa: E501
"""An answer with all that Markdown has, and what must not come to life in a browser."""


@dataclass(frozen=True)
class Filled:
    """Ids of what was made."""

    dataset: str
    running: str
    finished: str
    failed: str
    checkpoint: str
    evaluation: str
    other_evaluation: str
    campaign: str
    sweep: str
    conversation: str
    compared_settings: str
    request: str
    prompt: str

    @property
    def addresses(self) -> dict[str, str]:
        """Every page by a short name, and what is shown one at a time."""
        pages = (
            "datasets architectures tokenizers planner launch runs checkpoints inspect evaluations battles endpoints "
            "playground prompts workers people costs monitor load_tests requests"
        )
        return {
            "overview": "/",
            **{page: f"/{page}" for page in pages.split()},
            "dataset": f"/datasets?dataset={self.dataset}",
            "import": "/datasets?import=1",
            "running": f"/run?run={self.running}",
            "finished": f"/run?run={self.finished}",
            "failed": f"/run?run={self.failed}",
            "compare": f"/runs?compare={self.finished},{self.running}",
            "checkpoint": f"/checkpoints?checkpoint={self.checkpoint}",
            "base form": "/checkpoints?add=1",
            "tokenizer form": "/tokenizers?train=1",
            "evaluation": f"/evaluations?evaluation={self.evaluation}",
            "item": f"/evaluations?evaluation={self.evaluation}&item=2",
            "evaluation form": "/evaluations?new=1",
            "evaluations compared": f"/evaluations?first={self.evaluation}&second={self.other_evaluation}",
            "item compared": f"/evaluations?first={self.evaluation}&second={self.other_evaluation}&item=2",
            "campaign": f"/battles?campaign={self.campaign}",
            "campaign form": "/battles?new=1",
            "ballot": f"/ballot?campaign={self.campaign}",
            "sweep": f"/sweep?sweep={self.sweep}",
            "conversation": f"/playground?conversation={self.conversation}",
            "settings compared": f"/playground?conversation={self.compared_settings}",
            "runs as curves": "/runs?show=Curves",
            "runs in parallel": "/runs?show=Parallel coordinates",
            "runs as points": "/runs?show=Scatter",
            "launch a sweep": "/launch?mode=Sweep",
            "tasks": "/evaluations?tasks=1",
            "suites": "/evaluations?suites=1",
            "gates": "/evaluations?gates=1",
            "lineage": "/lineage?endpoint=tales",
            "lineage of nothing": "/lineage",
            **{f"{what} that is gone": address for what, address in GONE.items()},
            "endpoint": "/endpoints?name=tales",
            "request": f"/requests?request={self.request}",
            "prompt": f"/prompts?prompt={self.prompt}",
            "prompt tried": f"/prompts?prompt={self.prompt}&tab=Try",
            "prompt changes": f"/prompts?prompt={self.prompt}&tab=Changes",
        }


def fill(ctx: Context) -> Filled:
    """Insert one of everything."""
    dataset = _add_build_parts(ctx)
    running, finished, failed = _add_runs(ctx)
    sweep = _add_sweep(ctx)
    checkpoint = Scenario(ctx).checkpoint(run=finished, step=100)
    campaign = Scenario(ctx).campaign("smol-village-base", LONG, num_prompts=4)
    Scenario(ctx).votes(campaign, battle_world.prefer("smol"), limit=2)
    evaluation, other = _add_evaluations(ctx)
    conversation, compared_settings, request = _add_serving(ctx)
    _add_people(ctx)
    return Filled(
        dataset,
        running.id,
        finished.id,
        failed.id,
        checkpoint,
        evaluation,
        other,
        campaign.id,
        sweep,
        conversation,
        compared_settings,
        request,
        _add_prompt(ctx),
    )


def _add_build_parts(ctx: Context) -> str:
    Scenario(ctx).parts()
    with ctx.db.write() as session:
        version = session.scalars(select(DatasetVersion)).one()
        folder = ctx.artifacts.folder("datasets", "tales")
        for split, number in (("train", 90), ("val", 10)):
            rows = [
                {"text": f"Tale {n} of the {split} split. " + "The miller walked home. " * 4} for n in range(number)
            ]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet")
        version.rows, version.bytes, version.content_hash = 100, 14_000, "9c0ffee"
        version.rejected_rows, version.rejected = 1, [{"row": 17, "reason": "no text", "raw": '{"text": null}'}]
        dataset = version.dataset_id
    Scenario(ctx).dataset("waiting-for-its-import", kind="chat", ready=False)
    return dataset


def _add_runs(ctx: Context) -> tuple[RunView, RunView, RunView]:
    finished = Scenario(ctx).run(name="pebblewick-1m-first-pretraining", seed=1)
    taken = run_world.claim(ctx, finished)
    losses = [
        {"type": "metrics", "step": step, "time": 1000.0 + step, "values": {"val_loss": 9.0 / step}}
        for step in (50, 100)
    ]
    run_world.report(ctx, taken, *run_world.points(1, 100), *losses)
    run_world.end(ctx, taken, Status.FINISHED)
    failed = Scenario(ctx).run(name=f"failed-{LONG}", seed=2)
    taken = run_world.claim(ctx, failed)
    run_world.report(ctx, taken, *run_world.points(1, 10))
    run_world.end(ctx, taken, Status.FAILED, cause="The loss became NaN at step 10.", remedy="Lower learning_rate.")
    running = Scenario(ctx).run(name="smol-village-sft", seed=3, max_steps=1000)
    taken = run_world.claim(ctx, running)
    progress = {"type": "progress", "done": 200, "total": 1000, "unit": "step", "rate": 10.0, "time": 1.0}
    run_world.report(ctx, taken, *run_world.points(1, 200), progress)
    return running, finished, failed


def _add_sweep(ctx: Context) -> str:
    run = run_world.make_config(eval_every=10).model_dump(mode="json")
    vary = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "weight_decay": [0.0, 0.1]}
    return launch_sweep(ctx, parse_sweep({"name": "tries", "run": run, "vary": vary, "runs": 4}), person=LOCAL).id


def _add_evaluations(ctx: Context) -> tuple[str, str]:
    choices = Scenario(ctx).benchmark("village-questions-with-choices", CHOICES)
    first = Scenario(ctx).evaluation("smol-village-base", choices, [1.0, 0.0] * 20)
    second = Scenario(ctx).evaluation(LONG, choices, [1.0, 1.0, 1.0, 0.0] * 10)
    Scenario(ctx).evaluation(
        LONG, Scenario(ctx).benchmark("held-out-tales", TEXTS, kind="text", val=4), nlls=[11.0, 12.0, 10.5, 13.0]
    )
    return first.id, second.id


def _add_serving(ctx: Context) -> tuple[str, str, str]:
    for name, checkpoint in (("tales", "smol-village-base"), ("once-deployed", LONG)):
        deploy(ctx, checkpoint_id=Scenario(ctx).checkpoint(f"{checkpoint}-served"), name=name, person=LOCAL)
    stop_endpoint(ctx, "once-deployed", person=LOCAL)
    with ctx.db.read() as session:
        job = session.scalars(select(Replica.job_id).where(Replica.status == "starting")).one()
    claim = claim_job(ctx, job, owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url="http://127.0.0.1:1"))
        replica = session.scalars(select(Replica.id).where(Replica.job_id == job)).one()
    set_log_policy(ctx, "tales", RequestLogConfig(mode="bodies"), person=LOCAL)
    request = store_requests(
        ctx, "tales", replica_id=replica, prompt="Tell me of the mill. " * 20, answer=HOSTILE_ANSWER
    )
    store_load_test(ctx, "tales", speed=1.0)
    conversation = start_conversation(ctx, endpoint="tales", person=LOCAL)
    add_message(ctx, conversation.id, role="user", content="Tell me of the mill. " * 12, person=LOCAL)
    usage = {"completion_tokens": 30, "ttft_ms": 12.0, "tok_per_sec": 88.0, "finish_reason": "stop"}
    add_message(
        ctx, conversation.id, role="assistant", content=HOSTILE_ANSWER, endpoint="tales", usage=usage, person=LOCAL
    )
    return conversation.id, _add_compared_settings(ctx), request


def _add_compared_settings(ctx: Context) -> str:
    """Store a conversation with an endpoint that answers twice, the second time with settings of its own."""
    own = SideSettings(temperature=0.0, system="You are a storyteller who is brief. " * 8, stop=("###",))
    settings = ChatSettings(endpoints=("tales", "tales"), sides=(SideSettings(), own))
    conversation = start_conversation(ctx, endpoint="tales", sampling=settings, person=LOCAL)
    add_message(ctx, conversation.id, role="user", content="Tell me of the mill.", person=LOCAL)
    for branch, usage in enumerate((AnswerUsage(completion_tokens=30), AnswerUsage(completion_tokens=9, own=own))):
        add_message(
            ctx,
            conversation.id,
            role="assistant",
            content=HOSTILE_ANSWER,
            branch=branch,
            endpoint="tales",
            usage=usage,
            person=LOCAL,
        )
    return conversation.id


def _add_prompt(ctx: Context) -> str:
    name = "retell-a-tale"
    save_prompt(ctx, name, {"text": "Retell {{tale}} for {{reader}}."}, person=LOCAL)
    values = {"system": "You are a storyteller. " * 8, "text": "Retell {{tale}} for {{reader}}.\n\nBe brief."}
    prompt = save_prompt(ctx, name, values, note="shorter, and with a role", person=LOCAL)
    endpoints, rows = (
        ["tales", LONG],
        [{"tale": "the mill. " * 40, "reader": "a child"}, {"tale": EVIL, "reader": "me"}],
    )
    done = MatrixCell(status="done", text=HOSTILE_ANSWER, completion_tokens=90, total_ms=1200.0, tok_per_sec=75.0)
    cells = [done, MatrixCell(status="failed", error="There is no replica."), MatrixCell(status="stopped"), done]
    with ctx.db.write() as session:
        answers = MatrixAnswers.model_validate({"endpoints": endpoints, "rows": rows, "cells": cells})
        session.add(PromptMatrix(version_id=prompt.newest.id, source="typed rows", answers=answers, status="stopped"))
    return name


def _add_people(ctx: Context) -> None:
    gpus = [
        {
            "index": "0",
            "name": "NVIDIA H100",
            "memory_used_bytes": 9 << 30,
            "memory_total_bytes": 80 << 30,
            "utilisation_percent": 64,
        }
    ]
    gauges = {
        "cpu_percent": 62.0,
        "cpu_count": 16,
        "memory_used_bytes": 9 << 30,
        "memory_total_bytes": 32 << 30,
        "gpus": gpus,
    }
    beat(ctx, name="lab/train", host="lab", pid=1, slots={"train": 1}, devices=["0"], gauges=gauges)
    later = ctx.now() + timedelta(hours=12)  # a worker that lives for as long as the test looks
    with ctx.db.write() as session:
        session.get_one(Worker, "lab/train").heartbeat_at = later
    add_user(ctx, "maya", "a long enough password", person=LOCAL)
    create_key(ctx, "Support bot", person=LOCAL)
