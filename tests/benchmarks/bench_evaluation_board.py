"""Time to open the board of evaluations: 500 evaluations of 10,000 items each. `python -m
tests.benchmarks.bench_evaluation_board FOLDER`

Fills an installation in FOLDER, which takes some minutes and 2 GB, unless one is there. Prints CPU and wall seconds of
each step.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from streamlit.testing.v1 import AppTest

from backend.bootstrap import get_context
from backend.db.base import new_id
from backend.db.tables import Evaluation, EvaluationItem, Job, Score
from backend.domain.statistics.estimates import proportion_estimate
from backend.services.context import Context
from backend.services.evaluation.board import Board, rank_board, read_board
from backend.services.evaluation.comparisons import compare
from backend.services.evaluation.packed_items import store_packed
from tests.support.evaluation_world import CHOICES, list_items
from tests.support.scenario import Scenario

CHECKPOINTS, BENCHMARKS, ITEMS = 50, 10, 10_000
SHOWN = json.dumps(
    {
        "question": "Which of these is a tree? " * 8,
        "choices": ["oak", "elm", "ash", "yew"],
        "answer": "oak",
        "chosen": "elm",
    }
)
INSERT = (
    'INSERT INTO evaluation_items (evaluation_id, item_hash, position, "values", shown) VALUES (:e, :h, :p, :v, :s)'
)


def fill(ctx: Context) -> None:
    """Insert the evaluations as finished jobs would have left them."""
    rng = random.Random(0)
    checkpoints = [Scenario(ctx).checkpoint(f"Checkpoint {n}") for n in range(CHECKPOINTS)]
    labels = [Scenario(ctx).benchmark(f"bench {n}", CHOICES) for n in range(BENCHMARKS)]
    with ctx.db.read() as session:
        versions = dict(
            session.execute(
                text("SELECT d.name || '@1', v.id FROM dataset_versions v JOIN datasets d ON d.id = v.dataset_id")
            ).all()
        )
    values = [json.dumps({"acc": float(right), "acc_norm": float(right), "chance": 0.25}) for right in (0, 1)]
    for number, label in enumerate(labels):
        for place, checkpoint in enumerate(checkpoints):
            share = 0.3 + 0.008 * place
            right = [rng.random() < share for _ in range(ITEMS)]
            add(ctx, checkpoint, versions[label], label, number, right, values)


def add(
    ctx: Context, checkpoint: str, version: str, label: str, number: int, right: list[bool], values: list[str]
) -> None:
    """Insert one evaluation with its job, scores and items."""
    estimate = proportion_estimate(sum(right), ITEMS)
    settings = {
        "scoring_version": 1,
        "kind": "multiple_choice",
        "dataset_hash": label,
        "split": "all",
        "limit": None,
        "chat": "auto",
        "shots": 0,
    }
    facts = {"used_chat_template": False, "unit": "items", "number_format": "float32", "items": ITEMS, "chance": 0.25}
    evaluation_id, now = new_id(), ctx.now()
    with ctx.db.write() as session:
        job = Job(
            kind="evaluate",
            queue="eval",
            title=label,
            payload={},
            status="finished",
            created_at=now,
            started_at=now,
            finished_at=now,
        )
        session.add(job)
        session.flush()
        row = Evaluation(
            id=evaluation_id,
            checkpoint_id=checkpoint,
            dataset_version_id=version,
            kind="multiple_choice",
            job_id=job.id,
        )
        row.config, row.fingerprint, row.created_at = (
            {"config": {}, "settings": settings, "facts": facts},
            evaluation_id,
            now,
        )
        session.add(row)
        session.flush()
        for metric in ("acc", "acc_norm"):
            score = Score(evaluation_id=row.id, metric=metric, value=estimate.value, n=ITEMS, method=estimate.method)
            score.stderr, score.low, score.high = estimate.stderr, estimate.low, estimate.high
            session.add(score)
        rows = [
            {"e": row.id, "h": f"{number}-{n:060d}", "p": n, "v": values[hit], "s": SHOWN}
            for n, hit in enumerate(right)
        ]
        session.execute(text(INSERT), rows)
        session.flush()
        store_packed(session, row.id)


def timed(name: str, work: Callable[[], Any]) -> Any:
    """Run a step and print its seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name:<58} {time.process_time() - cpu:7.2f} CPU s {time.perf_counter() - wall:7.2f} s", flush=True)
    return result


def main(folder: str) -> None:
    """Fill the installation if it is empty, and time each step."""
    home = Path(folder).resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        ROUNDHOUSE_HOME=str(home), DATABASE_URL=f"sqlite:///{home / 'models.db'}", REDIS_URL="redis://127.0.0.1:1/0"
    )
    ctx = get_context()
    with ctx.db.read() as session:
        filled = session.scalar(select(func.count()).select_from(Evaluation)) or 0
    if not filled:
        timed("fill", lambda: fill(ctx))
    with ctx.db.read() as session:
        items = timed("count items", lambda: session.scalar(select(func.max(EvaluationItem.id))))
    print(f"{items:,} items, {(home / 'models.db').stat().st_size / 1e9:.2f} GB")
    board: Board = timed("read the board: scores of all evaluations", lambda: read_board(ctx))
    keys = [column.key for column in board.columns[:6]]
    timed("rank six benchmarks of 50 checkpoints, first time", lambda: rank_board(ctx, board, keys))
    timed("rank them again (remembered)", lambda: rank_board(ctx, board, keys))
    first, second = [one.id for one in board.scored(keys[0])[:2]]
    timed("compare two evaluations item by item", lambda: compare(ctx, first, second))
    timed("first page of an evaluation's wrong items", lambda: list_items(ctx, first, which="wrong", limit=10))
    page = AppTest.from_file(
        str(Path(__file__).resolve().parents[2] / "pages" / "evaluate" / "evaluations.py"), default_timeout=120
    )
    app = timed("draw the page of the matrix", page.run)
    assert not app.exception
    timed("draw it again", app.run)


if __name__ == "__main__":
    main(sys.argv[1])
