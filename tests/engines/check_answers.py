"""The real servers of other projects behind a replica: the same tokens, the same API, and no process that outlives its
replica.

Run by `make engines`, which installs all three; where one is missing, its tests fail.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch
import transformers

from backend.domain.jobs.states import JobKind
from backend.domain.serving.engines import SERVERS
from backend.domain.serving.protocol import Begun, Constraint, GenerateRequest, SamplingParams, TokenEvent
from backend.gateway.directory import ReplicaAddress
from jobs.environment import child_environment
from tests.support.gateway_fixtures import KEY, MemoryDirectory, eventually, gateway
from tests.support.installation import is_alive
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_gpt2, make_llama, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events

PROMPTS = ["Hello", "The engine", "x", "Zwölf Boxkämpfer", "1, 2, 3, 4, 5, 6, 7, 8"]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
ENGINES = ("llama.cpp", "vllm", "sglang")
LOGPROB_ERROR = 2e-3  # llama.cpp looks GELU up in a table of 16 bits: 6e-4 for GPT-2, below 1e-4 for the others
NEAR_TIE = 2e-3  # of two log-probabilities, either of which may be the larger one in float32


def make_qwen3() -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=256,
        initializer_range=0.15,
    )
    return transformers.Qwen3ForCausalLM(config).eval()


def make_mistral(window: int | None = 64) -> Any:
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=window,
        bos_token_id=None,
        eos_token_id=256,
        initializer_range=0.15,
    )
    return transformers.MistralForCausalLM(config).eval()


# heads of 32 numbers: vLLM has no smaller ones on a CPU
NETWORKS: dict[str, Callable[[], Any]] = {
    "llama": partial(make_llama, hidden=128),
    "gpt2": partial(make_gpt2, hidden=128),
    "qwen3": make_qwen3,
    "mistral": make_mistral,
}


PAIRS = [f"{engine} {family}" for engine in ENGINES for family in NETWORKS if family in SERVERS[engine].families]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningReplica]]:
    """Replicas of one checkpoint: Roundhouse's engine, and another project's."""
    engine, family = request.param.split()
    running = []
    for name in ("roundhouse", engine):
        folder = tmp_path_factory.mktemp("replica")
        make = partial(make_mistral, None) if request.param == "llama.cpp mistral" else NETWORKS[family]
        save_checkpoint(folder / "checkpoint", network=make())  # llama.cpp's Llama has no windows, and is refused them
        running.append(RunningReplica(folder, engine=name, max_running=4))
    yield running
    for replica in running:
        replica.stop()


def answer(replica: RunningReplica, prompt: str = "Hello", **params: Any) -> list[Any]:
    begun = params.pop("begun", None)
    given = SamplingParams(**{"max_tokens": 40, "temperature": 0, **params})
    request = GenerateRequest(prompt=prompt, params=given, begun=begun)
    return list(stream_events(replica.url, token=TOKEN, request=request))


def ids_of(events: list[Any]) -> list[int]:
    return [token for event in events if isinstance(event, TokenEvent) for token in event.token_ids]


def count_same(first: list[int], second: list[int]) -> int:
    """Return how many tokens two answers begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def is_near_tie(events: list[Any], index: int) -> bool:
    """Return whether the two likeliest tokens at a position of an answer have about the same probability."""
    scored = [one for event in events if isinstance(event, TokenEvent) for one in event.logprobs or ()][index]
    first, second = (float(top.logprob or 0) for top in scored.top)
    return first - second < NEAR_TIE


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"ignore_eos": True, "max_tokens": 120},
        {"min_tokens": 30},
        {"stop_token_ids": tuple(range(40, 60))},
    ],
    ids=lambda params: ",".join(params) or "plain",
)
def test_greedy_answers_have_the_same_tokens_up_to_a_near_tie(
    pair: list[RunningReplica], params: dict[str, Any]
) -> None:
    num_same = num_compared = 0
    for prompt in PROMPTS:
        ours, theirs = (answer(replica, prompt, logprobs=2, **params) for replica in pair)
        mine, other = ids_of(ours), ids_of(theirs)
        same = count_same(mine, other)
        num_same, num_compared = num_same + same, num_compared + len(mine)
        if same < min(len(mine), len(other)):
            assert is_near_tie(ours, same), (prompt, same)
            continue
        assert mine == other
        assert theirs[-1].finish_reason == ours[-1].finish_reason
        assert theirs[-1].usage.completion_tokens == ours[-1].usage.completion_tokens
        assert "".join(event.text for event in theirs[:-1]) == "".join(event.text for event in ours[:-1])
    assert num_same > 0.6 * num_compared


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.3, "max_tokens": 12},
        {"logit_bias": ((65, 4.0), (66, -100.0)), "max_tokens": 12},
        {"constraint": Constraint(kind="regex", value="[a-z]{3}(/x)?[0-9]+;")},
        {"constraint": Constraint(kind="json_schema", value=json.dumps(SCHEMA))},
        {"constraint": Constraint(kind="lark", value='start: "a" /[bc]+/ "d"')},
    ],
    ids=lambda params: next(iter(params)),
)
def test_penalties_biases_and_constraints_have_the_same_greedy_tokens(
    pair: list[RunningReplica], params: dict[str, Any]
) -> None:
    """Where both are greedy and far from the last allowed token, at which Roundhouse's engine steers to the end."""
    if "repetition_penalty" in params and pair[1].events("ready")[0]["engine"] == "sglang":
        params = {**params, "repetition_penalty": 1.0, "frequency_penalty": 1.3}  # its own leaves out the prompt
    ours, theirs = (answer(replica, "Hello", **params) for replica in pair)
    if "constraint" in params and theirs[-1].finish_reason != ours[-1].finish_reason:
        text = "".join(event.text for event in theirs[:-1])
        assert theirs[-1].finish_reason == "length", text
        return
    assert ids_of(theirs) == ids_of(ours)


