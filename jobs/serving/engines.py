"""Servers of other projects as engines of a replica: how each is started and asked, and its process.

The server is a child of the replica in a session of its own, on a loopback port, with a random key. It gets token ids
and gives token ids.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from backend.domain.json_values import JsonObject
from backend.domain.serving.memory import CACHE_BYTES
from backend.domain.serving.protocol import MAX_LOGPROBS, Constraint
from backend.errors import JobFailed
from backend.infra.checkpoints.candidates import GGUF
from backend.infra.engines import engine_command
from backend.infra.processes import die_with_parent
from jobs.modeling import gguf
from jobs.modeling.checkpoints import load_network
from jobs.modeling.kv_shape import read_kv_shape
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.serving.engine import Generation
from jobs.serving.grammar import SEPARATORS
from jobs.serving.prepared import PARTIAL, PreparedFolder, locked, remove_older, weights_key
from jobs.serving.sampling import TokenLogprobs

logger = logging.getLogger(__name__)
START_S = 900.0
POLL_S = 0.1
GRACE_S = 3.0
SPARE_TOKENS = 8  # llama.cpp and SGLang end an answer some tokens before their context is full
BANNED = -1e9
ALL_GPU_LAYERS = 999
KEEPER = ("/bin/sh", "-c", 'trap "kill -9 0" TERM; "$@" & wait $!', "engine")
"""Command before a server's: a server of several processes, as vLLM's, would leave some behind a killed replica. The
kernel tells this one, and it kills its group.
"""


class StartFailed(JobFailed):
    """A server did not start."""


@dataclass(frozen=True)
class ServerStart:
    """Settings that a server starts with: the folder or file of its weights, the tokens of a prompt with its answer,
    the requests at once, threads, the number of GPUs, and the number format of the weights.
    """

    model: Path
    context: int
    places: int
    threads: int = 1
    gpus: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Piece:
    """Contents of one line of a server's stream: tokens with their log-probabilities, the prompt's tokens that were not
    computed again, and a failure.
    """

    token_ids: tuple[int, ...] = ()
    records: tuple[TokenLogprobs, ...] = ()
    cached_tokens: int | None = None
    failure: str = ""


@dataclass(frozen=True)
class OutsideServer:
    """Rules by which one project's server is started, asked and read. `key_variable` names the variable of its key; if
    empty, the server reads it from a file that `--config` names. `variables` gives the others that it starts with.
    `ask` gives the body of a request for the tokens that follow a generation's, at a place (a slot of the server), with
    or without the place's cached prompt.
    """

    name: str
    arguments: Callable[[ServerStart, int], list[str]]
    key_variable: str
    path: str
    ask: Callable[[Generation, int, bool], JsonObject]
    read: Callable[[Mapping[str, Any]], Piece]
    variables: Callable[[ServerStart], dict[str, str]] = lambda _: {}


def _llama_arguments(start: ServerStart, port: int) -> list[str]:
    per_place = start.context + SPARE_TOKENS
    values = {
        "model": start.model,
        "alias": "served",
        "host": "127.0.0.1",
        "port": port,
        "ctx-size": per_place * start.places,
        "parallel": start.places,
        "threads": start.threads,
        "threads-batch": start.threads,
        "n-gpu-layers": ALL_GPU_LAYERS if start.gpus else 0,
        "cache-type-k": "f16" if start.gpus else "f32",
        "cache-type-v": "f16" if start.gpus else "f32",
        "flash-attn": "auto" if start.gpus else "off",  # on a CPU it rounds to 16 bits
        "cache-ram": 0,  # it would keep prompts of one account where another's requests find them
        "fit": "off",
        "log-verbosity": 1,  # errors; at the next level each request writes lines
    }
    flags = ["--metrics", "--no-webui", "--no-kv-unified", "--no-context-shift"]
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + flags


def _llama_ask(generation: Generation, place: int, is_cached: bool) -> JsonObject:
    params = generation.params
    biases: dict[int, float] = {}
    for token, bias in params.logit_bias:
        biases[token] = biases.get(token, 0.0) + bias
    has_penalties = params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty
    must_go_on = params.min_tokens - generation.num_generated
    if must_go_on > 0:
        biases |= dict.fromkeys(generation.stop_ids, BANNED)
    body: JsonObject = {
        "prompt": [*generation.prompt, *generation.token_ids],
        "n_predict": min(generation.num_left, must_go_on) if must_go_on > 0 else generation.num_left,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "seed": (generation.draw.seed + generation.num_generated) % (2**32 - 1),
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "repeat_penalty": params.repetition_penalty,
        "repeat_last_n": len(generation.prompt) + generation.max_tokens if has_penalties else 0,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": [list(pair) for pair in biases.items()],
        "n_probs": 0 if params.logprobs is None else max(1, params.logprobs),
        "id_slot": place,
        "cache_prompt": is_cached,
        "stream": True,
        "return_tokens": True,
        "return_progress": True,
    }
    if params.constraint is not None:
        body["grammar"] = "%llguidance {}\n" + as_lark(params.constraint)
    return body


def as_lark(constraint: Constraint) -> str:
    """Return a constraint as a Lark grammar of llguidance."""
    if constraint.kind == "lark":
        return constraint.value
    if constraint.kind == "regex":
        return "start: /" + constraint.value.replace("/", "\\/") + "/\n"
    schema = json.loads(constraint.value) if constraint.kind == "json_schema" else {"type": "object"}
    schema = {"allOf": [schema]} if isinstance(schema, bool) else schema
    return f"start: %json {json.dumps({**schema, 'x-guidance': SEPARATORS})}\n"


def _llama_read(line: Mapping[str, Any]) -> Piece:
    if "error" in line:
        return Piece(failure=_message(line["error"]))
    if "prompt_progress" in line:
        return Piece(cached_tokens=int(line["prompt_progress"]["cache"]))
    records = tuple(
        TokenLogprobs(
            float(one["logprob"]), tuple((int(other["id"]), float(other["logprob"])) for other in one["top_logprobs"])
        )
        for one in line.get("completion_probabilities", ())
    )
    return Piece(tuple(map(int, line.get("tokens", ()))), records)


def _vllm_arguments(start: ServerStart, port: int) -> list[str]:
    values = {
        "served-model-name": "served",
        "host": "127.0.0.1",
        "port": port,
        "dtype": start.dtype,
        "max-model-len": start.context,
        "max-num-seqs": start.places,
        "max-logprobs": MAX_LOGPROBS,
        "tensor-parallel-size": max(1, start.gpus),
        "load-format": "safetensors",
        "generation-config": "vllm",  # else the checkpoint's defaults would fill what a request leaves out
        "structured-outputs-config": json.dumps({"backend": "guidance"}),
        "uvicorn-log-level": "warning",
    }
    flags = ["--disable-fastapi-docs"]
    if not start.gpus:
        values["kv-cache-memory-bytes"] = CACHE_BYTES["cpu"]
        flags.append("--enforce-eager")  # compiling takes minutes
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return ["serve", str(start.model), *options, *flags]


def _vllm_variables(start: ServerStart) -> dict[str, str]:
    variables = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # replicas of one machine would be bound to the same cores
        "OMP_NUM_THREADS": str(start.threads),
    }
    if not start.gpus:
        # the first request for log-probabilities would compile for half a minute
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def _vllm_ask(generation: Generation, place: int, is_cached: bool) -> JsonObject:
    params = generation.params
    biases: dict[str, float] = {}
    for token, bias in params.logit_bias:
        biases[str(token)] = biases.get(str(token), 0.0) + bias
    body: JsonObject = {
        "model": "served",
        "prompt": [*generation.prompt, *generation.token_ids],
        "max_tokens": generation.num_left,
        "min_tokens": min(generation.num_left, max(0, params.min_tokens - generation.num_generated)),
        "ignore_eos": True,
        "stop_token_ids": generation.stop_ids,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": biases or None,
        "logprobs": params.logprobs,
        # how fast a prompt is answered must not tell that another account sent it before
        "cache_salt": f"account {generation.choice.tenant}",
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
    }
    if params.seed is not None:
        body["seed"] = (generation.draw.seed + generation.num_generated) % 2**63
    if params.constraint is not None:
        body["structured_outputs"] = {"grammar": as_lark(params.constraint)}
    return body


def _vllm_read(line: Mapping[str, Any]) -> Piece:
    if "error" in line:
        return Piece(failure=_message(line["error"]))
    tokens: list[int] = []
    records: list[TokenLogprobs] = []
    for choice in line.get("choices", ()):
        tokens += map(int, choice.get("token_ids") or ())
        scored = choice.get("logprobs")
        if scored:
            for logprob, top in zip(scored["token_logprobs"], scored["top_logprobs"], strict=True):
                # the chosen token leads, whatever its rank
                ranked = sorted(top.items(), key=lambda one: -float(one[1]))
                likely = tuple((int(name.removeprefix("token_id:")), float(value)) for name, value in ranked)
                records.append(TokenLogprobs(float(logprob), likely))
    return Piece(tuple(tokens), tuple(records))


def _sglang_arguments(start: ServerStart, port: int) -> list[str]:
    values = {
        "model-type": "llm",  # else files of the checkpoint choose
        "model-path": start.model,
        "served-model-name": "served",
        "host": "127.0.0.1",
        "port": port,
        "dtype": start.dtype,
        "context-length": start.context + SPARE_TOKENS,
        "max-running-requests": start.places,
        "tensor-parallel-size": max(1, start.gpus),
        "load-format": "safetensors",
        "sampling-defaults": "openai",
        "grammar-backend": "llguidance",
        "log-level": "warning",  # at the next level it writes its key
    }
    # with overlapped steps its penalties come a token late
    flags = ["--incremental-streaming-output", "--disable-overlap-schedule", "--sleep-on-idle"]
    if not start.gpus:
        values |= {"device": "cpu", "max-total-tokens": _cache_tokens(start)}
        flags.append("--disable-cuda-graph")
    return ["serve", *(word for name, value in values.items() for word in (f"--{name}", str(value))), *flags]


def _cache_tokens(start: ServerStart) -> int:
    """Return the tokens that fit into a CPU's cache; at least a full context."""
    config = AutoConfig.from_pretrained(str(start.model), trust_remote_code=False, local_files_only=True)
    token_bytes = read_kv_shape(config).token_bytes(4 if start.dtype == "float32" else 2)
    context = start.context + SPARE_TOKENS
    return max(context, min(context * start.places, CACHE_BYTES["cpu"] // token_bytes))


def _sglang_variables(start: ServerStart) -> dict[str, str]:
    variables = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",  # for the spare tokens
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # it would take a second
        "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",  # else divided by the temperature
        "OMP_NUM_THREADS": str(start.threads),
    }
    if not start.gpus:
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def _sglang_ask(generation: Generation, place: int, is_cached: bool) -> JsonObject:
    params = generation.params
    biases: dict[str, float] = {}
    for token, bias in params.logit_bias:
        biases[str(token)] = biases.get(str(token), 0.0) + bias
    sampling: JsonObject = {
        "max_new_tokens": generation.num_left,
        "min_new_tokens": min(generation.num_left, max(0, params.min_tokens - generation.num_generated)),
        "ignore_eos": not generation.stop_ids,  # it would ignore them too
        "stop_token_ids": generation.stop_ids,
        "temperature": params.temperature,
        "top_k": params.top_k or -1,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "logit_bias": biases or None,
    }
    if params.constraint is not None:
        sampling["ebnf"] = as_lark(params.constraint)  # its llguidance takes Lark there
    return {
        "input_ids": [*generation.prompt, *generation.token_ids],
        "sampling_params": sampling,
        "return_logprob": params.logprobs is not None,
        "top_logprobs_num": params.logprobs or 0,
        # how fast a prompt is answered must not tell that another account sent it before
        "cache_salt": f"account {generation.choice.tenant}",
        "stream": True,
    }


def _sglang_read(line: Mapping[str, Any]) -> Piece:
    if "error" in line:
        return Piece(failure=_message(line["error"]))
    about = line["meta_info"]
    if (about["finish_reason"] or {}).get("type") == "abort":
        return Piece(failure=_message(about["finish_reason"]))
    scored = about.get("output_token_logprobs", ())
    records = tuple(
        # those of tokens that a constraint excludes are null
        TokenLogprobs(float(one[0]), tuple((int(id), float(value)) for value, id, _ in top or () if value is not None))
        for one, top in zip(scored, about.get("output_top_logprobs") or [()] * len(scored), strict=True)
    )
    return Piece(tuple(map(int, line["output_ids"])), records, int(about["cached_tokens"]))


def _message(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, Mapping) else error)[:300]


