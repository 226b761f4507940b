"""A replica whose tokens come from another project's server: its process, its queue and what it refuses.

The server here is a stand-in with the arguments and protocols of llama.cpp, vLLM and SGLang, as a real process; `make
engines` runs the same replica with the real ones.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen3Config, Qwen3ForCausalLM

from backend.domain.jobs.payloads import ReplicaPayload
from backend.domain.serving.protocol import (
    Begun,
    Constraint,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationErrorEvent,
    SamplingParams,
    Task,
    TokenEvent,
)
from backend.errors import InvalidInput, JobFailed, RoundhouseError, Unavailable
from backend.infra.engines import INSTALLATIONS, engine_command
from backend.infra.replicas import ReplicaRefused
from jobs.modeling.gguf import convert_gguf
from jobs.reporter import FileReporter
from jobs.serving import engines
from jobs.serving.engines import as_lark
from jobs.serving.replica import choose_engine, run
from tests.support.forks import fork_module
from tests.support.gateway_fixtures import eventually
from tests.support.installation import is_alive
from tests.support.jobs import make_spec
from tests.support.networks.base_folders import save_gguf
from tests.support.networks.serving_networks import make_llama, make_mamba, save_adapter, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events

FAKE = Path(__file__).parents[2] / "support" / "fake_engine_server.py"
PROMPT = (1, 2, 3)
ENGINES = ("llama.cpp", "vllm", "sglang")
only_llama_cpp = pytest.mark.parametrize("engine", ["llama.cpp"])
only_vllm = pytest.mark.parametrize("engine", ["vllm"])
only_sglang = pytest.mark.parametrize("engine", ["sglang"])


class Stand:
    """A folder with a checkpoint, and a stand-in for an engine's server."""

    def __init__(self, folder: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.notes_file, self.engine, self._monkeypatch = folder, folder / "notes", engine, monkeypatch
        save_checkpoint(folder / "checkpoint", network=make_llama(context=128, hidden=128))
        command = folder / "server"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
        command.chmod(0o755)
        monkeypatch.setenv(INSTALLATIONS[engine].variable, str(command))
        self.behave()

    def behave(self, **options: Any) -> None:
        self._monkeypatch.setenv("FAKE_ENGINE", json.dumps({"notes": str(self.notes_file), **options}))

    def notes(self) -> list[dict[str, Any]]:
        if not self.notes_file.exists():
            return []
        return [json.loads(line) for line in self.notes_file.read_text().splitlines()]

    def asked(self) -> list[dict[str, Any]]:
        """The requests that the server got, without the one of the replica's own at its start."""
        return [note["asked"] for note in self.notes() if "asked" in note][1:]

    def pids(self) -> list[int]:
        first = eventually(self.notes)[0]
        return [int(first["pid"]), int(first["engine"])]

    def are_gone(self) -> bool:
        return not any(psutil.pid_exists(pid) and is_alive(psutil.Process(pid)) for pid in self.pids())

    def run_here(self, **payload: Any) -> None:
        values = {"checkpoint": "checkpoint", "name": "tiny", "internal_token": TOKEN, "engine": self.engine, **payload}
        run(
            make_spec("replica", values, root=self.folder, folder=self.folder),
            FileReporter(self.folder / "events.jsonl", self.folder / "control"),
        )


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stand(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> Stand:
    return Stand(tmp_path, engine, monkeypatch)


@pytest.fixture
def serve(stand: Stand) -> Iterator[Callable[..., RunningReplica]]:
    running: list[RunningReplica] = []

    def start(**payload: Any) -> RunningReplica:
        running.append(RunningReplica(stand.folder, **{"engine": stand.engine, "max_running": 2, **payload}))
        return running[0]

    yield start
    for replica in running:
        if replica.thread.is_alive():
            replica.stop()


def ask(**params: Any) -> GenerateRequest:
    return GenerateRequest(
        token_ids=PROMPT, params=SamplingParams(**{"max_tokens": 4, "temperature": 0, "ignore_eos": True, **params})
    )


def answer(replica: RunningReplica, request: GenerateRequest) -> list[Any]:
    return list(stream_events(replica.url, token=TOKEN, request=request))


def ids_of(events: list[Any]) -> list[int]:
    return [token for event in events if isinstance(event, TokenEvent) for token in event.token_ids]


def test_tokens_of_the_server_are_the_replicas_answer(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    assert replica.events("ready")[0]["engine"] == stand.engine
    events = answer(replica, ask())
    assert ids_of(events) == [3, 4, 5, 6]
    assert isinstance(events[-1], FinishEvent)
    cached = 0 if stand.engine == "vllm" else 1  # vLLM counts them behind the last token
    assert events[-1].usage.model_dump() == {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": cached}
    arguments = stand.notes()[0]["arguments"]
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert not any(TOKEN in word or "key" in word for word in arguments)
    assert replica.stats()["generated_tokens"] == 5  # one at the start
    assert all(psutil.pid_exists(pid) for pid in stand.pids())
    replica.stop()
    eventually(stand.are_gone)


def test_the_probabilities_of_the_server_are_passed_on(serve: Callable[..., RunningReplica]) -> None:
    (first, *_, last) = answer(serve(), ask(logprobs=1, max_tokens=1))
    assert [(one.token_id, one.logprob, [top.token_id for top in one.top]) for one in first.logprobs] == [
        (3, -1.5, [7])
    ]
    assert last.finish_reason is FinishReason.LENGTH


def test_an_answer_ends_at_the_end_token_and_not_before_its_least_tokens(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(end_after=4)
    replica = serve()
    ended = answer(replica, ask(ignore_eos=False, max_tokens=9))
    assert (ids_of(ended), ended[-1].finish_reason) == ([3, 256], FinishReason.STOP)
    assert ids_of(answer(replica, ask(max_tokens=4))) == [3, 256, 5, 6], "it goes on behind an end that it ignores"
    assert ids_of(answer(replica, ask(ignore_eos=False, min_tokens=3, max_tokens=5))) == [3, 4, 5, 6, 7]
    if stand.engine == "llama.cpp":
        assert [note["n_predict"] for note in stand.asked()] == [9, 4, 2, 3, 2]
    elif stand.engine == "sglang":
        names = ("max_new_tokens", "min_new_tokens", "ignore_eos", "stop_token_ids")
        assert [tuple(note["sampling_params"][name] for name in names) for note in stand.asked()] == [
            (9, 0, False, [256]),
            (4, 0, True, []),
            (5, 3, False, [256]),
        ]
    else:
        assert [(note["max_tokens"], note["min_tokens"], note["stop_token_ids"]) for note in stand.asked()] == [
            (9, 0, [256]),
            (4, 0, []),
            (5, 3, [256]),
        ]


@only_llama_cpp
def test_a_place_keeps_its_prompt_for_one_account_alone(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    for tenant in ("ann", "ann", "bob", "cat", "ann"):
        answer(replica, ask().model_copy(update={"tenant": tenant}))
    assert [(note["id_slot"], note["cache_prompt"]) for note in stand.asked()] == [
        (0, False),
        (0, True),
        (0, False),
        (0, False),
        (0, False),
    ]


def test_requests_beyond_the_servers_places_wait_and_their_end_frees_one(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(token_s=0.05)
    replica = serve(max_waiting=1)
    answers: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(answer(replica, ask(max_tokens=20)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: (replica.stats()["running"], replica.stats()["waiting"]) == (2, 1))
    with pytest.raises(ReplicaRefused, match="already being answered or waiting"):
        answer(replica, ask())
    for thread in threads:
        thread.join()
    assert [len(ids_of(events)) for events in answers] == [20, 20, 20]
    if stand.engine == "llama.cpp":
        assert {note["id_slot"] for note in stand.asked()} == {0, 1}


def test_a_client_that_leaves_ends_the_servers_work(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=100))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: {"left": True} in stand.notes())
    eventually(lambda: replica.stats()["running"] == 0)


def test_open_answers_finish_before_a_drained_replica_ends(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=40))
    events = [next(stream)]
    (stand.folder / "control").write_text("drain")
    events += list(stream)
    assert len(ids_of(events)) == 40
    replica.thread.join(60)
    eventually(stand.are_gone)


def test_what_the_server_cannot_give_is_refused(serve: Callable[..., RunningReplica], engine: str) -> None:
    replica = serve()
    for request, message in (
        (GenerateRequest(prompts=("a",), task=Task.EMBED), f"{engine} gives no embeddings"),
        (ask(logprobs=1).model_copy(update={"echo": True}), "no log-probabilities of a prompt"),
        (
            ask(constraint=Constraint(kind="regex", value="a+"), min_tokens=2),
            "no min_tokens with a constraint",
        ),
        (ask().model_copy(update={"adapter": "adapters/a"}), "serves no adapters"),
    ):
        with pytest.raises(ReplicaRefused, match=message):
            answer(replica, request)
    begun = ask(constraint=Constraint(kind="regex", value="[ -~]+")).model_copy(
        update={"begun": Begun(token_ids=(64,), characters=1)}
    )
    (event,) = answer(replica, begun)
    assert isinstance(event, GenerationErrorEvent)
    assert event.code == "not_resumed"


def test_an_answer_that_another_replica_began_is_continued(serve: Callable[..., RunningReplica]) -> None:
    begun = ask(max_tokens=4).model_copy(update={"begun": Begun(token_ids=(64, 65), characters=2)})
    assert ids_of(answer(serve(), begun)) == [5, 6]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_dies_ends_its_answers_and_the_replica(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=100))
    next(stream)
    os.kill(stand.pids()[0], signal.SIGKILL)
    *_, last = stream
    assert isinstance(last, GenerationErrorEvent)
    assert last.code == "replica_error"
    replica.thread.join(60)
    assert not replica.thread.is_alive()
    eventually(stand.are_gone)


@pytest.mark.parametrize(("stays_healthy", "code"), [(True, "request_failed"), (False, "replica_error")])
def test_an_error_in_an_answer_is_the_requests_own_unless_the_server_is_unhealthy(
    serve: Callable[..., RunningReplica], stand: Stand, *, stays_healthy: bool, code: str
) -> None:
    """One of the replica's own is resumed by another replica."""
    stand.behave(breaks_after=2, stays_healthy=stays_healthy)
    events = answer(serve(), ask())
    assert ids_of(events) == [3, 4]
    assert isinstance(events[-1], GenerationErrorEvent)
    assert events[-1].code == code


def test_a_server_that_ends_as_it_starts_fails_the_job(stand: Stand) -> None:
    stand.behave(dies=3)
    with pytest.raises(JobFailed, match=f"{stand.engine} ended with status 3 as it started"):
        stand.run_here()
    eventually(stand.are_gone)


def test_a_server_that_is_never_healthy_is_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.behave(is_never_healthy=True)
    monkeypatch.setattr(engines, "START_S", 1.0)
    with pytest.raises(JobFailed, match="did not answer at /health"):
        stand.run_here()
    eventually(stand.are_gone)


def test_a_replica_that_is_cancelled_while_its_server_starts_ends_both(stand: Stand) -> None:
    before = set(psutil.Process().children(recursive=True))  # those of other tests
    stand.behave(start_s=600)
    (stand.folder / "control").write_text("cancel")
    with pytest.raises(JobFailed, match="stopped as it started"):
        stand.run_here()
    assert not [one for one in psutil.Process().children(recursive=True) if one not in before and is_alive(one)]


def test_no_server_outlives_a_replica_that_is_killed(stand: Stand) -> None:
    variables = {name: os.environ[name] for name in (INSTALLATIONS[stand.engine].variable, "FAKE_ENGINE")}
    arguments = [str(stand.folder), stand.engine]
    replica = fork_module("tests.support.workers.replica", arguments, stand.folder / "output.log", **variables)
    try:
        eventually(
            lambda: (stand.folder / "events.jsonl").exists() and "ready" in (stand.folder / "events.jsonl").read_text()
        )
        assert not stand.are_gone()
    finally:
        os.kill(replica.pid, signal.SIGKILL)
        replica.wait()
    eventually(stand.are_gone)


@only_llama_cpp
def test_a_checkpoint_is_written_as_gguf_once(stand: Stand) -> None:
    stand.behave(dies=0)
    for _ in range(2):
        with pytest.raises(JobFailed):
            stand.run_here()
    models = {note["arguments"][note["arguments"].index("--model") + 1] for note in stand.notes()}
    (model,) = models
    assert [str(path) for path in (stand.folder / "prepared").rglob("*.gguf")] == [model]


@only_llama_cpp
def test_the_gguf_file_of_a_base_is_served_as_it_is(stand: Stand) -> None:
    file = save_gguf(stand.folder / "x.gguf", words=["<|end|>", *sorted(ByteLevel.alphabet())])
    convert_gguf(file, stand.folder / "base")
    stand.behave(dies=0)
    with pytest.raises(JobFailed):
        stand.run_here(checkpoint="base")
    (note,) = stand.notes()
    served, own = (gguf.GGUFReader(path) for path in (note["arguments"][note["arguments"].index("--model") + 1], file))
    assert [one.name for one in served.tensors] == [one.name for one in own.tensors]
    for mine, theirs in zip(served.tensors, own.tensors, strict=True):
        assert mine.tensor_type == theirs.tensor_type
        assert mine.data.tobytes() == theirs.data.tobytes()
    words, kinds = (served.get_field(f"tokenizer.ggml.{name}").contents() for name in ("tokens", "token_type"))
    silent = {word for word, kind in zip(words, kinds, strict=True) if kind == gguf.TokenType.CONTROL}
    assert {"<|end|>", "Ã", "Ġ"} & silent == {"<|end|>", "Ã"}  # 0xC3 begins a character, Ġ is a space


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"precision": "int8"}, "serves no precision int8"),
        ({"draft": "checkpoint"}, "has no draft"),
    ],
)
def test_what_the_engine_lacks_is_refused_before_it_starts(stand: Stand, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        stand.run_here(**payload)
    assert stand.notes() == []


@only_vllm
def test_vllm_gets_no_heads_that_it_lacks_on_a_cpu_and_no_adapter(stand: Stand) -> None:
    save_checkpoint(stand.folder / "checkpoint", network=make_llama())
    with pytest.raises(InvalidInput, match="no heads of 16 numbers on a CPU, only of 32, 64"):
        stand.run_here()
    save_adapter(stand.folder / "adapter", base=stand.folder / "checkpoint", targets=["q_proj"], seed=1)
    with pytest.raises(InvalidInput, match="serves whole models, and this is an adapter"):
        stand.run_here(checkpoint="adapter")
    assert stand.notes() == []


@only_sglang
def test_sglang_gets_no_network_with_a_window(stand: Stand) -> None:
    stand.behave(dies=0)
    for first, problem in ((0, "does not heed the sliding window"), (2, "sglang ended")):  # of 2 layers
        network = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=260,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                use_sliding_window=True,
                sliding_window=8,
                max_window_layers=first,
            )
        )
        save_checkpoint(stand.folder / "checkpoint", network=network)
        with pytest.raises(RoundhouseError, match=problem):
            stand.run_here()