def test_log_probabilities_are_the_networks_own(pair: list[RunningReplica]) -> None:
    biases = ((65, 3.0),) if pair[1].events("ready")[0]["engine"] != "sglang" else ()  # its own are those after biases
    ours, theirs = (answer(replica, logprobs=3, temperature=0.0, logit_bias=biases) for replica in pair)
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        for one, two in zip(mine.logprobs or (), other.logprobs or (), strict=True):
            assert (one.token_id, one.token) == (two.token_id, two.token)
            assert one.logprob == pytest.approx(two.logprob, abs=LOGPROB_ERROR)
            assert [top.logprob for top in one.top] == pytest.approx(
                [top.logprob for top in two.top], abs=LOGPROB_ERROR
            )


def test_an_answer_of_one_engine_is_continued_by_the_other(pair: list[RunningReplica]) -> None:
    ours, theirs = pair
    whole = answer(ours, ignore_eos=True, max_tokens=30, logprobs=2)
    text = "".join(event.text for event in whole[:12])
    begun = Begun(token_ids=tuple(ids_of(whole)[:12]), characters=len(text))
    rest = answer(theirs, ignore_eos=True, max_tokens=30, begun=begun)
    expected, continued = ids_of(whole)[12:], ids_of(rest)
    assert len(continued) == len(expected)
    same = count_same(expected, continued)
    assert same == len(expected) or is_near_tie(whole, 12 + same)
    assert same > 0


def test_drawn_answers_follow_the_same_distribution(pair: list[RunningReplica]) -> None:
    """The first of 300 drawn tokens among the likeliest few: each share within 5 standard errors of the other's."""
    counts: list[dict[int, int]] = []
    for replica in pair:
        seen: dict[int, int] = {}
        for seed in range(300):
            (token,) = ids_of(answer(replica, temperature=0.3, top_k=4, max_tokens=1, seed=seed))
            seen[token] = seen.get(token, 0) + 1
        counts.append(seen)
    for token in counts[0].keys() | counts[1].keys():
        share, other = (seen.get(token, 0) / 300 for seen in counts)
        pooled = (share + other) / 2
        assert abs(share - other) <= 5 * (2 * pooled * (1 - pooled) / 300) ** 0.5, (token, counts)


