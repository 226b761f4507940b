"""One replica: load a checkpoint, serve it on a loopback port until asked to stop, and report its state.

The job handles lease, restarts and placement; this module only loads, serves and reports.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import torch
import uvicorn
from transformers import AutoConfig

from backend.domain.architectures.hf_config import has_window
from backend.domain.jobs.events import GaugeEvent, ReadyEvent
from backend.domain.jobs.payloads import ReplicaPayload
from backend.domain.jobs.results import ReplicaResult
from backend.domain.serving.drafts import CHOOSE_DRAFT
from backend.domain.serving.engines import ENGINE_TITLES, places_of, refuse_lacking
from backend.domain.serving.precision import PrecisionCheck
from backend.errors import InvalidInput, JobFailed, NotFound
from backend.infra.checkpoints.candidates import GGUF
from backend.infra.checkpoints.weight_headers import read_gguf
from backend.infra.engines import installed_engines
from backend.infra.http_server import Guard, connections_for, guarded, raise_file_limit
from jobs.modeling.chat import turn_end
from jobs.modeling.checkpoints import base_folder_of, is_adapter, is_scorer, load_scorer
from jobs.modeling.devices import is_gpu, pick_device, pick_inference_dtype, set_threads, visible_gpu
from jobs.modeling.kv_shape import has_heads, read_kv_shape
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import padding_id
from jobs.modeling.unusable import UNUSABLE
from jobs.reporter import JobSpec, Reporter
from jobs.serving.adapters import AdapterBank, AdapterFolders
from jobs.serving.drafts import Draft
from jobs.serving.engine import read_limits_of_folder
from jobs.serving.engines import (
    LLAMA_CPP,
    OUTSIDE,
    VLLM,
    OutsideServer,
    ServerProcess,
    ServerStart,
    StartFailed,
    prepare_gguf,
)
from jobs.serving.native.library import try_library
from jobs.serving.outside import OutsideEngine
from jobs.serving.prepared import PreparedFolder, load_prepared
from jobs.serving.reading import PromptReader, ScoringEngine
from jobs.serving.replica_app import AnswerLimits, ReplicaState, create_replica_app
from jobs.serving.start import EngineKind, generate_one_token, start_engine

logger = logging.getLogger(__name__)
CANCEL_S = 10.0  # open answers of a replica that is cancelled, rather than drained
LINGER_S = 1.0  # gateways send requests to a replica as long as they cache its address
GAUGE_S = 2.0
KEEP_ALIVE_S = 75  # longer than gateways keep idle connections, so that none is closed as a request comes
POLL_S = 0.1


def run(spec: JobSpec[ReplicaPayload], reporter: Reporter) -> ReplicaResult:
    """Serve until asked to stop; return {"stopped": request, "requests": served, "generated_tokens": n}.

    Payload: checkpoint (relative folder), name (endpoint), internal_token, threads (default 1), engine and device
    (default auto), draft (relative folder), context (tokens; the network's own by default), max_running, max_waiting,
    queue_timeout_s (60), answer_limit_s (600), precision (float32, bfloat16 or int8), max_perplexity_ratio (1.05) and
    keep_free_bytes (disk space that prepared weights leave). Events: `ready` {url, engine, context_length, load_s,
    precision_check} and `gauge` {running, waiting, tokens_per_second}. Raises JobFailed when the engine dies or stalls,
    so that the job is started again, and where a precision costs more than allowed.
    """
    payload = spec.payload
    # One thread per replica: small networks lose time at thread barriers, and more replicas use the cores better.
    set_threads(payload.threads)
    started = time.monotonic()
    folder = spec.path(payload.checkpoint)
    if not folder.is_dir():
        raise NotFound(
            "The files of the checkpoint that it serves were deleted.",
            remedy=f"Deploy another checkpoint as {payload.name}, or stop the endpoint.",
        )
    device = pick_device(payload.device)
    engine_name = choose_engine(payload, folder, device)
    if engine_name in OUTSIDE:
        try:
            return _run_outside(spec, reporter, folder, OUTSIDE[engine_name], device=device, started=started)
        except StartFailed as error:
            if payload.engine != "auto":
                raise
            logger.warning("%s Roundhouse's engine serves instead.", error)
    if is_scorer(folder):
        return _run_scorer(spec, reporter, folder, device=device, started=started)
    prepared = PreparedFolder.of(spec.artifacts, payload.checkpoint, keep_free_bytes=payload.keep_free_bytes)
    loaded = load_prepared(folder, device=device, precision=payload.precision, prepared=prepared)
    network, check = loaded.network, loaded.check
    tokenizer = load_tokenizer(folder)
    add_end_token(network, turn_end(tokenizer))
    if check is not None:
        check.require(max_perplexity_ratio=payload.max_perplexity_ratio)
    reader = PromptReader(network)
    bank = AdapterBank(folder, network, reader.network)
    reader.bank = bank
    engine = start_engine(
        network,
        tokenizer,
        kind=cast(EngineKind, payload.engine),
        context=payload.context,
        max_running=payload.max_running,
        max_waiting=payload.max_waiting,
        bank=bank,
        draft=None if payload.draft is None else _load_draft(spec, payload.draft, tokenizer),
    )
    limits = AnswerLimits(queue_timeout_s=payload.queue_timeout_s, answer_s=payload.answer_limit_s)
    replica = ReplicaState(
        engine,
        tokenizer,
        name=payload.name,
        reader=reader,
        limits=limits,
        adapters=AdapterFolders(spec.artifacts, bank, tokenizer),
    )
    replica.arithmetic = describe_arithmetic(network)
    return _serve_until_stopped(replica, reporter, payload, load_s=time.monotonic() - started, check=check)


def choose_engine(payload: ReplicaPayload, folder: Path, device: torch.device) -> str:
    """Return a replica's engine. An automatic one is vLLM on a GPU where it is installed and lacks nothing that is
    asked for. Raises InvalidInput for what a chosen one lacks.
    """
    if payload.engine in OUTSIDE:
        _refuse_lacking(payload.engine, payload, folder, device)
    if payload.engine != "auto" or not is_gpu(device) or VLLM.name not in installed_engines():
        return payload.engine
    try:
        _refuse_lacking(VLLM.name, payload, folder, device)
    except InvalidInput as lack:
        logger.info("Roundhouse's engine serves: %s", lack)
        return payload.engine
    return VLLM.name


def _refuse_lacking(engine: str, payload: ReplicaPayload, folder: Path, device: torch.device) -> None:
    """Raise InvalidInput for what the engine lacks, before it starts."""
    base = folder
    while is_adapter(base):
        base = base_folder_of(base)
    try:
        config = AutoConfig.from_pretrained(str(base), trust_remote_code=False, local_files_only=True)
    except UNUSABLE:
        config = None  # loading explains what is wrong
    refuse_lacking(
        engine,
        family=getattr(config, "model_type", None),
        precision=payload.precision,
        has_draft=payload.draft is not None,
        has_adapters=False,
        is_scorer=is_scorer(folder),
        is_adapter=is_adapter(folder),
        has_gguf=(folder / GGUF).is_file(),
        head_size=None if is_gpu(device) or not (config and has_heads(config)) else read_kv_shape(config).head_size,
        has_window=config is not None and has_window(config.get_text_config().to_dict()),
    )


def _run_outside(
    spec: JobSpec[ReplicaPayload],
    reporter: Reporter,
    folder: Path,
    server: OutsideServer,
    *,
    device: torch.device,
    started: float,
) -> ReplicaResult:
    """Serve by another project's server, a process of its own that ends with this one."""
    payload = spec.payload
    prepared = PreparedFolder.of(spec.artifacts, payload.checkpoint, keep_free_bytes=payload.keep_free_bytes)
    tokenizer = load_tokenizer(folder)
    limits = read_limits_of_folder(folder, tokenizer, context=payload.context)
    check = None
    if payload.precision != "float32" and not is_gpu(device):
        check = load_prepared(folder, device=device, precision=payload.precision, prepared=prepared).check
    if check is not None:
        check.require(max_perplexity_ratio=payload.max_perplexity_ratio)
    dtype = str(pick_inference_dtype(device=device)).removeprefix("torch.") if is_gpu(device) else payload.precision
    start = ServerStart(
        model=prepare_gguf(folder, prepared=prepared) if server is LLAMA_CPP else folder,
        context=limits.context_length,
        places=places_of(server.name, payload.max_running),
        threads=payload.threads,
        gpus=torch.accelerator.device_count() if is_gpu(device) else 0,
        dtype=dtype,
    )
    process = ServerProcess.begin(server, start)
    try:
        process.wait_until_healthy(should_stop=reporter.should_stop)
        engine = OutsideEngine(
            process, tokenizer, limits=limits, max_running=start.places, max_waiting=payload.max_waiting
        )
    except BaseException:
        process.close()
        raise
    try:
        generate_one_token(engine)
        replica = ReplicaState(
            engine,
            tokenizer,
            name=payload.name,
            limits=AnswerLimits(queue_timeout_s=payload.queue_timeout_s, answer_s=payload.answer_limit_s),
        )
        chosen = ", chosen for the GPU" if payload.engine == "auto" else ""
        numbers = dtype
        if server is LLAMA_CPP and (folder / GGUF).is_file():
            header = read_gguf(folder / GGUF)
            numbers = f"{header.quantisation} as in its GGUF file ({header.bits_per_weight} bits per weight)"
        replica.arithmetic = f"{ENGINE_TITLES[server.name]} in {numbers}, process {process.pid}{chosen}"
        return _serve_until_stopped(replica, reporter, payload, load_s=time.monotonic() - started, check=check)
    finally:
        engine.close()


def describe_arithmetic(network: Any) -> str:
    """Return what computes a network's layers on a CPU, and why it is not the compiled library; empty on a GPU."""
    if network.device.type != "cpu":
        return ""
    compiled = try_library()
    if compiled.library is None:
        return f"PyTorch, which is slower, since the library could not be compiled: {compiled.problem}"
    first = next(iter(getattr(network.base_model, "layers", ())), None)
    if not getattr(first, "is_compiled", False):
        return "PyTorch, which is slower: the compiled library does not cover a part of this architecture"
    return f"code compiled for {compiled.library.processor}"


def _run_scorer(
    spec: JobSpec[ReplicaPayload], reporter: Reporter, folder: Path, *, device: torch.device, started: float
) -> ReplicaResult:
    """Serve a reward model, in float32. Raises InvalidInput for options that it has no use for."""
    payload = spec.payload
    for name, is_set in (("precision", payload.precision != "float32"), ("draft", payload.draft is not None)):
        if is_set:
            raise InvalidInput(
                f"A reward model is served without {name}.", remedy=f"Deploy it without {name}.", field=name
            )
    tokenizer = load_tokenizer(folder)
    network = load_scorer(folder, pad_id=padding_id(tokenizer)).to(device)
    limits = AnswerLimits(queue_timeout_s=payload.queue_timeout_s, answer_s=payload.answer_limit_s)
    replica = ReplicaState(
        ScoringEngine(network, tokenizer), tokenizer, name=payload.name, reader=PromptReader(network), limits=limits
    )
    return _serve_until_stopped(replica, reporter, payload, load_s=time.monotonic() - started)


def _serve_until_stopped(
    replica: ReplicaState,
    reporter: Reporter,
    payload: ReplicaPayload,
    *,
    load_s: float,
    check: PrecisionCheck | None = None,
) -> ReplicaResult:
    engine = replica.engine
    try:
        ready = ReadyEvent(
            url="",
            engine=engine.name,
            context_length=engine.context_length,
            load_s=round(load_s, 2),
            precision_check=check,
        )
        stopped = asyncio.run(
            _serve(replica, reporter, internal_token=payload.internal_token, host=payload.host, ready=ready)
        )
    finally:
        engine.close()
    return ReplicaResult(stopped=stopped, requests=replica.num_served, generated_tokens=engine.stats().generated_tokens)


def _load_draft(spec: JobSpec[ReplicaPayload], checkpoint: str, tokenizer: Any) -> Draft:
    """Load the checkpoint that drafts, in int8. Raises InvalidInput for other tokens, or unfused layers."""
    payload, folder = spec.payload, spec.path(checkpoint)
    device = pick_device(payload.device)
    if device.type != "cpu":
        raise InvalidInput(
            "Drafts are checked on CPUs, and this replica has a GPU.",
            remedy="Deploy with device cpu, or without a draft.",
        )
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise InvalidInput(
            f"{folder.name} and {spec.path(payload.checkpoint).name} have different vocabularies.",
            remedy=CHOOSE_DRAFT,
            field="draft",
        )
    prepared = PreparedFolder.of(spec.artifacts, checkpoint, keep_free_bytes=payload.keep_free_bytes)
    return Draft(load_prepared(folder, device=device, precision="int8", prepared=prepared).network)


def add_end_token(network: Any, token: int | None) -> None:
    """Add a token to those that end a generation."""
    config = network.generation_config
    if token is None or config is None:
        return
    named = config.eos_token_id
    known = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
    config.eos_token_id = known if token in known else [*known, token]


async def _serve(
    replica: ReplicaState, reporter: Reporter, *, internal_token: str, host: str, ready: ReadyEvent
) -> str:
    app = create_replica_app(replica, internal_token=internal_token, host=host)
    most = connections_for(raise_file_limit())
    config = uvicorn.Config(
        app,
        http=guarded(Guard(most, most)),  # gateways are its clients, and share an address
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    with listen_on(host) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        reporter.emit(ready.model_copy(update={"url": url}))
        try:
            stopped = await _watch(replica, reporter, serving)
            await _drain(replica, reporter)
        finally:
            server.should_exit = True
            await serving
    return stopped


def listen_on(host: str) -> socket.socket:
    """Return a socket on a free port of this machine's address `host`; on every address where it is that of a router or
    a container.

    Raises JobFailed for a name that does not resolve.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise JobFailed(
            f"ROUNDHOUSE_REPLICA_HOST={host}: {error.strerror}.", remedy="Set this machine's address or name."
        ) from error
    # asyncio switches Nagle's algorithm off only where the socket names its protocol; with it, a second chunk waits up
    # to 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.bind(address)
    except OSError:
        everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - requests need the replica's token
        listener.bind((everywhere, 0))
    return listener


async def _watch(replica: ReplicaState, reporter: Reporter, serving: asyncio.Task[None]) -> str:
    """Report gauges until a stop request; return it."""
    next_gauge, use = 0.0, ProcessUse()
    while not serving.done():
        if (request := reporter.should_stop()) is not None:
            return request
        if not replica.engine.is_alive():
            raise JobFailed(
                "The engine of this replica died.", remedy="It restarts automatically; its log has the cause."
            )
        if replica.is_hung():
            await replica.blame_running()
            raise JobFailed(
                f"The engine made no step for {replica.watch.stall_s():.0f} s.", remedy="It restarts automatically."
            )
        if time.monotonic() >= next_gauge:
            stats = replica.engine.stats()
            rate = round(stats.tokens_per_second, 2)
            ratio = None if stats.cache_ratio is None else round(stats.cache_ratio, 4)
            queue_s = round(replica.longest_wait_s(), 2)
            load: dict[str, object] = {
                "running": stats.running,
                "waiting": stats.waiting,
                "tokens_per_second": rate,
                "cache_ratio": ratio,
                "queue_s": queue_s,
                "drafted_tokens": stats.drafted_tokens,
                "accepted_tokens": stats.accepted_tokens,
                "engine": replica.engine.name,
                "arithmetic": replica.arithmetic,
            }
            reporter.emit(GaugeEvent.model_validate(load | use.read()))
            next_gauge = time.monotonic() + GAUGE_S
        await asyncio.sleep(POLL_S)
    return "signal"


async def _drain(replica: ReplicaState, reporter: Reporter) -> None:
    """Refuse new requests, so that gateways use another replica, and let open ones finish: for CANCEL_S seconds, or for
    as long as an answer may take where the request is `drain`. A hung engine ends the wait.
    """
    replica.is_draining = True
    began = time.monotonic()
    until = began + replica.limits.answer_s
    while replica.num_open or time.monotonic() < began + LINGER_S:
        if reporter.should_stop() != "drain":
            until = min(until, time.monotonic() + CANCEL_S)
        if time.monotonic() >= until or replica.is_hung() or not replica.engine.is_alive():
            return
        await asyncio.sleep(0.05)


class ProcessUse:
    """Readings of this process and those that it started. Cores are the mean since the last reading."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._read_at, (self._cpu_s, _) = time.monotonic(), self._totals()

    def read(self) -> dict[str, float | int | None]:
        """Return `cpu_cores`, `memory_bytes`, and `gpu_memory_bytes` (None without a GPU), as gauge events do."""
        now, (cpu_s, memory_bytes) = time.monotonic(), self._totals()
        lasted = now - self._read_at
        # a process that has ended takes its seconds with it
        cores = round(max(0.0, cpu_s - self._cpu_s) / lasted, 3) if lasted > 0 else None
        self._read_at, self._cpu_s = now, cpu_s
        return {"cpu_cores": cores, "memory_bytes": memory_bytes, "gpu_memory_bytes": _gpu_memory_bytes()}

    def _totals(self) -> tuple[float, int]:
        """Return the processor seconds and the memory of this process and of those that it started and that run: a
        server of another project is the engine of some replicas.
        """
        cpu_s, memory_bytes = 0.0, 0
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error):  # it may end at any moment
                times, memory = process.cpu_times(), process.memory_info()
                cpu_s += times.user + times.system
                memory_bytes += int(memory.rss)
        return cpu_s, memory_bytes


def _gpu_memory_bytes() -> int | None:
    if visible_gpu() is None:
        return None
    return sum(torch.accelerator.memory_reserved(index) for index in range(torch.accelerator.device_count()))
