"""A run's device settings: attention, fp16, compilation, and MFU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops
from backend.domain.estimates.setting import setting_of
from backend.domain.estimates.throughput import peak_flops
from backend.domain.training import execution as pass_size
from backend.domain.training.config import RunConfig
from backend.domain.training.execution import compiles
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.build import build_network
from jobs.training import telemetry
from jobs.training.checkpoints import load_state
from jobs.training.context import read_training_context
from jobs.training.network.load import choose_attention
from jobs.training.run import load_model, make_loop, run
from jobs.training.telemetry import MemoryMeter, MeteredReporter, Utilisation, find_utilisation, matmul_flops
from tests.support.training_rooms import TINY, Recorder, Rooms, load_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_run_uses_the_attention_of_its_config(rooms: Rooms, attention: str) -> None:
    ctx = read_training_context(
        rooms.training("pretrain", run=attention, job=attention, attention=attention), Recorder()
    )
    assert load_model(ctx, resume_from=None).config._attn_implementation == attention


@pytest.mark.parametrize("attention", ["flex", "flash"])
def test_attention_that_a_device_does_not_support_is_refused(rooms: Rooms, attention: str) -> None:
    with pytest.raises(InvalidInput, match="GPU only") as caught:
        run(rooms.training("pretrain", run=attention, job=attention, attention=attention), Recorder())
    assert caught.value.field == "attention"


def test_flash_attention_names_what_is_missing() -> None:
    network = build_network(TINY, seed=1)
    with pytest.raises(InvalidInput, match="flash-attn, which is not installed"):
        choose_attention(network, "flash", device=torch.device("cuda"), autocast=torch.bfloat16)


def test_a_network_with_attention_of_its_own_refuses_another() -> None:
    bloom = build_network(
        ArchitectureConfig(
            family="bloom", num_layers=1, width=32, num_heads=4, context=32, vocab_size=64, feed_forward=128
        ),
        seed=1,
    )
    with pytest.raises(InvalidInput, match="BloomForCausalLM can't compute attention by sdpa"):
        choose_attention(bloom, "sdpa", device=CPU, autocast=None)


def half_precision_loop(rooms: Rooms, name: str, recorder: Recorder, *, scale: float) -> Any:
    """Build an fp16 loop on the CPU with a GPU's scaler; a run would refuse fp16 on a CPU."""
    spec = rooms.training("pretrain", run=name, job=name)
    ctx = replace(read_training_context(spec, recorder), autocast=torch.float16)
    ctx.meter.begin()
    model = load_model(ctx, resume_from=None)
    loop = make_loop(ctx, load_batches(ctx, model), model)
    assert loop.scaler is not None
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return loop


def test_fp16_scales_gradients_and_skips_updates_that_overflow(rooms: Rooms) -> None:
    recorder = Recorder()
    loop = half_precision_loop(rooms, "fp16", recorder, scale=2.0**127)
    before = {name: weight.detach().clone() for name, weight in loop.model.named_parameters()}
    first = loop.update(1)
    assert "grad_norm" not in first
    assert all(torch.equal(weight, before[name]) for name, weight in loop.model.named_parameters())
    assert loop.scaler.get_scale() == 2.0**126
    loop.scaler.load_state_dict({**loop.scaler.state_dict(), "scale": 1024.0})
    loop.run()
    losses = [loss for _, loss in recorder.series("train_loss")]
    assert losses[-1] < losses[0]
    assert all(norm < 100 for _, norm in recorder.series("grad_norm"))


def test_the_gradient_scale_is_restored_on_resume(rooms: Rooms) -> None:
    loop = half_precision_loop(rooms, "fp16-resume", Recorder(), scale=2.0**127)
    loop.run()
    scale = loop.scaler.get_scale()
    assert scale < 2.0**127
    again = torch.amp.GradScaler("cpu")
    load_state(rooms.root / loop.last_checkpoint, optimizer=loop.optimizer, states={"scaler": again})
    assert again.get_scale() == scale


def test_gradients_that_overflow_at_the_smallest_scale_end_the_run(rooms: Rooms) -> None:
    loop = half_precision_loop(rooms, "fp16-lost", Recorder(), scale=1.0)
    loop.model.get_output_embeddings().weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(JobFailed):
        loop.update(1)


def pretraining(**values: Any) -> RunConfig:
    """Return a run's config."""
    return RunConfig(**{"dataset": "d", "architecture": TINY, "tokenizer": "t", "context": 64, **values})


def test_auto_compiles_long_runs_with_static_shapes() -> None:
    short, long = pretraining(max_steps=300), pretraining(max_steps=1_000_000)
    assert not compiles(short, parameters=1_000_000, device="cpu")
    assert compiles(long, parameters=1_000_000, device="cpu")
    assert not compiles(long, parameters=1_000_000, device="gpu")
    assert compiles(short.model_copy(update={"compile": "on"}), parameters=1, device="cpu")
    assert not compiles(long.model_copy(update={"compile": "off"}), parameters=10**9, device="cpu")
    tuned = RunConfig(objective="sft", dataset="d", base="b", max_steps=1_000_000)
    assert not compiles(tuned, parameters=10**9, device="cpu")
    assert setting_of(long.model_copy(update={"compile": "on"}), TINY, device="cpu").compiled


