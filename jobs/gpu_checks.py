"""Check a device with the product's own code: `python -m jobs.gpu_checks NAME FOLDER` runs one check and writes its
result to FOLDER/NAME.json.

`roundhouse doctor --gpu` starts a process for each check, so that a crash or a hang ends that check alone. The checks
make their own data in FOLDER, which they share, and need no network. Without a GPU they run on the CPU.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

if sys.argv[1:2] == ["fp32"]:
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # before CUDA's libraries are loaded: a run with precision fp32 uses TF32

from uuid import uuid4

import pyarrow as pa
import torch
from pyarrow import parquet
from torch.nn.attention import SDPBackend, sdpa_kernel

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_flops
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import setting_of
from backend.domain.estimates.throughput import peak_flops
from backend.domain.jobs.events import Event, LogEvent, MetricsEvent, ReadyEvent
from backend.domain.jobs.gpu_check import ENDPOINT_ENGINES, GPU_CHECKS, GpuCheckResult, MeasuredSetting
from backend.domain.jobs.payloads import ProbePayload, ReplicaPayload, TrainPayload
from backend.domain.jobs.states import StopRequest
from backend.domain.serving.engines import SERVERS
from backend.domain.serving.protocol import FinishEvent, GenerateRequest, SamplingParams, TokenEvent
from backend.domain.training.config import RunConfig
from backend.domain.wording import format_bytes, percent
from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.infra.engines import engine_command
from backend.infra.replicas import ReplicaClient
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network, save_checkpoint
from jobs.modeling.devices import (
    computes_bf16,
    device_kind,
    device_name,
    free_bytes,
    is_gpu,
    is_out_of_memory,
    pick_device,
)
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import train_bpe
from jobs.reporter import JobSpec, Reporter
from jobs.serving import replica
from jobs.training import probe
from jobs.training import run as training
from jobs.training.network.adapters import check_quantising
from jobs.training.network.optimizers import check_optimizer
from jobs.training.telemetry import Utilisation, matmul_flops

SMALL = ArchitectureConfig(
    num_layers=2, width=128, num_heads=2, num_kv_heads=1, context=128, vocab_size=512, feed_forward=256
)
GPT2 = ArchitectureConfig(
    family="gpt2", num_layers=12, width=768, num_heads=12, context=1024, vocab_size=50_304, feed_forward=3072
)
NAMES, THINGS = ("Mira", "Tom", "Ada", "Ben"), ("a lamp", "a red kite", "the old boat", "a song")
PROMPT = "Mira gave"
STEPS, STOP_AFTER = 8, 5
FREE_MEMORY = "Close other programs that hold its memory (`nvidia-smi` lists them), and repeat with --only {name}."

LOSS_ERRORS = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 2e-2, "fp16": 1e-2}
"""Largest relative difference of a step's loss from the CPU's in fp32."""
FP32_PRODUCT_ERROR = 1e-5
"""Relative error of a matrix product in fp32 stays below it; TF32's, with 10 bits of mantissa, is above it."""
SDPA_ERRORS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
MEMORY_ERROR = 0.3
"""The worst error of the formula on a CPU is 28.7 % (docs/benchmarks/memory.md)."""
MIN_MFU = {"gpu": 0.2, "cpu": 0.05}


class NotHere(Exception):
    """The machine lacks what a check needs; with the cure, if there is one."""

    def __init__(self, reason: str, cure: str = "") -> None:
        super().__init__(reason)
        self.cure = cure


class Off(Exception):
    """A figure is outside of its bounds. A measurement of memory and speed counts nevertheless."""

    def __init__(self, figure: str, measured: MeasuredSetting | None = None) -> None:
        super().__init__(figure)
        self.measured = measured


