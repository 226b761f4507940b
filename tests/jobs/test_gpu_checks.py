"""The checks of `roundhouse doctor --gpu`: what each refuses, and the cure it names."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain.jobs.gpu_check import GPU_CHECKS, GpuCheckResult
from backend.domain.jobs.results import ProbeResult
from backend.domain.jobs.states import JobKind
from jobs import gpu_checks
from jobs.fork_server import ForkServer
from jobs.gpu_checks import CHECKS, Off, loss_error, run_gpu_check
from jobs.modeling.devices import device_name
from jobs.training.network import optimizers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data that the checks share."""
    return tmp_path_factory.mktemp("checks") / "work"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def failed(name: str, folder: Path) -> GpuCheckResult:
    result = run_gpu_check(name, folder)
    assert result.verdict == "fail", result
    assert result.device == device_name(CPU)
    assert result.cure
    return result


def test_every_check_has_a_limit_a_cure_and_code() -> None:
    assert list(CHECKS) == list(GPU_CHECKS)
    assert all(check.cure and check.limit_s for check in GPU_CHECKS.values())


def test_a_precision_that_the_device_refuses_is_named_with_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.autocast

    def refuse(kind: str, dtype: torch.dtype | None = None, **more: Any) -> Any:
        if dtype is torch.bfloat16:
            raise RuntimeError("no kernel image is available for execution on the device")
        return plain(kind, dtype=dtype, **more)

    monkeypatch.setattr(torch, "autocast", refuse)
    result = failed("bf16", folder)
    assert result.figure == "RuntimeError: no kernel image is available for execution on the device"
    assert "precision fp32" in result.cure


def test_bf16_passes_within_its_rounding_and_fails_beyond(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_gpu_check("bf16", folder).verdict == "pass"
    monkeypatch.setitem(gpu_checks.LOSS_ERRORS, "bf16", 1e-6)
    result = failed("bf16", folder)
    assert "off the reference's, more than 0.00 %" in result.figure


def test_a_matrix_product_of_few_bits_is_not_fp32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "product_error", lambda device: 3e-4)
    result = failed("fp32", folder)
    assert result.figure == "a matrix product is computed in TF32: its relative error is 3.0e-04"


def test_attention_of_wrong_numbers_fails_and_a_missing_kernel_is_not_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_gpu_check("sdpa-flash", folder).verdict == "pass"
    absent = run_gpu_check("sdpa-cudnn", folder)
    assert (absent.verdict, absent.cure) == ("not here", "")
    assert "no cudnn kernel" in absent.figure
    exact = torch.nn.functional.scaled_dot_product_attention

    def wrong(query: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        return exact(query, *more, **options) * (1.1 if query.dtype is torch.float32 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
    result = failed("sdpa-math", folder)
    assert "10.00 % off float64's" in result.figure
    assert "attention eager" in result.cure


def test_without_bitsandbytes_the_cure_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    result = run_gpu_check("adamw-8bit", folder)
    assert result.verdict == "not here"
    assert "bitsandbytes" in result.figure
    assert "install roundhouse[quantized]" in result.cure
    qlora = run_gpu_check("qlora", folder)
    assert (qlora.verdict, qlora.cure) == ("not here", "Choose method lora, or a worker with a GPU.")


def test_memory_that_runs_out_names_who_may_hold_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*given: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(gpu_checks.training, "run", fill)
    result = failed("resume", folder)
    assert result.figure == "the device's memory ran out"
    assert "--only resume" in result.cure


def test_a_resume_that_loses_the_optimizer_s_state_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "to the last bit" in run_gpu_check("resume", folder).figure
    load = torch.optim.AdamW.load_state_dict

    def forget(self: Any, stored: Any) -> None:
        load(self, {**stored, "state": {}})

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", forget)
    assert "off an undisturbed run's" in failed("resume", folder).figure


@contextlib.contextmanager
def measured(monkeypatch: pytest.MonkeyPatch, **values: Any) -> Iterator[None]:
    """Let probes measure these values."""
    result = ProbeResult(
        **{"measured_bytes": 1, "tokens_per_s": 1.0, "device": "CPU", "device_kind": "cpu", "longest": 128, **values}
    )
    monkeypatch.setattr(gpu_checks.probe, "run", lambda spec, reporter: result)
    yield


def test_an_estimate_far_off_fails_and_its_measurement_is_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with measured(monkeypatch, measured_bytes=600_000_000):
        result = failed("memory", folder)
    assert "measured 600 MB: -57 %, more than 30 % off" in result.figure
    assert "doctor --gpu --record" in result.cure
    assert result.measured is not None
    assert result.measured.result.measured_bytes == 600_000_000


def test_a_slow_device_fails_by_its_mfu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with measured(monkeypatch, tokens_per_s=0.5):
        result = failed("mfu", folder)
    assert "less than 5 %" in result.figure
    assert "power limit" in result.cure


def test_a_run_that_is_not_compiled_gives_the_compiler_s_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    result = failed("compile", folder)
    assert result.figure == "torch.compile is not used: RuntimeError: no working C++ compiler"
    assert "apt install g++" in result.cure


def test_an_endpoint_answers_and_one_that_answers_otherwise_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_gpu_check("endpoint-serial", folder)
    assert "8 greedy tokens equal to the CPU's" in result.figure

    async def other(*given: Any) -> tuple[int, ...]:
        return (1, 2, 3)

    monkeypatch.setattr(gpu_checks, "_complete", other)
    assert "the greedy completion is (1, 2, 3)" in failed("endpoint-serial", folder).figure


def test_curves_are_compared_step_by_step() -> None:
    assert loss_error([2.0, 1.0], [2.0, 1.001], limit=0.01).startswith("loss within 0.0999 %")
    for losses, reference, text in (
        ([2.0, 1.0], [2.0, 1.1], "9.09 % off"),
        ([2.0, float("nan")], [2.0, 1.0], "off the reference's"),
        ([2.0], [2.0, 1.0], "1 steps were reported, and 2"),
        ([1.0, 2.0], [1.0, 2.0], "did not fall"),
    ):
        with pytest.raises(Off, match=text):
            loss_error(losses, reference, limit=0.01)


@pytest.fixture(scope="module")
def second_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, Path], int]]:
    """Runs a check on the second device, and returns its exit status. The device is loaded as a maker's is: by an entry
    point that torch reads when it is imported.
    """
    from tests.support.second_device import write_entry_point

    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(write_entry_point(tmp_path_factory.mktemp("plugin"))), str(root)])
    variables = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "0", "OMP_NUM_THREADS": "1"}
    server = ForkServer(JobKind.TRAIN, variables)
    server.await_imports(lambda: None)

    def run(name: str, folder: Path) -> int:
        with (folder / "output.log").open("wb") as output:
            return server.start("jobs.gpu_checks", [name, str(folder)], variables, output.fileno()).wait(300)

    yield run
    server.close()


@pytest.mark.parametrize("name", ["fp16", "resume"])
def test_a_check_runs_on_the_second_device_and_says_so(
    second_device: Callable[[str, Path], int], tmp_path: Path, name: str
) -> None:
    assert second_device(name, tmp_path) == 0, (tmp_path / "output.log").read_text()
    result = json.loads((tmp_path / f"{name}.json").read_text())
    assert (result["verdict"], result["device"]) == ("pass", "Second device"), result
