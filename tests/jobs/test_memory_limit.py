"""A job that allocates without end is stopped with a reason, and what runs beside it goes on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.domain.jobs.states import JobKind, Status
from backend.domain.wording import format_bytes
from backend.services.context import Context
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import get_job
from jobs import memory_limit, runner
from jobs.memory_limit import MemoryWatch, job_limit_bytes, total_bytes, tree_bytes
from tests.support.installation import PROJECT
from tests.support.jobs import add_stored_job

LIMIT_MB = 256
MB = 2**20


@pytest.mark.parametrize("deed", ["allocate", "children"])
def test_a_job_above_its_memory_limit_is_ended_with_the_numbers(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, deed: str
) -> None:
    ctx = replace(ctx, policy=replace(ctx.policy, job_memory_mb=LIMIT_MB))
    monkeypatch.setattr(runner, "CHILD_MODULE", "tests.support.workers.odd_child")
    payload: dict[str, Any] = {
        "source": "x",
        "hub": None,
        "kind": "text",
        "mapping": {},
        "val_fraction": 0.0,
        "seed": 1,
        "out_root": "d",
    }
    with ctx.db.write() as session:
        job_id = add_stored_job(session, ctx, JobKind.IMPORT_DATASET, title="Import lines", payload=payload).id
    (ctx.artifacts.job_folder(job_id) / "deed").write_text(deed)
    peak = 0

    def watched(pid: int) -> int:
        nonlocal peak
        held = tree_bytes(pid)
        peak = max(peak, held)
        return held

    monkeypatch.setattr(memory_limit, "tree_bytes", watched)
    claim = claim_job(ctx, job_id, owner="w#1", host="lab")
    assert claim is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as beside:
        assert runner.execute(ctx, claim) is Status.FAILED
        assert beside.poll() is None
        beside.kill()
    error = get_job(ctx, job_id).error
    assert f"B of memory; a job may hold {format_bytes(LIMIT_MB * MB)}" in error.cause
    assert "ROUNDHOUSE_JOB_MEMORY_MB" in error.remedy
    assert peak < 8 * LIMIT_MB * MB


TAKE = {
    "python": "held = bytearray(600 * 2**20)",
    "numpy": "import numpy; held = numpy.ones(600 * 2**17)",
    "torch": "import torch; held = torch.ones(600 * 2**18)",
}


@pytest.mark.parametrize("code", TAKE.values(), ids=TAKE)
def test_an_allocation_beyond_the_limit_fails_inside_the_job(code: str) -> None:
    script = f"""
from jobs.memory_limit import limit_this_process
from jobs.run import _is_out_of_memory
{code.partition(";")[0] if ";" in code else ""}
limit_this_process(500 * 2**20, uses_gpu=False)
print(open("/proc/self/oom_score_adj").read().strip())
try:
    {code.rpartition("; ")[2]}
except Exception as error:
    print(_is_out_of_memory(error))
"""
    child = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert child.stdout.split() == [str(memory_limit.OOM_SCORE), "True"], child.stderr


def test_on_a_full_machine_the_largest_job_is_ended_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "total_bytes", lambda: 1000 * MB)
    monkeypatch.setattr(memory_limit, "available_bytes", lambda: 10 * MB)
    monkeypatch.setattr(memory_limit, "_private_bytes", lambda pid: 0)
    monkeypatch.setattr(memory_limit, "_other_jobs", lambda pid: [300 * MB])
    held = {1: 400 * MB, 2: 200 * MB, 3: 50 * MB}
    monkeypatch.setattr(memory_limit, "tree_bytes", held.__getitem__)
    error = MemoryWatch(1, limit=900 * MB).check()
    assert error is not None
    assert "held most of it" in error.cause
    assert MemoryWatch(2, limit=900 * MB).check() is None
    monkeypatch.setattr(memory_limit, "_other_jobs", lambda pid: [])
    assert MemoryWatch(3, limit=900 * MB).check() is None, "something else has filled the machine"


def test_the_limit_leaves_a_tenth_to_the_machine_and_never_less_than_half_to_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert job_limit_bytes(300) == 300 * MB
    assert total_bytes() // 2 <= job_limit_bytes() < total_bytes()
    monkeypatch.setattr(memory_limit, "total_bytes", lambda: 100 * 2**30)
    assert job_limit_bytes() == 90 * 2**30
    monkeypatch.setattr(memory_limit, "total_bytes", lambda: 2**30)
    assert job_limit_bytes() == 2**29


def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("900000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 400000000\n")
    assert memory_limit.total_bytes() == 1_000_000_000
    assert memory_limit.available_bytes() == 500_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit.total_bytes() > 1_000_000_000