class Recorder(Reporter):
    """A reporter that keeps metrics and log, and asks to stop after a number of steps."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.points: list[MetricsEvent] = []
        self.lines: list[str] = []
        self.ready: list[ReadyEvent] = []
        self.is_over = False
        self._stop_after = stop_after

    def emit(self, event: Event) -> None:
        """Record an event."""
        if isinstance(event, MetricsEvent):
            self.points.append(event)
        elif isinstance(event, LogEvent):
            self.lines.append(event.text)
            sys.stdout.write(f"{event.text}\n")
        elif isinstance(event, ReadyEvent):
            self.ready.append(event)

    def should_stop(self) -> StopRequest | None:
        """Ask to stop once the steps are done, or when the check is over."""
        done = self.points[-1].step if self.points else 0
        return "cancel" if self.is_over or (self._stop_after is not None and done >= self._stop_after) else None

    @property
    def losses(self) -> list[float]:
        """The training loss of each step."""
        return [float(point.values["train_loss"] or 0.0) for point in self.points if "train_loss" in point.values]

    @property
    def skipped(self) -> int:
        """Updates that were skipped because fp16 overflowed."""
        return sum("train_loss" in point.values and "grad_norm" not in point.values for point in self.points)


class Bench:
    """An artifacts folder with made-up data, and jobs in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.device = root, pick_device()
        self.jobs: dict[str, str] = {}
        if not (root / "texts").is_dir():
            _write_data(root)

    def spec(self, payload: Any, *, job: str, attempt: int = 1) -> JobSpec[Any]:
        """Return an attempt at a job."""
        folder = self.root / "jobs" / job
        folder.mkdir(parents=True, exist_ok=True)
        return JobSpec(id=job, attempt=attempt, payload=payload, artifacts=self.root, folder=folder)

    def fields(self, shape: ArchitectureConfig | None = None, **values: Any) -> dict[str, Any]:
        """Return a payload's fields: pretraining a network of this shape, or fine-tuning the base."""
        subject = {"objective": "sft", "base": "b"} if shape is None else {"architecture": shape, "tokenizer": "t"}
        steps = {"max_steps": STEPS, "eval_every": 10**6, "checkpoint_every": 10**6, "warmup_steps": 2}
        sizes = {"micro_batch": 4, "context": 128, "learning_rate": 1e-3, "sample_prompts": (), "compile": "off"}
        config = RunConfig(dataset="d", **{**subject, **steps, **sizes, **values})
        return {
            "config": config.model_dump(mode="json"),
            "architecture": None if shape is None else shape.model_dump(mode="json"),
            "tokenizer": None if shape is None else "tokenizer",
            "dataset": "chats" if shape is None else "texts",
            "dataset_kind": "chat" if shape is None else "text",
            "base": "base" if shape is None else None,
        }

    def train(
        self,
        name: str,
        shape: ArchitectureConfig | None = SMALL,
        *,
        stop_after: int | None = None,
        attempt: int = 1,
        **values: Any,
    ) -> Recorder:
        """Train a run to its end, or until it is stopped; return its record. A second attempt resumes the last one."""
        job = self.jobs[name] = f"{name}-{uuid4().hex[:8]}" if attempt == 1 else self.jobs[name]
        payload = TrainPayload.read({"run_id": job, "run_folder": f"runs/{job}", **self.fields(shape, **values)})
        recorder = Recorder(stop_after=stop_after)
        training.run(self.spec(payload, job=job, attempt=attempt), recorder)
        return recorder

    def probe(
        self, shape: ArchitectureConfig | None, *, measured: ArchitectureConfig, **values: Any
    ) -> MeasuredSetting:
        """Measure peak memory and speed of a run as a probe does."""
        fields = self.fields(shape, **values)
        extra = {"run_folder": "runs/probe", "fingerprint": "", "shape": measured.model_dump(mode="json")}
        payload = ProbePayload.read({**fields, **extra})
        result = probe.run(self.spec(payload, job=f"probe-{uuid4().hex[:8]}"), Recorder())
        return MeasuredSetting(config=payload.config, shape=measured, result=result)

    def add_base(self, shape: ArchitectureConfig = SMALL, *, steps: int = 40) -> None:
        """Make `base`: a network of this shape, trained for some steps on the CPU."""
        folder = self.root / "base"
        if folder.exists():
            shutil.rmtree(folder)
        if steps:
            self.train("base", shape, device="cpu", max_steps=steps)
            newest = next((self.root / "runs" / self.jobs["base"] / "checkpoints").glob("step-*"))
            shutil.copytree(newest, folder)
            return
        tokenizer = load_tokenizer(self.root / "tokenizer")
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        network = build_network(shape, seed=3, pad_token_id=tokenizer.pad_token_id, **ids)
        save_checkpoint(folder, model=network, tokenizer=tokenizer, meta={})


