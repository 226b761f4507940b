"""`roundhouse doctor --gpu`: run each check of the device in a process of its own, and report.

A check that crashes, is killed or hangs fails by its name, and the others run. Torch is loaded by those processes
alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from backend.cli.output import note
from backend.domain.jobs.gpu_check import GPU_CHECKS, GPU_CHECKS_S, GpuCheckResult
from backend.domain.wording import format_duration, plural
from backend.errors import InvalidInput
from backend.infra.devices import visible_devices
from backend.infra.processes import die_with_parent
from backend.settings import Settings

FOLDER = "gpu-checks"
MODULE = "jobs.gpu_checks"
CRASHES = {
    signal.SIGKILL: (
        "it was killed, as the system does where memory runs out",
        "Close other programs, or add memory or swap, and repeat with --only {name}.",
    ),
    signal.SIGILL: (
        "it used an instruction that this processor lacks",
        "Install a torch built for this processor.",
    ),
}
CRASHED = (
    "it crashed with {signal}, in the driver or a compiled library",
    "Update the driver, and install the torch that its CUDA version asks for (pytorch.org, Get started). {cure}",
)
HUNG = "Look for another program on the device (`nvidia-smi`), and read the end of {log}. {cure}"


@dataclass(frozen=True)
class GpuReport:
    """The results of the checks, and the folder with the report and the logs of checks that did not pass."""

    started_at: datetime
    seconds: float
    folder: Path
    results: list[GpuCheckResult]

    @property
    def is_ok(self) -> bool:
        """Return whether no check failed."""
        return all(result.verdict != "fail" for result in self.results)

    def to_data(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {
            "ok": self.is_ok,
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "report": str(self.folder / "report.json"),
            "checks": [result.model_dump(mode="json", exclude_none=True) for result in self.results],
        }


def choose_checks(only: Sequence[str]) -> list[str]:
    """Return the named checks in their order, or all. Raises InvalidInput for an unknown name."""
    if unknown := [name for name in only if name not in GPU_CHECKS]:
        raise InvalidInput(
            f"There is no check {unknown[0]}.", remedy=f"Choose of {', '.join(GPU_CHECKS)}.", field="only"
        )
    return [name for name in GPU_CHECKS if not only or name in only]


def check_gpu(settings: Settings, only: Sequence[str] = (), *, module: str = MODULE) -> GpuReport:
    """Run the checks, each by `python -m module NAME FOLDER`; save the report in the home folder."""
    names, started_at, began = choose_checks(only), datetime.now(UTC), time.monotonic()
    folder = settings.home / FOLDER / started_at.strftime("%Y%m%dT%H%M%SZ")
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for number, name in enumerate(names, 1):
            note(f"[{number}/{len(names)}] {name} ...")
            if time.monotonic() - began > GPU_CHECKS_S:
                cure = f"roundhouse doctor --gpu --only {name}"
                late = GpuCheckResult(name=name, device="", verdict="not run", figure="time was up", cure=cure)
                results.append(late)
                continue
            result = run_check(name, work, log=folder / f"{name}.log", devices=settings.devices, module=module)
            note(f"    {result.verdict} in {format_duration(result.seconds)}: {result.figure}")
            results.append(result)
            if result.verdict == "pass":
                (folder / f"{name}.log").unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report = GpuReport(started_at, time.monotonic() - began, folder, results)
    (folder / "report.json").write_text(json.dumps(report.to_data(), indent=2) + "\n", encoding="utf-8")
    return report


def run_check(
    name: str, work: Path, *, log: Path, devices: str = "auto", module: str = MODULE, limit_s: float | None = None
) -> GpuCheckResult:
    """Run one check in a process of its own, which is ended with its children after its time limit."""
    check, began = GPU_CHECKS[name], time.monotonic()
    limit_s = check.limit_s if limit_s is None else limit_s
    written = work / f"{name}.json"
    written.unlink(missing_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module, name, str(work)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=check_environment(devices),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            is_late = child.returncode is None
            child.wait()
    seconds = time.monotonic() - began
    if is_late:
        figure, cure = f"no result within {format_duration(limit_s)}", HUNG.format(log=log, cure=check.cure)
    elif child.returncode == 0:
        with contextlib.suppress(OSError, ValidationError):
            result = GpuCheckResult.model_validate_json(written.read_bytes())
            return result.model_copy(update={"seconds": round(seconds, 1)})
        figure, cure = "it ended without a result", f"Read {log}. {check.cure}"
    else:
        figure, cure = _explain_exit(child.returncode, name=name, log=log)
    return GpuCheckResult(
        name=name, device="", verdict="fail", figure=figure, cure=cure.strip(), seconds=round(seconds, 1)
    )


def _explain_exit(code: int, *, name: str, log: Path) -> tuple[str, str]:
    cure = GPU_CHECKS[name].cure
    if code > 0:
        return f"its process ended with exit status {code}", f"Read the end of {log}. {cure}"
    number = signal.Signals(-code)
    figure, remedy = CRASHES.get(number, CRASHED)
    return figure.format(signal=number.name), remedy.format(name=name, cure=cure)


def check_environment(devices: str) -> dict[str, str]:
    """Return the environment of a check: it sees the GPUs that jobs may hold; for `auto` without an NVIDIA GPU,
    those of other makers.
    """
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    visible = visible_devices(devices)
    if visible or devices == "none":
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    return variables


def to_table(report: GpuReport, *, recorded: int | None) -> str:
    """Return the report as a table, with the cures below."""
    heads = ("check", "device", "result", "time", "figure")
    rows = [
        (each.name, each.device or "-", each.verdict, format_duration(each.seconds), each.figure)
        for each in report.results
    ]
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(4)]
    lines = []
    for row, cure in zip((heads, *rows), ("", *(each.cure for each in report.results)), strict=True):
        lines.append("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]))
        lines += [f"{'':{widths[0]}}  -> {cure}"] if cure else []
    counts = {verdict: sum(each.verdict == verdict for each in report.results) for verdict in ("pass", "fail")}
    lines += [
        "",
        f"{counts['pass']} passed, {counts['fail']} failed, {len(rows) - sum(counts.values())} not here,"
        f" in {format_duration(report.seconds)}. Report: {report.folder / 'report.json'}",
    ]
    measured = sum(each.measured is not None for each in report.results)
    if recorded is not None:
        lines.append(f"{plural(recorded, 'measurement')} stored: the launch page's estimates for this device use them.")
    elif measured:
        names = " ".join(f"--only {each.name}" for each in report.results if each.measured is not None)
        lines.append(
            f"{plural(measured, 'measurement')} of memory and speed can correct the launch page's estimates:"
            f" roundhouse doctor --gpu {names} --record"
        )
    return "\n".join(lines)


def record(settings: Settings, report: GpuReport) -> int:
    """Store the measurements of a report in the database; return their number."""
    from backend.bootstrap import build_context
    from backend.services.context import LOCAL
    from backend.services.estimates.measurements import record_settings

    measured = [each.measured for each in report.results if each.measured is not None]
    record_settings(build_context(settings), measured, host=os.uname().nodename, person=LOCAL)
    return len(measured)
