"""What a test starts from, in one line each: a builder of what it names, and of what that rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from sqlalchemy import select

from backend.db.tables import Architecture, Checkpoint, Dataset, DatasetVersion, Deployment, Endpoint, Table, Tokenizer
from backend.domain.battles.campaign import CampaignConfig, ContestantSource
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.jobs.states import JobKind, Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.services.architectures import save_architecture
from backend.services.battles.campaigns import start_campaign
from backend.services.battles.raters import RaterView, rater_for
from backend.services.battles.views import CampaignView, get_campaign
from backend.services.context import LOCAL, Context
from backend.services.evaluation.evaluations import EvaluationView, launch_evaluation
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run
from backend.services.training.views import RunView
from tests.support.battle_world import Judge, answer, prefer, vote_all, write_all
from tests.support.evaluation_world import ANSWERS, CHOICES, TEXTS, finish_choices, finish_texts
from tests.support.job_work import do_job
from tests.support.jobs import add_stored_job
from tests.support.run_world import SHAPE, claim, end, make_config, report

Rows = Sequence[Mapping[str, Any]]
BENCHMARKS: dict[str, tuple[Rows, str, int]] = {
    "facts": (CHOICES, "benchmark", 0),
    "questions": (ANSWERS, "benchmark", 0),
    "stories": (TEXTS, "text", 3),
}
"""Rows, kind and number of validation rows of the benchmarks that a test names only."""


@dataclass(frozen=True)
class Scenario:
    """Builds what a test starts from.

    What a verb needs it builds, unless it is there: a run its dataset, tokenizer and architecture, an evaluation its
    checkpoint and benchmark, a campaign its contestants, their answers and its prompts. A name alone returns what is
    there; with rows or columns it is built, and a name that is taken is an error.
    """

    ctx: Context

    def dataset(
        self, name: str = "tales", *, kind: str = "text", train: Rows = (), val: Rows = (), ready: bool = True
    ) -> str:
        """Return a dataset's first version: `train` and `val` are written as Parquet. Without them the version only
        says that it has rows, or, if it is not `ready`, waits for its import.
        """
        with self.ctx.db.write() as session:
            first = select(DatasetVersion.id).join(Dataset).where(Dataset.name == name, DatasetVersion.number == 1)
            if not (train or val) and (version_id := session.scalar(first)):
                return version_id
            session.add(dataset := Dataset(name=name, kind=kind))
            session.flush()
            version = DatasetVersion(dataset_id=dataset.id, number=1)
            if train or val:
                folder = self.ctx.artifacts.folder("datasets", name)
                for split, rows in (("train", train), ("val", val)):
                    if rows:
                        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / f"{split}.parquet")
                version.folder, version.content_hash = self.ctx.artifacts.relative(folder), f"hash of {name}"
                version.rows, version.train_rows, version.val_rows = len(train) + len(val), len(train), len(val)
            else:
                job = add_stored_job(session, self.ctx, JobKind.IMPORT_DATASET, title=f"Import {name}")
                version.job_id, job.status = job.id, Status.FINISHED if ready else Status.QUEUED
                if ready:
                    version.folder, version.train_rows, version.val_rows = f"datasets/{name}", 90, 10
            session.add(version)
            session.flush()
            return version.id

    def tokenizer(
        self,
        name: str = "pieces",
        *,
        vocab_size: int = 300,
        kind: Literal["bpe", "unigram", "byte"] = "bpe",
        dataset: str = "",
    ) -> str:
        """Return a tokenizer: a row without files, or, with a dataset, one that a job in this process trains on it."""
        if tokenizer := self._find(Tokenizer, name):
            return tokenizer
        if not dataset:
            row = Tokenizer(name=name, kind=kind, vocab_size=vocab_size, folder=f"tokenizers/{name}")
            return add_row(self.ctx, row)
        config = TokenizerConfig(kind=kind, vocab_size=vocab_size)
        training = train_tokenizer(self.ctx, name=name, dataset=dataset, config=config, person=LOCAL)
        do_job(self.ctx, training.job_id)
        return training.id

    def parts(self) -> None:
        """Build what a run of `make_config` needs: a dataset, a tokenizer and an architecture that fit together."""
        self.dataset()
        self.tokenizer()
        if not self._find(Architecture, "small"):
            save_architecture(self.ctx, name="small", config=SHAPE, person=LOCAL)

    def run(
        self, *events: dict[str, Any], status: Status | None = None, cause: str = "", remedy: str = "", **config: Any
    ) -> RunView:
        """Launch a run of `make_config`. With `events` a worker took it and reported these; with `status` it ended."""
        self.parts()
        run = launch_run(self.ctx, make_config(**config), person=LOCAL)
        if events or status:
            taken = claim(self.ctx, run)
            if events:
                report(self.ctx, taken, *events)
            if status:
                end(self.ctx, taken, status, cause=cause, remedy=remedy)
        return run

    def grpo(self, **config: Any) -> RunView:
        """Launch a run that learns from the length of the completions it samples; its base is a run's checkpoint."""
        base = self.checkpoint(run=self.run(name="written"), step=1)
        self.dataset("asks", kind="prompts")
        values = {
            "architecture": None,
            "tokenizer": None,
            "base": base,
            "dataset": "asks",
            "objective": "grpo",
            "warmup_steps": 0,
        }
        grpo = {"rewards": [{"kind": "length", "target": 4}], "max_new_tokens": 8, "group_size": 4}
        return launch_run(self.ctx, make_config(**{**values, "grpo": grpo, **config}), person=LOCAL)

    def finished(self, loss: float, *, bpb: float | None = None, **config: Any) -> RunView:
        """A finished run with this `val_loss` at its end."""
        values = {"val_loss": loss, **({} if bpb is None else {"val_bpb": bpb})}
        last = {"type": "metrics", "step": 100, "time": 1.0, "values": values}
        return self.run(last, status=Status.FINISHED, **config)

    def checkpoint(self, name: str = "Oak", *, run: RunView | None = None, step: int = 0, **columns: Any) -> str:
        """Return a checkpoint: one that was added, with an empty folder, or that of a run at a step."""
        if run:
            name, folder = f"{run.name} · step {step}", f"runs/{run.id}/checkpoints/step-{step:06d}"
            columns = {"origin": "run", "run_id": run.id, "step": step, "folder": folder, **columns}
        else:
            if not columns and (checkpoint := self._find(Checkpoint, name)):
                return checkpoint
            if "folder" not in columns:
                columns["folder"] = self.ctx.artifacts.relative(self.ctx.artifacts.folder("checkpoints", name))
            added = {"origin": "added", "facts": {"context": 128}, "parameters": 1000}
            columns = {**added, **columns}
        return add_row(self.ctx, Checkpoint(name=name, **columns))

    def checkpoints(self, *names: str) -> list[str]:
        """Return such checkpoints."""
        return [self.checkpoint(name) for name in names]

    def benchmark(self, name: str = "facts", rows: Rows = (), *, kind: str = "", val: int | None = None) -> str:
        """Return `name@1` of a benchmark, its last `val` rows for validation."""
        usual_rows, usual_kind, usual_val = BENCHMARKS.get(name, (CHOICES, "benchmark", 0))
        if rows or kind or val or not self._find(Dataset, name):
            rows = rows or usual_rows
            at = len(rows) - (usual_val if val is None else val)
            self.dataset(name, kind=kind or usual_kind, train=rows[:at], val=rows[at:])
        return f"{name}@1"

    def evaluation(
        self,
        checkpoint: str = "Oak",
        benchmark: str = "facts",
        right: Sequence[float] = (),
        *,
        nlls: Sequence[float] = (),
        facts: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
        again: bool = False,
        idempotency_key: str | None = None,
        config: EvaluationConfig | None = None,
        **options: Any,
    ) -> EvaluationView:
        """Launch an evaluation with a config of these `options`. With `right`, a worker reported one choice per entry,
        1 for the right one; with `nlls`, a text of 10 bytes each.
        """
        if endpoint is None:
            self.checkpoint(checkpoint)
        if (name := benchmark.removesuffix("@1")) in BENCHMARKS:
            self.benchmark(name)
        launched = launch_evaluation(
            self.ctx,
            checkpoint=None if endpoint else checkpoint,
            endpoint=endpoint,
            benchmark=benchmark,
            config=config or EvaluationConfig(**options),
            person=LOCAL,
            again=again,
            idempotency_key=idempotency_key,
        )
        if right:
            return finish_choices(self.ctx, launched, right, facts=facts)
        return finish_texts(self.ctx, launched, nlls) if nlls else launched

    def prompts(self, num: int, *, num_train: int = 0, name: str = "prompts", kind: str = "prompts") -> str:
        """Return `name@1` of a dataset with `num` held-out prompts."""
        rows = [{"prompt": f"Tell a story about the number {n}."} for n in range(num + num_train)]
        return self.benchmark(name, rows, kind=kind, val=num)

    def campaign(
        self,
        *contestants: str,
        name: str = "Stories",
        num_prompts: int = 4,
        dataset: str | None = None,
        dataset_rows: int | None = None,
        write: bool | Callable[[str, str], str] = True,
        **config: Any,
    ) -> CampaignView:
        """Start a campaign of checkpoints, Oak and Elm if none is named, that have written everything: `Oak answers 3`
        and the like, or what `write(name, prompt)` returns. `config` are fields of the campaign's.
        """
        sources = [ContestantSource(checkpoint=one) for one in self.checkpoints(*(contestants or ("Oak", "Elm")))]
        started = start_campaign(
            self.ctx,
            name=name,
            contestants=sources,
            dataset=dataset or self.prompts(dataset_rows or num_prompts),
            config=CampaignConfig(num_prompts=num_prompts, **config),
            person=LOCAL,
        )
        if write:
            write_all(self.ctx, started.id, text=answer if write is True else write)
        return get_campaign(self.ctx, started.id)

    def votes(
        self, campaign: str | CampaignView, judge: Judge | str, *, rater: RaterView | None = None, **given: int
    ) -> int:
        """Vote until a ballot is empty, for a contestant by its name or as a judge does; return how many votes were
        cast. `given` are those of `vote_all`.
        """
        campaign_id = campaign if isinstance(campaign, str) else campaign.id
        judging = prefer(judge) if isinstance(judge, str) else judge
        return vote_all(self.ctx, campaign_id, rater or rater_for(self.ctx, LOCAL), judging, **given)

    def endpoint(
        self, name: str = "tales", checkpoint: str = "small", *, created_by: str | None = None, **columns: Any
    ) -> str:
        """Return an endpoint's deployment whose replicas nobody has queued; `columns` are the deployment's."""
        with self.ctx.db.write() as session:
            session.add(endpoint := Endpoint(name=name, created_by=created_by))
        return add_row(
            self.ctx, Deployment(endpoint_id=endpoint.id, checkpoint_id=self.checkpoint(checkpoint), **columns)
        )

    def _find(self, table: type[Any], name: str) -> str | None:
        """Return the id of a row by its name or id."""
        with self.ctx.db.read() as session:
            return session.scalar(select(table.id).where((table.name == name) | (table.id == name)))


def add_row(ctx: Context, row: Table) -> str:
    """Insert a row; return its id."""
    with ctx.db.write() as session:
        session.add(row)
        session.flush()
        key: str = row.__mapper__.primary_key_from_instance(row)[0]
        return key


def add_rows(ctx: Context, *rows: Table) -> None:
    """Insert rows, all or none."""
    with ctx.db.write() as session:
        session.add_all(rows)