def _write_data(root: Path) -> None:
    """Write texts, chats and a tokenizer with something to learn in them."""
    draw = random.Random(1)
    sentences = [f"{a} gave {thing} to {b}." for a in NAMES for thing in THINGS for b in NAMES if a != b]
    texts = [" ".join(draw.choices(sentences, k=80)) for _ in range(400)]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"What did {name} give?"},
                {"role": "assistant", "content": f"{name} gave {draw.choice(THINGS)}. " * draw.randint(1, 6)},
            ]
        }
        for name in draw.choices(NAMES, k=200)
    ]
    for folder, rows in (("texts", [{"text": text} for text in texts]), ("chats", chats)):
        (root / folder).mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(rows), root / folder / "train.parquet")
    train_bpe(texts[:40], vocab_size=SMALL.vocab_size).save_pretrained(root / "tokenizer")


def loss_error(losses: Sequence[float], reference: Sequence[float], *, limit: float) -> str:
    """Return the largest relative difference of two curves as text.

    Raises Off if it is above the limit, if the runs differ in length, or if the loss did not fall.
    """
    if len(losses) != len(reference):
        raise Off(f"{len(losses)} steps were reported, and {len(reference)} of the reference")
    errors = [abs(loss / other - 1) for loss, other in zip(losses, reference, strict=True)]
    error = max(errors)
    text = f"loss within {percent(error, digits=4)} of the reference's"
    if not all(each <= limit for each in errors):  # also if one is NaN
        raise Off(f"loss is up to {percent(error, digits=2)} off the reference's, more than {percent(limit, digits=2)}")
    if losses[-1] >= losses[0]:
        raise Off(f"the loss did not fall: {losses[0]:.3f} to {losses[-1]:.3f}")
    return text


def product_error(device: torch.device) -> float:
    """Return the relative error of a matrix product in float32, which shows TF32's shorter mantissa."""
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    product = (left.to(device) @ right.to(device)).cpu().double()
    return float((product - exact).norm() / exact.norm())


def check_precision(bench: Bench, name: str) -> str:
    """Compare the loss of a few steps with the CPU's in fp32."""
    device = bench.device
    if name == "fp16" and not is_gpu(device):
        raise NotHere("fp16 trains on a GPU only")
    if name == "tf32" and (device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability() < (8, 0)):
        raise NotHere("TF32 needs an NVIDIA GPU of Ampere's generation or later")
    reference = bench.train("reference", device="cpu", precision="fp32")
    recorder = bench.train(name, precision="fp32" if name == "tf32" else name)
    text = loss_error(recorder.losses, reference.losses, limit=LOSS_ERRORS[name])
    if name in ("fp32", "tf32"):
        error = product_error(device)
        if (error > FP32_PRODUCT_ERROR) != (name == "tf32"):
            used = "not computed" if name == "tf32" else "computed"
            raise Off(f"a matrix product is {used} in TF32: its relative error is {error:.1e}")
        text += f", a matrix product's error {error:.1e}"
    if name == "fp16":
        text += f", {recorder.skipped} of {STEPS} updates skipped"
    return text


def check_attention(bench: Bench, kernel: SDPBackend) -> str:
    """Compare attention and its gradients by one kernel with those in float64 on the CPU."""
    device, name = bench.device, kernel.name.lower().removesuffix("_attention")
    if device.type not in ("cuda", "cpu") and kernel is not SDPBackend.MATH:
        raise NotHere(f"torch chooses no kernel by name on a device of type {device.type}")
    dtype = torch.bfloat16 if is_gpu(device) and computes_bf16(device) else torch.float32
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(2, 8, 256, 64, generator=generator).to(dtype) for _ in range(4)]
    with sdpa_kernel(SDPBackend.MATH):
        theirs = _attend([each.double() for each in inputs])
    try:
        with sdpa_kernel(kernel):
            ours = _attend([each.to(device) for each in inputs])
    except RuntimeError as error:
        if not re.search("no (available kernel|viable backend)", str(error), re.IGNORECASE):
            raise
        raise NotHere(f"torch has no {name} kernel for this device in {dtype}") from error
    errors = [
        float((one.cpu().double() - other).norm() / other.norm()) for one, other in zip(ours, theirs, strict=True)
    ]
    if not all(error <= SDPA_ERRORS[dtype] for error in errors):
        raise Off(f"output or gradients in {dtype} are {percent(max(errors), digits=2)} off float64's on the CPU")
    return f"{str(dtype).removeprefix('torch.')}: output within {errors[0]:.1e}, gradients within {max(errors[1:]):.1e}"


