"""`roundhouse doctor --gpu`: a check that crashes, is killed or hangs fails by its name with a cure; the others run."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from backend.cli import gpu_doctor
from backend.cli.gpu_doctor import check_environment, check_gpu, record, run_check, to_table
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.gpu_check import GPU_CHECKS, GpuCheckResult, MeasuredSetting
from backend.domain.jobs.results import ProbeResult
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.estimates.measurements import predict_setting
from backend.services.jobs.devices import Device
from backend.settings import Settings
from tests.support.command_line import roundhouse
from tests.support.settings import make_settings

ODD = "tests.support.workers.odd_check"
SHAPE = ArchitectureConfig(num_layers=2, width=64, num_heads=2, context=64, vocab_size=512, feed_forward=128)


ENDS = {
    "tf32": ("exit", "exit status 3", "Read the end of"),
    "bf16": ("SIGKILL", "killed, as the system does where memory runs out", "--only bf16"),
    "sdpa-flash": ("SIGSEGV", "crashed with SIGSEGV", "Update the driver"),
    "compile": ("SIGILL", "an instruction that this processor lacks", "Install a torch built for this processor"),
    "mfu": ("nothing", "ended without a result", "mfu.log"),
}
"""How the process of a check ends, and what its failure says: the figure and the cure."""


def test_a_check_that_ends_badly_fails_with_its_cure_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD_DEEDS", json.dumps({name: deed for name, (deed, _, _) in ENDS.items()}))
    report = check_gpu(Settings(home=tmp_path), ["fp32", *ENDS, "resume"], module=ODD)
    results = {result.name: result for result in report.results}
    assert {name for name, result in results.items() if result.verdict == "pass"} == {"fp32", "resume"}
    table = to_table(report, recorded=None)
    for name, (_, figure, cure) in ENDS.items():
        assert results[name].verdict == "fail"
        assert figure in results[name].figure
        assert cure in results[name].cure
        assert f"-> {results[name].cure}" in table
    assert "2 passed, 5 failed, 0 not here" in table
    stored = json.loads((report.folder / "report.json").read_text())
    assert stored == report.to_data()
    assert (stored["ok"], len(stored["checks"])) == (False, 7)
    assert {path.name for path in report.folder.iterdir()} == {"report.json", *(f"{name}.log" for name in ENDS)}
    assert (report.folder / "bf16.log").read_text() == "deed: SIGKILL\n"


def test_a_check_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_DEEDS", json.dumps({"ddp": "hang"}))
    (work := tmp_path / "work").mkdir()
    result = run_check("ddp", work, log=tmp_path / "ddp.log", module=ODD, limit_s=5)
    assert (result.verdict, result.figure) == ("fail", "no result within 5 s")
    assert "another program on the device" in result.cure
    assert GPU_CHECKS["ddp"].cure in result.cure
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_no_check_starts_after_the_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_doctor, "GPU_CHECKS_S", -1.0)
    (result,) = check_gpu(Settings(home=tmp_path), ["mfu"], module=ODD).results
    assert (result.verdict, result.cure) == ("not run", "roundhouse doctor --gpu --only mfu")


def test_an_unknown_check_is_refused_with_the_names_and_options_of_the_gpu_need_it(command_line: Context) -> None:
    answer = roundhouse("doctor", "--gpu", "--only", "bf17", status=2)
    assert answer["error"].startswith("There is no check bf17. Choose of fp32, tf32, bf16")
    assert "Add --gpu" in roundhouse("doctor", "--only", "bf16", status=2)["error"]
    assert "Add --gpu" in roundhouse("doctor", "--record", status=2)["error"]


def test_the_command_runs_a_check_and_says_where(command_line: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = roundhouse("doctor", "--gpu", "--only", "sdpa-math")
    assert answer["ok"]
    (math,) = answer["checks"]
    assert (math["name"], math["verdict"]) == ("sdpa-math", "pass")
    assert "core" in math["device"]
    assert json.loads(Path(answer["report"]).read_text())["checks"] == answer["checks"]


def test_checks_see_the_gpus_that_jobs_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert check_environment("none")["CUDA_VISIBLE_DEVICES"] == ""
    assert check_environment("1,3")["CUDA_VISIBLE_DEVICES"] == "1,3"
    monkeypatch.setattr(gpu_doctor, "visible_devices", lambda setting: ())
    assert "CUDA_VISIBLE_DEVICES" not in check_environment("auto")


def test_measurements_that_are_recorded_correct_the_estimate_of_that_device(
    tmp_path: Path, home: Path, ctx: Context
) -> None:
    config = RunConfig(dataset="d", architecture=SHAPE, tokenizer="t", context=64, compile="off")
    result = ProbeResult(
        measured_bytes=123_000_000,
        tokens_per_s=10.0,
        device="H100",
        device_kind="gpu",
        longest=64,
        trained=64,
        step_s=1.0,
    )
    measured = MeasuredSetting(config=config, shape=SHAPE, result=result)
    checked = GpuCheckResult(name="memory", device="H100", verdict="pass", figure="", measured=measured)
    report = gpu_doctor.GpuReport(ctx.now(), 1.0, tmp_path, [checked])
    assert "--only memory --record" in to_table(report, recorded=None)
    setting, device = setting_of(config, SHAPE, device="gpu"), Device("H100", "gpu", 80 * 10**9)
    assert predict_setting(ctx, setting, device).source == "formula"
    assert record(make_settings(home), report) == 1
    predicted = predict_setting(ctx, setting, device)
    assert (predicted.source, predicted.num_bytes) == ("probe", 123_000_000)
    near = predict_setting(ctx, setting.model_copy(update={"micro_batch": 32}), device)
    assert near.source == "calibrated"


def test_an_unknown_name_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no check typo"):
        check_gpu(Settings(home=tmp_path / "home"), ["typo"], module=ODD)
    assert not (tmp_path / "home").exists()