LLAMA_CPP = OutsideServer("llama.cpp", _llama_arguments, "LLAMA_API_KEY", "/completion", _llama_ask, _llama_read)
VLLM = OutsideServer("vllm", _vllm_arguments, "VLLM_API_KEY", "/v1/completions", _vllm_ask, _vllm_read, _vllm_variables)
SGLANG = OutsideServer("sglang", _sglang_arguments, "", "/generate", _sglang_ask, _sglang_read, _sglang_variables)
OUTSIDE: dict[str, OutsideServer] = {server.name: server for server in (LLAMA_CPP, VLLM, SGLANG)}


def without_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment without those that would let the Python of another one import from
    this one's folders.
    """
    return {
        name: value for name, value in environment.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


@dataclass
class ServerProcess:
    """A running server of another project. It dies with the process that started it, and so do its own children."""

    server: OutsideServer
    url: str
    key: str = field(repr=False)
    _child: subprocess.Popen[bytes]
    _key_file: Path | None = None

    @staticmethod
    def begin(server: OutsideServer, start: ServerStart) -> ServerProcess:
        """Start a server; its output is this process's. Raises Unavailable where it is not installed."""
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        key = secrets.token_hex(24)
        command = [*engine_command(server.name), *server.arguments(start, port)]
        key_file = None
        if not server.key_variable:  # the machine's other users see arguments
            handle, name = tempfile.mkstemp(prefix="engine-", suffix=".yaml")
            with os.fdopen(handle, "w") as file:
                json.dump({"api-key": key}, file)
            key_file = Path(name)
            command += ["--config", name]
        logger.info("Starting %s: %s", server.name, " ".join(command))
        inherited = os.environ if command[0] == sys.executable else without_python(os.environ)
        own = {**server.variables(start), **({server.key_variable: key} if server.key_variable else {})}
        try:
            child = subprocess.Popen(
                [*KEEPER, *command],
                stdin=subprocess.DEVNULL,
                env={**inherited, **own},
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )
        except BaseException:
            if key_file is not None:
                key_file.unlink()
            raise
        return ServerProcess(server, f"http://127.0.0.1:{port}", key, child, key_file)

    @property
    def pid(self) -> int:
        """Id of its process group."""
        return self._child.pid

    def wait_until_healthy(self, *, should_stop: Callable[[], object]) -> None:
        """Wait until the server answers. Raises StartFailed if it ends or takes too long, JobFailed on a stop."""
        try:
            self._wait_until_healthy(should_stop)
        finally:
            if self._key_file is not None:
                self._key_file.unlink(missing_ok=True)

    def _wait_until_healthy(self, should_stop: Callable[[], object]) -> None:
        until = time.monotonic() + START_S
        while not self._is_healthy():
            if not self.is_alive():
                raise StartFailed(
                    f"{self.server.name} ended with status {self._child.returncode} as it started.",
                    remedy="It is started again on another port; this replica's log has its cause.",
                )
            if should_stop() is not None:
                raise JobFailed(f"{self.server.name} was stopped as it started.")
            if time.monotonic() >= until:
                raise StartFailed(
                    f"{self.server.name} did not answer at /health within {START_S:.0f} s.",
                    remedy="This replica's log says what it did; look at the machine's load and memory.",
                )
            time.sleep(POLL_S)

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2.0) as answer:  # noqa: S310 - loopback
                return int(answer.status) == 200
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._child.poll() is None

    def close(self) -> None:
        """End the process and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(GRACE_S)
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()


def prepare_gguf(folder: Path, *, prepared: PreparedFolder) -> Path:
    """Return a checkpoint as a GGUF file that llama.cpp reads: the file that it was converted from, its tensors as they
    are, or else its weights in float32. Its first replica writes it beside its prepared weights, and the others read
    it.

    Raises InvalidInput for a network that GGUF can't represent, JobFailed where the disk has no room.
    """
    code = Path(str(gguf.__file__)).read_bytes()
    path = prepared.path / f"gguf-{weights_key(folder, code)}.gguf"
    with locked(prepared.path):
        if not path.is_file():
            own, tokenizer = folder / GGUF, load_tokenizer(folder)
            network = None if own.is_file() else load_network(folder)
            needed = own.stat().st_size if network is None else 4 * network.num_parameters()
            free = shutil.disk_usage(prepared.path).free
            if free - needed < prepared.keep_free_bytes:
                raise JobFailed(
                    f"The disk has {free / 1e9:.2f} GB free, and the GGUF file needs {needed / 1e9:.2f} GB.",
                    remedy="Free space, or deploy with engine roundhouse.",
                )
            partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
            try:
                if network is None:
                    gguf.copy_for_token_ids(own, partial, tokenizer=tokenizer)
                else:
                    gguf.write_gguf(
                        partial, network=network, tokenizer=tokenizer, name=folder.name, numbers="f32", gets_text=False
                    )
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            remove_older(path, prefix="gguf-")
        os.utime(path)  # files that no replica has started from for long are deleted
    return path