@only_vllm
def test_the_fields_of_a_request_are_vllms(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    constraint = Constraint(kind="regex", value="a/b")
    request = ask(
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        logit_bias=((5, 1.0), (5, 0.5)),
        logprobs=2,
        stop_token_ids=(9,),
        constraint=constraint,
    )
    answer(replica, request.model_copy(update={"tenant": "ann"}))
    answer(replica, ask())
    named, plain = stand.asked()
    assert named == {
        "model": "served",
        "max_tokens": 4,
        "min_tokens": 0,
        "ignore_eos": True,
        "stop_token_ids": [9],
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "logit_bias": {"5": 1.5},
        "logprobs": 2,
        "cache_salt": "account ann",
        "stream": True,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "seed": 7,
        "structured_outputs": {"grammar": as_lark(constraint)},
    }
    assert "seed" not in plain, "vLLM draws without a generator for each request where none is asked for"
    assert plain["cache_salt"] != named["cache_salt"]


@only_vllm
def test_vllm_starts_offline_with_the_deployments_precision_and_limits(stand: Stand) -> None:
    stand.behave(dies=0)
    with pytest.raises(JobFailed):
        stand.run_here(precision="bfloat16", context=64, max_running=3, threads=2, max_perplexity_ratio=100)
    started = stand.notes()[0]
    words, variables = started["arguments"], started["variables"]
    assert words[:2] == ["serve", str(stand.folder / "checkpoint")]
    options = dict(itertools.pairwise(words))
    assert {name: options[f"--{name}"] for name in ("dtype", "max-model-len", "max-num-seqs", "load-format")} == {
        "dtype": "bfloat16",
        "max-model-len": "64",
        "max-num-seqs": "3",
        "load-format": "safetensors",
    }
    assert options["--tensor-parallel-size"] == "1"
    assert "--trust-remote-code" not in words
    assert {name: variables.get(name) for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "VLLM_HOST_IP")} == {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    assert variables["OMP_NUM_THREADS"] == "2"
    assert "PYTHONPATH" not in variables


@only_sglang
def test_the_fields_of_a_request_are_sglangs(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    constraint = Constraint(kind="regex", value="a/b")
    request = ask(
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        logit_bias=((5, 1.0), (5, 0.5)),
        logprobs=2,
        stop_token_ids=(9,),
        constraint=constraint,
    )
    answer(replica, request.model_copy(update={"tenant": "ann"}))
    answer(replica, ask())
    named, plain = stand.asked()
    assert named == {
        "sampling_params": {
            "max_new_tokens": 4,
            "min_new_tokens": 0,
            "ignore_eos": False,
            "stop_token_ids": [9],
            "temperature": 0.5,
            "top_k": 5,
            "top_p": 0.9,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "logit_bias": {"5": 1.5},
            "ebnf": as_lark(constraint),
        },
        "return_logprob": True,
        "top_logprobs_num": 2,
        "cache_salt": "account ann",
        "stream": True,
    }
    assert plain["sampling_params"]["top_k"] == -1
    assert plain["cache_salt"] != named["cache_salt"]


@only_sglang
def test_sglang_starts_offline_with_its_key_in_a_file_and_a_cache_of_the_budget(stand: Stand) -> None:
    stand.behave(dies=0)
    with pytest.raises(JobFailed):
        stand.run_here(precision="bfloat16", context=64, max_running=3, threads=2, max_perplexity_ratio=100)
    started = stand.notes()[0]
    words, variables = started["arguments"], started["variables"]
    options = dict(itertools.pairwise(words))
    names = ("model-path", "model-type", "dtype", "context-length", "max-running-requests", "max-total-tokens")
    assert words[0] == "serve"
    assert [options[f"--{name}"] for name in names] == [
        str(stand.folder / "checkpoint"),
        "llm",
        "bfloat16",
        "72",
        "3",
        str(3 * 72),
    ]
    assert "--trust-remote-code" not in words
    assert "--api-key" not in words
    assert not Path(options["--config"]).exists(), "it is removed once the server has read it"
    assert {name: variables.get(name) for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")} == {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    assert "PYTHONPATH" not in variables


@only_sglang
def test_a_server_that_cannot_be_started_leaves_no_key(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOO_LONG_FOR_A_PROCESS", "x" * 2**18)
    monkeypatch.setattr(tempfile, "tempdir", str(stand.folder))
    with pytest.raises(OSError, match="Argument list too long"):
        stand.run_here()
    assert not list(stand.folder.glob("engine-*"))


@only_vllm
def test_an_automatic_engine_is_vllm_on_a_gpu_that_has_it_and_lacks_nothing(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(device: str = "cuda", **payload: Any) -> str:
        values = {"checkpoint": "checkpoint", "name": "n", "internal_token": "t", **payload}
        return choose_engine(ReplicaPayload(**values), stand.folder / "checkpoint", torch.device(device))

    assert chosen("cpu") == "auto"
    assert chosen() == "vllm"
    assert [chosen(precision="int8"), chosen(draft="checkpoint")] == ["auto", "auto"]
    assert chosen(engine="roundhouse") == "roundhouse"
    monkeypatch.setattr("backend.infra.engines.find_spec", lambda _: None)
    monkeypatch.delenv(INSTALLATIONS["vllm"].variable)
    assert chosen() == "auto"


@only_vllm
@pytest.mark.parametrize("starts", [True, False])
def test_an_automatic_vllm_that_does_not_start_leaves_its_place_to_roundhouses_engine(
    serve: Callable[..., RunningReplica], stand: Stand, monkeypatch: pytest.MonkeyPatch, *, starts: bool
) -> None:
    monkeypatch.setattr("jobs.serving.replica.choose_engine", lambda *_: "vllm")
    stand.behave(**({} if starts else {"dies": 3}))
    replica = serve(engine="auto")
    expected = "vllm" if starts else "batching"
    assert replica.events("ready")[0]["engine"] == expected
    gauge = eventually(lambda: replica.events("gauge"))[0]
    assert gauge["engine"] == expected
    assert ("chosen for the GPU" in gauge["arithmetic"]) == starts


def test_an_architecture_that_the_engine_lacks_is_refused_before_it_starts(stand: Stand) -> None:
    save_checkpoint(stand.folder / "checkpoint", network=make_mamba())
    with pytest.raises(InvalidInput, match="family mamba"):
        stand.run_here()
    assert stand.notes() == []


def test_a_missing_server_is_named_with_the_command_that_installs_it(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = INSTALLATIONS[engine].variable
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("backend.infra.engines.find_spec", lambda _: None)
    with pytest.raises(Unavailable) as caught:
        engine_command(engine)
    cure = "pip install 'roundhouse[llama-cpp]'" if engine == "llama.cpp" else f"set {variable} to"
    assert cure in str(caught.value)
    monkeypatch.setenv(variable, "/nowhere/server")
    with pytest.raises(Unavailable, match="/nowhere/server is not a command"):
        engine_command(engine)


def test_the_payload_reads_every_engine() -> None:
    for engine in ("auto", "roundhouse", "batching", "serial", *ENGINES):
        read = ReplicaPayload(checkpoint="c", name="n", internal_token="t", engine=engine)  # type: ignore[arg-type]
        assert read.engine == engine