def _attend(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return causal attention's output, and the gradients of query, key and value."""
    *queries, outer = inputs
    leaves = [each.detach().requires_grad_() for each in queries]
    query, key, value = leaves
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return [output.detach(), *torch.autograd.grad(output, leaves, outer)]


def check_compile(bench: Bench) -> str:
    """Compare a compiled run with an eager one."""
    eager = bench.train("eager", compile="off", precision="fp32")
    compiled = bench.train("compiled", compile="on", precision="fp32")
    line = next((line for line in compiled.lines if "compile" in line), "")
    if not line.startswith("The model is compiled"):
        raise Off(line or "the run did not compile its network")
    return f"{loss_error(compiled.losses, eager.losses, limit=LOSS_ERRORS['tf32'])} {line[line.index('(') : -1]}"


def check_qlora(bench: Bench) -> str:
    """Compare fine-tuning of a base in 4 and in 8 bits with LoRA on the same base."""
    _need(lambda: check_quantising(bench.device))
    bench.add_base()
    tuned: dict[str, Any] = {"learning_rate": 1e-2, "method": "lora", "max_steps": 2 * STEPS}
    lora = bench.train("lora", None, **tuned).losses
    texts = []
    for bits in (4, 8):
        quantised = bench.train(f"{bits}-bit", None, **{**tuned, "method": "qlora", "lora": {"bits": bits}}).losses
        texts.append(f"{bits} bits: {loss_error(quantised, lora, limit=0.1)}")
    return "; ".join(texts)


def check_adamw_8bit(bench: Bench) -> str:
    """Compare 8-bit AdamW with AdamW."""
    fields = bench.fields(SMALL, optimizer="adamw_8bit")
    _need(lambda: check_optimizer(RunConfig.model_validate(fields["config"])))
    if not is_gpu(bench.device):
        raise NotHere("8-bit AdamW updates on a GPU only")
    full = bench.train("adamw", precision="fp32", max_steps=2 * STEPS)
    quantised = bench.train("adamw-8bit", precision="fp32", max_steps=2 * STEPS, optimizer="adamw_8bit")
    return loss_error(quantised.losses, full.losses, limit=0.05)


def _need(check: Callable[[], object]) -> None:
    """Turn the product's own refusal of a device or a missing library into NotHere."""
    try:
        check()
    except (InvalidInput, Unavailable) as refusal:
        raise NotHere(refusal.message.rstrip("."), refusal.remedy) from refusal


def check_resume(bench: Bench) -> str:
    """Stop a run, resume it, and compare it with an undisturbed one."""
    undisturbed = bench.train("undisturbed", checkpoint_every=4)
    stopped = bench.train("resumed", checkpoint_every=4, stop_after=STOP_AFTER)
    resumed = bench.train("resumed", checkpoint_every=4, attempt=2)
    steps = [point.step for point in resumed.points[:1]]
    if (len(stopped.losses), steps) != (STOP_AFTER, [5]):
        raise Off(f"stopped after {len(stopped.losses)} steps, and resumed with {steps or 'none'}")
    rest = undisturbed.losses[4:]
    if resumed.losses == rest:
        return "every loss of the resumed steps is equal to the last bit"
    error = max(abs(one / other - 1) for one, other in zip(resumed.losses, rest, strict=True))
    if not is_gpu(bench.device) or not error <= 1e-3:
        raise Off(f"losses after the resume are up to {percent(error, digits=4)} off an undisturbed run's")
    return f"losses within {percent(error, digits=4)}: kernels of this device add in another order each time"


def check_ranks(bench: Bench, sharding: Literal["ddp", "fsdp"]) -> str:
    """Compare two devices, or two processes on the CPU, with one."""
    count = torch.accelerator.device_count() if is_gpu(bench.device) else 2
    if count < 2:
        raise NotHere("one GPU is visible, and this needs two")
    one = bench.train("one", grad_accum_steps=2, precision="fp32")
    two = bench.train(sharding, devices={"count": 2, "sharding": sharding}, precision="fp32")
    where = "GPUs" if is_gpu(bench.device) else "processes"
    return f"two {where}: {loss_error(two.losses, one.losses, limit=LOSS_ERRORS['tf32'])}"


def check_memory(bench: Bench, name: str) -> tuple[str, MeasuredSetting]:
    """Compare the estimate of a run's memory with its measured peak."""
    is_large = is_gpu(bench.device)
    layers, width, vocabulary = (12, 768, 16_384) if is_large else (4, 256, 8192)
    context = 512 if is_large else 128
    shape = ArchitectureConfig(
        num_layers=layers,
        width=width,
        num_heads=width // 64,
        context=context,
        vocab_size=vocabulary,
        feed_forward=4 * width,
    )
    values: dict[str, Any] = {"context": context, "micro_batch": 16 if is_large else 8, "learning_rate": 1e-4}
    if name == "memory-lora":
        bench.add_base(shape, steps=0)
        measured = bench.probe(None, measured=shape, method="lora", **values)
    else:
        measured = bench.probe(shape, measured=shape, recompute=name == "memory-recompute", **values)
    result = measured.result
    if not result.measured_bytes:
        raise NotHere("this device does not count its memory")
    setting = setting_of(measured.config, shape, device=device_kind(bench.device))
    estimate = estimate_memory(setting, length=result.longest, trained=result.trained).total
    error = estimate / result.measured_bytes - 1
    text = f"estimated {format_bytes(estimate)}, measured {format_bytes(result.measured_bytes)}"
    if abs(error) > MEMORY_ERROR:
        raise Off(f"{text}: {percent(error, signed=True)}, more than {percent(MEMORY_ERROR)} off", measured)
    return f"{text} ({percent(error, signed=True)})", measured


def check_mfu(bench: Bench) -> tuple[str, MeasuredSetting]:
    """Train a GPT-2 of 124 M parameters for some steps, and measure its share of the device's peak."""
    device, kind = bench.device, device_kind(bench.device)
    context = GPT2.context if is_gpu(device) else 128
    micro_batch = 1 if not is_gpu(device) else 16 if (free_bytes(device) or 0) > 20 * 2**30 else 4
    values = {"micro_batch": micro_batch, "context": context, "compile": "on" if device.type == "cuda" else "off"}
    measured = bench.probe(GPT2, measured=GPT2, precision="auto", learning_rate=6e-4, **values)
    rate = measured.result.tokens_per_s
    text = f"{rate:,.0f} tokens/s with {micro_batch} x {context}"
    peak = peak_flops(device_name(device)) if is_gpu(device) else matmul_flops(bench.root)
    if peak is None:
        return f"{text}; MFU unknown, as this device's peak is not listed", measured
    flops = float(count_flops(GPT2, context=context, micro_batch=micro_batch).training)
    mfu = Utilisation(flops, peak).of(rate)
    if mfu < MIN_MFU[kind]:
        raise Off(f"{text}: MFU {percent(mfu, digits=1)}, less than {percent(MIN_MFU[kind])}", measured)
    return f"MFU {percent(mfu, digits=1)}, {text}", measured


def check_endpoint(bench: Bench, engine: str) -> str:
    """Serve the base by an engine, and compare a greedy completion with the CPU's."""
    if engine in SERVERS:
        _need(lambda: engine_command(engine))
    bench.add_base()
    network, tokenizer = load_network(bench.root / "base"), load_tokenizer(bench.root / "base")
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.inference_mode():
        generated = network.eval().generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    expected = tuple(generated[0, ids.shape[1] :].tolist())
    token, recorder = "token-of-the-check", Recorder()
    payload = ReplicaPayload.read(
        {"checkpoint": "base", "name": "check", "internal_token": token, "device": "auto", "engine": engine}
    )
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            replica.run(bench.spec(payload, job=f"replica-{uuid4().hex[:8]}"), recorder)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    began = time.perf_counter()
    thread.start()
    while not recorder.ready and not failures:
        time.sleep(0.05)
    if failures:
        raise failures[0]
    started = time.perf_counter() - began
    request = GenerateRequest(
        token_ids=tuple(ids[0].tolist()), params=SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    )
    answer = asyncio.run(_complete(recorder.ready[0].url, token, request))
    recorder.is_over = True
    thread.join()
    if answer != expected:
        raise Off(f"the greedy completion is {answer}, and the CPU's {expected}")
    return f"started in {started:.1f} s; {len(answer)} greedy tokens equal to the CPU's"


async def _complete(url: str, token: str, request: GenerateRequest) -> tuple[int, ...]:
    """Return the tokens of a completion. Raises Off if it does not finish."""
    client = ReplicaClient()
    tokens: list[int] = []
    try:
        async for event in client.stream(url, token=token, request=request):
            if isinstance(event, TokenEvent):
                tokens += event.token_ids
            elif not isinstance(event, FinishEvent):
                raise Off(f"the replica answered {event.model_dump_json()[:200]}")
    finally:
        await client.close()
    return tuple(tokens)


Outcome = str | tuple[str, MeasuredSetting]
CHECKS: dict[str, Callable[[Bench], Outcome]] = {
    **{name: partial(check_precision, name=name) for name in LOSS_ERRORS},
    "sdpa-math": partial(check_attention, kernel=SDPBackend.MATH),
    "sdpa-flash": partial(check_attention, kernel=SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": partial(check_attention, kernel=SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": partial(check_attention, kernel=SDPBackend.CUDNN_ATTENTION),
    "compile": check_compile,
    "qlora": check_qlora,
    "adamw-8bit": check_adamw_8bit,
    "resume": check_resume,
    "ddp": partial(check_ranks, sharding="ddp"),
    "fsdp2": partial(check_ranks, sharding="fsdp"),
    **{name: partial(check_memory, name=name) for name in ("memory", "memory-recompute", "memory-lora")},
    "mfu": check_mfu,
    **{f"endpoint-{engine}": partial(check_endpoint, engine=engine) for engine in ENDPOINT_ENGINES},
}


def run_gpu_check(name: str, folder: Path) -> GpuCheckResult:
    """Run a check in this process; a failure of any kind becomes its result."""
    device, cure = "", GPU_CHECKS[name].cure
    try:
        bench = Bench(folder)
        device = device_name(bench.device)
        outcome = CHECKS[name](bench)
        figure, measured = (outcome, None) if isinstance(outcome, str) else outcome
        return GpuCheckResult(name=name, device=device, verdict="pass", figure=figure, measured=measured)
    except NotHere as reason:
        return GpuCheckResult(name=name, device=device, verdict="not here", figure=str(reason), cure=reason.cure)
    except Off as off:
        return GpuCheckResult(
            name=name, device=device, verdict="fail", figure=str(off), cure=cure, measured=off.measured
        )
    except Exception as error:  # torch, drivers and libraries fail in many ways
        import traceback

        traceback.print_exc()
        if is_out_of_memory(error):
            return GpuCheckResult(
                name=name,
                device=device,
                verdict="fail",
                figure="the device's memory ran out",
                cure=FREE_MEMORY.format(name=name),
            )
        remedy = error.remedy if isinstance(error, RoundhouseError) else ""
        message = error.message if isinstance(error, RoundhouseError) else f"{type(error).__name__}: {error}"
        figure = next(iter(message.strip().splitlines()), type(error).__name__)[:300]
        return GpuCheckResult(name=name, device=device, verdict="fail", figure=figure, cure=remedy or cure)


def main() -> None:
    """Run one check and write its result."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    result = run_gpu_check(name, folder)
    (folder / f"{name}.json").write_text(result.model_dump_json())
    sys.stdout.flush()


if __name__ == "__main__":
    main()