def test_a_run_whose_compiler_fails_is_eager_and_logs_it(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("no working C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", broken)
    eager, fallen = Recorder(), Recorder()
    run(rooms.training("pretrain", run="eager", job="eager", compile="off"), eager)
    run(rooms.training("pretrain", run="fallen", job="fallen", compile="on"), fallen)
    assert "torch.compile is not used: RuntimeError: no working C++ compiler" in fallen.lines
    assert fallen.series("train_loss") == eager.series("train_loss")


def test_a_compiled_run_has_the_losses_of_an_eager_one(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **more: whole(network, backend="eager", **more))
    eager, compiled = Recorder(), Recorder()
    run(rooms.training("pretrain", run="plain", job="plain", compile="off"), eager)
    run(rooms.training("pretrain", run="compiled", job="compiled", compile="on"), compiled)
    assert any(line.startswith("The model is compiled") for line in compiled.lines), compiled.lines
    for (_, one), (_, other) in zip(eager.series("train_loss"), compiled.series("train_loss"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("objective", ["pretrain", "sft"])
def test_a_micro_batch_split_for_the_cpus_cache_gives_the_same_losses(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    recorders = []
    for at_once in (1024, 100):
        monkeypatch.setattr(pass_size, "PASS_TOKENS", at_once)
        name = f"{objective}-{at_once}-at-once"
        spec = rooms.training(objective, run=name, job=name, packing=True)
        run(spec, recorder := Recorder())
        recorders.append(recorder)
    whole, cut = recorders
    line = "A forward pass takes 2 of the 4 sequences of a micro-batch, which fit the CPU's cache."
    assert line in cut.lines
    assert line not in whole.lines
    for metric in ("train_loss", "grad_norm", "val_loss"):
        assert cut.series(metric) == [(step, pytest.approx(value, rel=1e-5)) for step, value in whole.series(metric)]
    assert setting_of(spec.payload.config, TINY, device="cpu").micro_batch == 2


def test_a_run_reports_mfu_and_memory(rooms: Rooms) -> None:
    recorder = Recorder()
    spec = rooms.training("pretrain", run="share", job="share")
    run(spec, recorder)
    peak = max(json.loads(file.read_text())["matmul_flops_per_s"] for file in (rooms.root / "machines").iterdir())
    rates, shares = dict(recorder.series("tok_per_sec")), dict(recorder.series("mfu"))
    per_token = count_flops(TINY, context=48, micro_batch=4).training
    assert sorted(shares) == [1, 2, 3, 4, 5, 6]
    assert 0 < shares[6] <= rates[6] * per_token / peak * (1 + 1e-9) * 1e3
    assert shares[6] / rates[6] == pytest.approx(shares[2] / rates[2])
    assert recorder.series("memory_bytes")[0][1] > 0


def test_the_best_measured_matmul_rate_is_stored(tmp_path: Path) -> None:
    measured = matmul_flops(tmp_path)
    (file,) = (tmp_path / "machines").iterdir()
    assert json.loads(file.read_text())["matmul_flops_per_s"] == measured
    file.write_text(json.dumps({"matmul_flops_per_s": 1e18}))
    assert matmul_flops(tmp_path) == 1e18
    file.write_text("torn")
    assert 0 < matmul_flops(tmp_path) < 1e18


def test_the_rate_is_that_of_the_fastest_product_and_three_alike_end_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 9.0, 9.0, 10.0, 10.0, 14.0, 14.0, 15.01, 15.01, 16.02, 16.02, 16.03])  # 9, 1, 4, 1.01, 1.01 s
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(telemetry, "count_interruptions", lambda: 0)
    assert matmul_flops(tmp_path) == 2 * telemetry.SIDE**3 / 1.0
    assert next(clock) == 16.02


def test_products_that_were_interrupted_do_not_end_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a busy machine three products of ten times the time were alike, and its peak was a tenth."""
    clock = iter([0.0, 9.0, 9.0, 18.0, 18.0, 27.0, 27.0, 28.0, 28.0, 29.0, 29.0, 30.0, 30.0, 31.0])
    interruptions = iter([0, 1, 1, 2, 2, 3, *[3] * 10])
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(telemetry, "count_interruptions", lambda: next(interruptions))
    assert matmul_flops(tmp_path) == 2 * telemetry.SIDE**3 / 1.0


def test_mfu_is_known_if_operations_and_peak_are(tmp_path: Path) -> None:
    network = build_network(TINY, seed=1)
    config = pretraining()
    used = find_utilisation(network, config, device=CPU, artifacts=tmp_path)
    assert used is not None
    assert used.of(used.peak / used.flops_per_token) == pytest.approx(1.0)
    tuned = RunConfig(objective="sft", dataset="d", base="b")  # trains on a part of the tokens that it computes
    assert find_utilisation(network, tuned, device=CPU, artifacts=tmp_path) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 9.89e14),
        ("NVIDIA H100 PCIe", 7.56e14),
        ("NVIDIA A100-SXM4-80GB", 3.12e14),
        ("NVIDIA A10G", 7.0e13),
        ("NVIDIA L40S", 3.62e14),
        ("NVIDIA GeForce RTX 4090", 1.652e14),
        ("Some other accelerator", None),
    ],
)
def test_device_peaks_are_found_by_driver_names(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_an_mfu_above_one_is_not_reported() -> None:
    recorder = Recorder()
    reporter = MeteredReporter(recorder, MemoryMeter(CPU))
    reporter.mfu_of_rate = Utilisation(flops_per_token=1.0, peak=100.0).of
    for step, rate in enumerate((90.0, 110.0, 95.0), start=1):
        reporter.metrics(step, {"tok_per_sec": rate})
    assert recorder.series("mfu") == [(1, 0.9)]
    assert [rate for _, rate in recorder.series("tok_per_sec")] == [90.0, 110.0, 95.0]
