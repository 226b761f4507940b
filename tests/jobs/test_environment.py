"""A job's process sees what it needs of the worker's environment, and no secret of the installation."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

import pytest

from backend.domain.jobs.states import JobKind
from backend.services.context import Context
from backend.services.jobs.claims import claim_job
from jobs import runner
from jobs.environment import child_environment
from tests.support.jobs import add_stored_job

SECRETS = {
    "DATABASE_URL": "postgresql://roundhouse:secret@database/roundhouse",
    "REDIS_URL": "redis://:secret@broker/0",
    "ROUNDHOUSE_ADMIN_PASSWORD": "secret",
    "ROUNDHOUSE_NEW_PASSWORD": "secret",
    "POSTGRES_PASSWORD": "secret",
    "OPENAI_API_KEY": "secret",
    "WANDB_API_KEY": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "HF_TOKEN": "secret",
    "HUGGINGFACE_HUB_TOKEN": "secret",
    "NVIDIA_API_KEY": "secret",
    "HTTPS_PROXY": "http://user:secret@proxy",
    "GITHUB_TOKEN": "secret",
    "SSH_AUTH_SOCK": "secret",
}
NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/x",
    "PYTHONPATH": "/work",
    "LD_LIBRARY_PATH": "/lib",
    "CUDA_VISIBLE_DEVICES": "0",
    "NCCL_SOCKET_IFNAME": "eth0",
    "OMP_NUM_THREADS": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HOME": "/cache",
    "HF_ENDPOINT": "https://hub.example.org",
    "TORCHINDUCTOR_CACHE_DIR": "/cache/x",
    "LC_ALL": "C.UTF-8",
    "ROUNDHOUSE_SUPERVISED_BY": "/run/x",
}


@pytest.mark.parametrize(
    "kind", [kind for kind in JobKind if kind not in {JobKind.IMPORT_DATASET, JobKind.ADD_BASE, JobKind.EXPORT}]
)
def test_jobs_without_remote_access_get_no_secret(kind: JobKind) -> None:
    assert child_environment(kind, environment={**SECRETS, **NEEDED}) == NEEDED


def test_jobs_that_reach_the_hub_or_a_store_get_those_keys_alone() -> None:
    seen = {kind: set(child_environment(kind, environment=SECRETS)) for kind in JobKind}
    assert seen[JobKind.ADD_BASE] == seen[JobKind.EXPORT] == {"HF_TOKEN", "HTTPS_PROXY"}
    assert seen[JobKind.IMPORT_DATASET] == {"HF_TOKEN", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY"}


def test_the_environment_of_a_job_has_no_database_no_broker_and_no_password(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runner, "CHILD_MODULE", "tests.support.workers.odd_child")
    with ctx.db.write() as session:
        payload: dict[str, Any] = {
            "source": "x",
            "hub": None,
            "kind": "text",
            "mapping": {},
            "val_fraction": 0.0,
            "seed": 1,
            "out_root": "d",
        }
        job_id = add_stored_job(session, ctx, JobKind.IMPORT_DATASET, title="Import lines", payload=payload).id
    folder = ctx.artifacts.job_folder(job_id)
    (folder / "deed").write_text("environment")
    claim = claim_job(ctx, job_id, owner="w#1", host="lab")
    assert claim is not None
    runner.execute(ctx, claim)
    seen = json.loads((folder / "environment.json").read_text())
    assert seen["PATH"] == os.environ["PATH"]
    assert set(SECRETS) & set(seen) == {"HF_TOKEN", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY"}
    spec = folder / "attempt-1" / "job.json"
    assert stat.S_IMODE(spec.stat().st_mode) == 0o600
