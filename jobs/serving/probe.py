"""Probe the speed of a checkpoint as a replica would serve it: users who each wait for an answer, then ask again."""

from __future__ import annotations

import random
import threading
import time
from statistics import median, quantiles

from backend.domain.jobs.serving_probe import ServingLoad, ServingProbePayload, ServingProbeResult
from backend.domain.serving.precision import PrecisionCheck
from backend.domain.serving.protocol import GenerationEvent, SamplingParams, TokenEvent
from backend.errors import JobFailed
from backend.infra.processes import peak_memory_bytes
from jobs.modeling.devices import device_kind, device_name, pick_device, pick_inference_dtype, set_threads
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import JobSpec, Reporter
from jobs.serving.engine import Engine, Handle
from jobs.serving.native.library import compile_library
from jobs.serving.prepared import load_own
from jobs.serving.start import start_engine

TIMED_S = 5.0
"""Seconds that each number of users is timed for, and longer until every user has an answer."""
MAX_S = 60.0
POLL_S = 0.02


def run(spec: JobSpec[ServingProbePayload], reporter: Reporter) -> ServingProbeResult:
    """Measure the loads of a payload from the smallest on. A stopped probe returns those it has finished.

    Prompts are random token ids that share no beginning, so no cached prefix helps; answers have their full length.
    Raises JobFailed if the network generates nothing.
    """
    payload = spec.payload
    threads = set_threads(payload.threads)
    reporter.progress(0, len(payload.users), unit="", message="Loading the model")
    started = time.monotonic()
    device = pick_device(payload.device)
    dtype = pick_inference_dtype(device=device)
    folder, library = spec.path(payload.checkpoint), compile_library() if device.type == "cpu" else None
    loaded = load_own(folder, device=device, precision="float32", library=library)
    tokenizer = load_tokenizer(folder)
    load_s = time.monotonic() - started
    loads: list[ServingLoad] = []
    check: PrecisionCheck | None = None
    precisions = [precision for precision in payload.precisions if precision == "float32" or device.type == "cpu"]
    for precision in precisions:
        if reporter.should_stop():
            break
        if precision != "float32":
            reporter.progress(
                len(loads),
                len(payload.users) * len(precisions),
                unit="",
                message=f"Measuring the quality of {precision}",
            )
            del loaded
            loaded = load_own(folder, device=device, precision=precision, library=library)
            check = loaded.check
        engine = start_engine(loaded.network, tokenizer, kind=payload.engine)
        prompt_tokens = max(1, min(payload.prompt_tokens, engine.context_length // 2))
        new_tokens = max(2, min(payload.new_tokens, engine.context_length - prompt_tokens))
        try:
            for users in payload.users:
                if reporter.should_stop():
                    break
                message = f"Timing {users} at once" + (f" in {precision}" if len(precisions) > 1 else "")
                reporter.progress(len(loads), len(payload.users) * len(precisions), unit="", message=message)
                vocabulary = loaded.network.config.get_text_config().vocab_size
                load = ClosedLoop(
                    engine, users=users, vocabulary=vocabulary, prompt_tokens=prompt_tokens, new_tokens=new_tokens
                )
                measured = load.measure(reporter)
                if measured is None:
                    break
                loads.append(measured.model_copy(update={"precision": precision}))
        finally:
            engine.close()
    reporter.progress(1, 1, unit="", message="Done")
    return ServingProbeResult(
        device=device_name(device),
        device_kind=device_kind(device),
        engine=engine.name,
        dtype=str(dtype).removeprefix("torch."),
        threads=threads,
        load_s=round(load_s, 2),
        memory_bytes=peak_memory_bytes(),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        loads=loads,
        precision_check=check,
        stopped=reporter.should_stop(),
    )


class ClosedLoop:
    """Users of an engine, each with one open request at a time. Events arrive on the engine's thread."""

    def __init__(self, engine: Engine, *, users: int, vocabulary: int, prompt_tokens: int, new_tokens: int) -> None:
        self._engine, self._users = engine, users
        self._vocabulary, self._prompt_tokens = vocabulary, prompt_tokens
        self._params = SamplingParams(max_tokens=new_tokens, temperature=1.0, ignore_eos=True)
        self._random = random.Random(users)
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        self._tokens = 0
        self._first_token_s: list[float] = []
        self._answers: dict[int, int] = dict.fromkeys(range(users), 0)
        self._waiting_to_ask: list[int] = []
        self._problem = ""

    def measure(self, reporter: Reporter) -> ServingLoad | None:
        """Return the speed; None if the job is asked to stop meanwhile. Raises JobFailed for an engine that refuses or
        makes nothing.
        """
        began = time.perf_counter()
        for user in range(self._users):
            self._ask(user)
        try:
            while not self._is_done(time.perf_counter() - began):
                if reporter.should_stop():
                    return None
                if self._problem:
                    raise JobFailed(f"The engine refused a request of the probe: {self._problem}")
                with self._lock:
                    idle, self._waiting_to_ask = self._waiting_to_ask, []
                for user in idle:
                    self._ask(user)
                time.sleep(POLL_S / self._users)
        finally:
            seconds = time.perf_counter() - began
            tokens, firsts = self._tokens, sorted(self._first_token_s)
            for handle in list(self._handles.values()):
                handle.cancel()
        if not tokens:
            raise JobFailed(
                f"The engine generated no token within {seconds:.0f} s.", remedy="Check the machine's load and memory."
            )
        p95 = quantiles(firsts, n=20)[-1] if len(firsts) >= 20 else None
        return ServingLoad(
            users=self._users,
            tokens_per_s=round(tokens / seconds, 2),
            ttft_ms=round(median(firsts) * 1000, 1) if firsts else None,
            ttft_p95_ms=None if p95 is None else round(p95 * 1000, 1),
            answers=sum(self._answers.values()),
        )

    def _is_done(self, seconds: float) -> bool:
        return seconds >= MAX_S or (seconds >= TIMED_S and all(self._answers.values()))

    def _ask(self, user: int) -> None:
        ids = [self._random.randrange(self._vocabulary) for _ in range(self._prompt_tokens)]
        submitted_at, is_first = time.perf_counter(), True

        def on_event(event: GenerationEvent) -> None:
            nonlocal is_first
            with self._lock:
                if isinstance(event, TokenEvent):
                    self._tokens += len(event.token_ids)
                    if is_first and event.token_ids:
                        is_first = False
                        self._first_token_s.append(time.perf_counter() - submitted_at)
                elif event.type == "error":
                    self._problem = getattr(event, "message", "")
                else:
                    self._answers[user] += 1
                    self._waiting_to_ask.append(user)

        self._handles[user] = self._engine.submit(ids, self._params, on_event)
