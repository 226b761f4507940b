"""What Slurm's commands say when they fail, told apart: of the order, or of the moment. The commands are scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.infra.compute.base import WorkerOrder
from backend.infra.compute.slurm import Slurm

POLICY = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time)"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Slurm(("gpu",), ("worker",), tmp_path, tmp_path, ())


def fail(folder: Path, command: str, text: str) -> None:
    script = folder / command
    noting = f'cat >/dev/null\necho "{command} $*" >>{folder}/calls'
    script.write_text(f'#!/bin/sh\n{noting}\necho "{command}: error: {text}" >&2\nexit 1\n')
    script.chmod(0o755)


def submit(slurm: Slurm, folder: Path) -> str:
    return slurm.submit(WorkerOrder("roundhouse-1-1", "1", "gpu", 1, 1, folder / "slurm-1.log"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POLICY, Unavailable),
        (f"QOSMaxSubmitJobPerUserLimit sbatch: error: {POLICY}", Unavailable),
        (f"AssocMaxSubmitJobLimit sbatch: error: {POLICY}", Unavailable),
        (f"QOSMaxWallDurationPerJobLimit sbatch: error: {POLICY}", InvalidInput),
        ("Required partition not available (inactive or drain)", Unavailable),
        ("Zero Bytes were transmitted or received", Unavailable),
        ("Slurm backup controller in standby mode", Unavailable),
        ("Unexpected message received", Unavailable),
        ("Unable to contact slurm controller (connect failure)", Unavailable),
        ("Socket timed out on send/recv operation", Unavailable),
        ("unrecognized option '--timeout=5'", InvalidInput),
        ("unrecognized option '--connect'", InvalidInput),
        ("Invalid account or account/partition combination specified", InvalidInput),
        ("Requested node configuration is not available", InvalidInput),
    ],
)
def test_a_refusal_is_final_only_if_it_is_of_the_order(
    slurm: Slurm, tmp_path: Path, text: str, expected: type[RoundhouseError]
) -> None:
    fail(tmp_path, "sbatch", text)
    with pytest.raises(expected) as raised:
        submit(slurm, tmp_path)
    assert text.replace(" sbatch: error:", "") in raised.value.message


def test_only_sbatch_refuses_an_order(slurm: Slurm, tmp_path: Path) -> None:
    for command in ("squeue", "scancel"):
        fail(tmp_path, command, "Invalid user")
    with pytest.raises(Unavailable, match="Invalid user"):
        slurm.status()
    with pytest.raises(Unavailable, match="Invalid user"):
        slurm.cancel("7")


def test_a_job_that_slurm_has_forgotten_is_cancelled_already(slurm: Slurm, tmp_path: Path) -> None:
    fail(tmp_path, "scancel", "Kill job error on job id 7: Invalid job id specified")
    slurm.cancel("7")
    command, *_, job = (tmp_path / "calls").read_text().split()
    assert (command, job) == ("scancel", "7"), "it was asked, and its answer is no failure"


def test_an_output_that_cannot_be_read_has_no_lines(slurm: Slurm, tmp_path: Path) -> None:
    assert slurm.log("roundhouse-1-1", tmp_path) == ()
