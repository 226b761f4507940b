"""`/v1/score` and `/v1/rerank`: a reward model's own scores, in vLLM's and Cohere's shapes, and refusals elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from backend.domain.serving.key_limits import KeyScopes
from backend.domain.serving.upstream import Upstream
from backend.gateway.directory import Principal, ReplicaAddress
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway
from tests.support.networks.serving_networks import END_ID, make_tokenizer
from tests.support.serving.api_place import Place
from tests.support.serving_replica import TOKEN, RunningReplica

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt"
    " %}<|assistant|>{% endif %}"
)
QUERY, ANSWERS = (
    "Where is Graz?",
    ["In Austria.", "I do not know", "", "In Austria, south of Vienna, by the river Mur."],
)


@dataclass(frozen=True)
class Rewards:
    url: str
    directory: MemoryDirectory
    folder: Path
    replica: RunningReplica

    def ask(self, path: str, *, key: str = KEY, **body: Any) -> httpx2.Response:
        return httpx2.post(
            f"{self.url}/v1/{path}",
            json={"model": "judge", **body},
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        )

    def expected(self, prompt: str, answer: str) -> float:
        """The score that transformers gives to the rendered conversation."""
        text = f"<|user|>{prompt}<|end|><|assistant|>{answer}<|end|>"
        ids = make_tokenizer(chat_template=TEMPLATE)(text, return_tensors="pt")["input_ids"]
        network = AutoModelForSequenceClassification.from_pretrained(self.folder)
        with torch.no_grad():
            return float(network(input_ids=ids).logits[0, 0])


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rewards]:
    folder = tmp_path_factory.mktemp("rewards")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
        num_labels=1,
        initializer_range=0.15,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder / "checkpoint")
    make_tokenizer(chat_template=TEMPLATE).save_pretrained(folder / "checkpoint")
    running = RunningReplica(folder)
    directory = MemoryDirectory({"judge": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]})
    with gateway(directory) as url:
        yield Rewards(url, directory, folder / "checkpoint", running)
    running.stop()


def test_scores_are_those_of_the_network(rewards: Rewards) -> None:
    assert rewards.replica.events("ready")[0]["engine"] == "scoring"
    answer = rewards.ask("score", text_1=QUERY, text_2=ANSWERS).json()
    assert [entry["score"] for entry in answer["data"]] == pytest.approx(
        [rewards.expected(QUERY, text) for text in ANSWERS], abs=1e-5
    )
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2, 3]
    row = rewards.directory.wait_for(lambda row: row.id == answer["id"])
    assert (row.status, row.prompt_tokens, row.completion_tokens) == ("finished", answer["usage"]["total_tokens"], 0)
    pairs = rewards.ask("score", text_1=[QUERY, "Hi"], text_2=["In Austria.", "Hello"]).json()
    assert pairs["data"][0]["score"] == pytest.approx(answer["data"][0]["score"], abs=1e-5)
    assert pairs["data"][1]["score"] == pytest.approx(rewards.expected("Hi", "Hello"), abs=1e-5)


def test_documents_are_ranked_by_their_scores(rewards: Rewards) -> None:
    scores = [entry["score"] for entry in rewards.ask("score", text_1=QUERY, text_2=ANSWERS).json()["data"]]
    results = rewards.ask("rerank", query=QUERY, documents=[*ANSWERS[:3], {"text": ANSWERS[3]}]).json()["results"]
    assert [result["index"] for result in results] == sorted(range(4), key=lambda number: -scores[number])
    relevant = [1 / (1 + math.exp(-scores[result["index"]])) for result in results]
    assert [result["relevance_score"] for result in results] == pytest.approx(relevant, abs=1e-5)
    assert [result["document"]["text"] for result in results] == [ANSWERS[result["index"]] for result in results]
    short = rewards.ask("rerank", query=QUERY, documents=ANSWERS, top_n=2, return_documents=False).json()["results"]
    assert [(result["index"], "document" in result) for result in short] == [
        (result["index"], False) for result in results[:2]
    ]


def test_a_reward_model_writes_no_text_and_other_networks_score_none(rewards: Rewards, place: Place) -> None:
    for path, body in (
        ("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("completions", {"prompt": "Hi", "max_tokens": 0, "echo": True, "logprobs": 1}),
        ("embeddings", {"input": "Hi"}),
    ):
        refused = rewards.ask(path, **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
        assert "/v1/score" in refused.json()["error"]["message"]
    headers = {"Authorization": f"Bearer {KEY}"}
    for path, body in (("score", {"text_1": "a", "text_2": "b"}), ("rerank", {"query": "a", "documents": ["b"]})):
        refused = httpx2.post(f"{place.url}/v1/{path}", json={"model": "tiny", **body}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
    assert rewards.ask("tokenize", prompt="Hi").json()["count"] == 2
    assert httpx2.get(f"{rewards.replica.url}/health", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("score", {"text_1": ["a", "b", "c"], "text_2": ["a", "b"]}, 400, "invalid_value"),
        ("score", {"text_1": "a", "text_2": []}, 400, "invalid_value"),
        ("score", {"text_1": "x" * 300, "text_2": "b"}, 400, "context_length_exceeded"),
        ("rerank", {"query": "a", "documents": []}, 400, "invalid_value"),
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400, "invalid_value"),
        ("rerank", {"query": "a", "documents": ["b"], "rank_fields": ["c"]}, 400, "unknown_parameter"),
        ("rerank", {"query": "a", "documents": ["b"] * 3000}, 400, "invalid_value"),
    ],
)
def test_bad_bodies_are_refused(rewards: Rewards, path: str, body: dict[str, Any], status: int, code: str) -> None:
    refused = rewards.ask(path, **body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def test_keys_have_a_scope_for_scores(rewards: Rewards) -> None:
    rewards.directory.principals["chats"] = Principal(key_id="c", name="chats", scopes=KeyScopes(endpoints=("chat",)))
    rewards.directory.principals["scores"] = Principal(
        key_id="s", name="scores", scopes=KeyScopes(endpoints=("score",))
    )
    assert rewards.ask("score", key="chats", text_1="a", text_2="b").status_code == 403
    assert rewards.ask("rerank", key="scores", query="a", documents=["b"]).status_code == 200


def test_another_gateway_passes_scores_on(rewards: Rewards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    upstream = Upstream.read({"url": f"{rewards.url}/v1", "model": "judge", "key_env": "FAR_KEY"})
    there = MemoryDirectory({"far": [ReplicaAddress(id="u1", url=upstream.url, token="", upstream=upstream)]})
    asked = {"text_1": QUERY, "text_2": ANSWERS}
    with gateway(there) as relay:
        headers = {"Authorization": f"Bearer {KEY}"}
        answer = httpx2.post(f"{relay}/v1/score", json={"model": "far", **asked}, headers=headers, timeout=60).json()
    assert answer["data"] == rewards.ask("score", **asked).json()["data"]