@contextmanager
def replica_process(root: Path, name: str, engine: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A replica as a worker starts it."""
    folder = root / name
    folder.mkdir()
    payload = {"checkpoint": "checkpoint", "name": "tiny", "internal_token": "t", "device": "cpu", "engine": engine}
    make_spec("replica", payload, root=root, job=name, folder=folder).write(folder / "job.json")
    environment = {**child_environment(JobKind.REPLICA), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen([sys.executable, "-m", "jobs.run", "--child", str(folder)], env=environment)
    events = folder / "events.jsonl"
    try:
        eventually(
            lambda: (events.exists() and '"ready"' in events.read_text()) or process.poll() is not None, timeout_s=300
        )
        yield process, next(e["url"] for line in events.read_text().splitlines() if (e := json.loads(line)).get("url"))
    finally:
        process.kill()
        process.wait()


def server_processes(replica: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes of a replica's server, without the shell that keeps them: the server first."""
    return psutil.Process(replica.pid).children()[0].children(recursive=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_of_the_gateway_see_one_api_and_a_killed_engine_passes_its_answer_on(
    tmp_path: Path, engine: str
) -> None:
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=2048, hidden=128))
    with ExitStack() as stack:
        started = {name: stack.enter_context(replica_process(tmp_path, name, name)) for name in (engine, "roundhouse")}
        addresses = {name: ReplicaAddress(id=name, url=url, token="t") for name, (_, url) in started.items()}
        directory = MemoryDirectory({"tiny": [addresses["roundhouse"]]}, keys_required=False)
        base = stack.enter_context(gateway(directory))
        client = openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0, timeout=300)
        said: list[Any] = [{"role": "user", "content": "Hello"}]

        def ask() -> list[Any]:
            chat = client.chat.completions.create(
                model="tiny", messages=said, max_tokens=20, temperature=0, logprobs=True, top_logprobs=2
            )
            formed = client.chat.completions.create(
                model="tiny",
                messages=said,
                max_tokens=40,
                temperature=0,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
                },
            )
            stream = client.completions.create(model="tiny", prompt="x", max_tokens=20, temperature=0, stream=True)
            text = "".join(part.choices[0].text for part in stream if part.choices)
            several = client.completions.create(model="tiny", prompt="x", n=3, max_tokens=5, temperature=0)
            scored = [(one.token, round(one.logprob, 2)) for one in chat.choices[0].logprobs.content]
            json.loads(str(formed.choices[0].message.content))
            return [
                chat.choices[0].message.content,
                scored,
                chat.usage.completion_tokens,
                formed.choices[0].message.content,
                text,
                [choice.text for choice in several.choices],
            ]

        ours = ask()
        directory.endpoints["tiny"] = [addresses[engine]]
        assert ask() == ours

        body: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 1500, "temperature": 0}
        body["extra_body"] = {"ignore_eos": True}
        pieces = iter(client.completions.create(**body, stream=True))
        begun = "".join(next(pieces).choices[0].text for _ in range(5))
        processes = server_processes(started[engine][0])
        directory.endpoints["tiny"] = list(addresses.values())
        processes[0].send_signal(signal.SIGKILL)
        answered = begun + "".join(part.choices[0].text for part in pieces if part.choices)
        directory.endpoints["tiny"] = [addresses["roundhouse"]]
        assert answered == client.completions.create(**body).choices[0].text
        eventually(lambda: started[engine][0].poll() is not None)
        eventually(lambda: not any(map(is_alive, processes)))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_process_of_the_server_outlives_a_replica_that_is_killed(tmp_path: Path, engine: str) -> None:
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(hidden=128))
    with replica_process(tmp_path, "a", engine) as (process, _):
        processes = server_processes(process)
        assert len(processes) >= (1 if engine == "llama.cpp" else 3)
        process.send_signal(signal.SIGKILL)
        process.wait()
        eventually(lambda: not any(map(is_alive, processes)))


@pytest.mark.parametrize(("engine", "name"), [("vllm", "Worker"), ("sglang", "scheduler")])
def test_an_answer_of_a_server_that_loses_its_innermost_process_is_passed_on(
    tmp_path: Path, engine: str, name: str
) -> None:
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=2048, hidden=128))
    with ExitStack() as stack:
        started = {name: stack.enter_context(replica_process(tmp_path, name, name)) for name in (engine, "roundhouse")}
        addresses = {name: ReplicaAddress(id=name, url=url, token="t") for name, (_, url) in started.items()}
        directory = MemoryDirectory({"tiny": [addresses[engine]]}, keys_required=False)
        client = openai.OpenAI(base_url=f"{stack.enter_context(gateway(directory))}/v1", api_key=KEY, max_retries=0)
        body: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 1500, "temperature": 0}
        body["extra_body"] = {"ignore_eos": True}
        pieces = iter(client.completions.create(**body, stream=True))
        begun = "".join(next(pieces).choices[0].text for _ in range(5))
        processes = server_processes(started[engine][0])
        directory.endpoints["tiny"] = list(addresses.values())
        (inner,) = (process for process in processes if name in " ".join(process.cmdline()))
        inner.send_signal(signal.SIGKILL)
        answered = begun + "".join(part.choices[0].text for part in pieces if part.choices)
        directory.endpoints["tiny"] = [addresses["roundhouse"]]
        assert answered == client.completions.create(**body).choices[0].text
        eventually(lambda: started[engine][0].poll() is not None)
        eventually(lambda: not any(map(is_alive, processes)))
