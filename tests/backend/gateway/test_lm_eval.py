"""lm-evaluation-harness as a client: its `local-completions` and `local-chat-completions`, unchanged, against a
gateway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests as http
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.gateway.directory import ReplicaAddress
from jobs.modeling.loglikelihood import rolling_nll, score_continuations
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica

PAIRS = [
    ("Once upon a", " time"),
    ("The café is", " closed, and so it stays for the night"),
    ("1 + 1 =", " 2"),
    ("a" * 300, " b"),
]
TEXT = "A text that is longer than one window of the network. " * 12


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder: Path = tmp_path_factory.mktemp("replica")
    checkpoint = save_checkpoint(folder / "checkpoint", network=make_llama(context=512))
    running = RunningReplica(folder)
    with gateway(MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]})) as url:
        yield url, checkpoint
    running.stop()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def requests(kind: str, arguments: list[tuple[object, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=number) for number, each in enumerate(arguments)]  # type: ignore[arg-type]


def test_log_likelihoods_equal_those_in_process(served: tuple[str, Path]) -> None:
    url, checkpoint = served
    harness = LocalCompletionsAPI(
        model="tiny",
        base_url=f"{url}/v1/completions",
        tokenizer=str(checkpoint),
        max_length=512,
        num_concurrent=1,
        batch_size=2,
    )
    scores = harness.loglikelihood(requests("loglikelihood", list(PAIRS)))
    network, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    expected = score_continuations(network, tokenizer, PAIRS)
    assert [value for value, _ in scores] == pytest.approx([score.sum_logprob for score in expected], abs=1e-4)
    assert [greedy for _, greedy in scores] == [score.greedy for score in expected]
    rolling = harness.loglikelihood_rolling(requests("loglikelihood_rolling", [(TEXT,)]))
    (nll,) = rolling_nll(network, tokenizer, [TEXT], policy="first_window", window=510)
    assert rolling[0] == pytest.approx(-nll.sum_nll, abs=1e-3)


def test_generations_of_both_kinds_are_answered(served: tuple[str, Path]) -> None:
    url, checkpoint = served
    settings = {"until": ["\n"], "max_gen_toks": 8, "temperature": 0.0}
    text = LocalCompletionsAPI(
        model="tiny", base_url=f"{url}/v1/completions", tokenizer=str(checkpoint), max_length=512
    )
    chat = LocalChatCompletion(model="tiny", base_url=f"{url}/v1/chat/completions")
    (written,) = text.generate_until(requests("generate_until", [("Once upon a", dict(settings))]))
    asked = chat.apply_chat_template([{"role": "user", "content": "Hello"}])
    (spoken,) = chat.generate_until(requests("generate_until", [(asked, dict(settings))]))
    assert written
    assert spoken


def test_a_wrong_key_ends_an_evaluation_with_the_status(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = served
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    harness = LocalChatCompletion(model="tiny", base_url=f"{url}/v1/chat/completions", max_retries=1)
    question = harness.apply_chat_template([{"role": "user", "content": "Hello"}])
    with pytest.raises(http.HTTPError, match="401"):
        harness.generate_until(requests("generate_until", [(question, {"until": [], "max_gen_toks": 8})]))
