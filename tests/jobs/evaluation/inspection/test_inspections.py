"""The inspection room from payload to files: a text, a pair of checkpoints, unlike vocabularies, weights."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import InvalidInput, JobFailed
from jobs.evaluation.inspection import run as run_inspect
from jobs.evaluation.inspection import text as reading_text
from jobs.modeling.checkpoints import load_network, save_checkpoint
from jobs.modeling.devices import is_gpu
from jobs.modeling.loglikelihood import rolling_nll
from jobs.modeling.tokenizers import byte_tokenizer, train_bpe
from tests.support.evaluation_rooms import Remembering
from tests.support.jobs import make_spec
from tests.support.networks.inspection_networks import make_network
from tests.support.networks.oracles import random_bigram, save_bigram
from tests.support.training_rooms import make_stories

TEXT = "The cat sat, é."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints: two of one shape, one of another family, one with another vocabulary, and a bigram oracle."""
    root = tmp_path_factory.mktemp("artifacts")
    for name, family, seed in (("oak", "llama", 0), ("elm", "llama", 1), ("yew", "gpt2", 0)):
        save_checkpoint(
            root / name, model=make_network(family, seed=seed), tokenizer=byte_tokenizer(context=96), meta={}
        )
    merges = train_bpe(make_stories(60), vocab_size=262 + 30)
    network = make_network("llama")
    network.resize_token_embeddings(len(merges))
    save_checkpoint(root / "fir", model=network, tokenizer=merges, meta={})
    save_bigram(root / "oracle", random_bigram(4))
    return root


def inspect(
    root: Path, checkpoint: str, other: str | None = None, *, reporter: Any = None, **config: Any
) -> tuple[Any, Any, Any]:
    """Run an inspection; returns (result, numbers, words)."""
    payload = {"checkpoint": checkpoint, "other": other, "config": config, "out": "inspections/one", "threads": 1}
    result = run_inspect.run(make_spec("inspect", payload, root=root), reporter or Remembering()).dump()
    with np.load(root / "inspections" / "one" / "numbers.npz", allow_pickle=False) as file:
        numbers = dict(file)
    return result, numbers, json.loads((root / "inspections" / "one" / "words.json").read_text())


def test_a_text_is_inspected_completely(root: Path) -> None:
    reporter = Remembering()
    result, numbers, words = inspect(root, "oak", text=TEXT, reporter=reporter)
    tokens = len(TEXT.encode()) + 1
    (whole,) = rolling_nll(load_network(root / "oak"), byte_tokenizer(), [TEXT], window=96)
    assert result["loss"]["sum_nats"] == pytest.approx(whole.sum_nll, rel=1e-5)
    assert result["loss"]["bytes"] == len(TEXT.encode())
    assert result["attention"] == {
        "layers": 3,
        "heads": [4, 4, 4],
        "tokens": tokens,
        "row_error": pytest.approx(0, abs=1e-5),
        "reason": "",
    }
    assert numbers["attention_2"].shape == (4, tokens, tokens)
    np.testing.assert_allclose(numbers["attention_2"].sum(-1), 1, atol=1e-5)
    assert result["lens"]["depths"] == 4
    assert result["lens"]["error"] < 1e-5
    assert words["labels"][str(numbers["ids"][1])] == "T"
    assert {str(token) for token in numbers["lens_ids"].flatten()} <= set(words["labels"])
    assert (result["facts"]["family"], result["facts"]["special"], result["facts"]["cut"]) == ("llama", [0], False)
    assert reporter.progressed[-1][0] < reporter.progressed[-1][1]
    assert [path.name for path in (root / "inspections").iterdir()] == ["one"]


def test_the_inspection_equals_the_oracles_probabilities(root: Path) -> None:
    log_p = random_bigram(4)
    _, numbers, _ = inspect(root, "oracle", text="abc")
    ids = numbers["ids"]
    expected = [-log_p[left, right] for left, right in pairwise(ids)]
    np.testing.assert_allclose(numbers["surprisal"][1:], expected, rtol=1e-4)
    for place, token in enumerate(ids):
        order = np.argsort(-log_p[token])[:10]
        assert numbers["top_ids"][place].tolist() == order.tolist()
        np.testing.assert_allclose(numbers["top_p"][place], np.exp(log_p[token][order]), rtol=1e-3)
    assert [int(rank) for rank in numbers["rank"][1:]] == [
        int((log_p[left] > log_p[left, right]).sum()) + 1 for left, right in pairwise(ids)
    ]


def test_maps_of_many_heads_show_the_beginning_of_the_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole, _ = inspect(root, "oak", text=TEXT)
    monkeypatch.setattr(reading_text, "ATTENTION_VALUES", 12 * 25)
    result, numbers, _ = inspect(root, "oak", text=TEXT)
    assert result["attention"]["tokens"] == 5
    np.testing.assert_array_equal(numbers["attention_0"], whole["attention_0"][:, :5, :5])
    np.testing.assert_allclose(numbers["attention_0"].sum(-1), 1, atol=1e-5)


def test_a_checkpoint_diverges_from_another_and_not_from_itself(root: Path) -> None:
    result, numbers, _ = inspect(root, "oak", "oak", text=TEXT)
    assert result["pair"]["same_vocabulary"]
    assert numbers["kl_pq"].max() == numbers["kl_qp"].max() == 0
    assert result["pair"]["agreement"] == 1
    result, numbers, words = inspect(root, "oak", "yew", text=TEXT)  # another family with the same vocabulary
    assert numbers["kl_pq"].min() > 0
    assert result["pair"]["mean_kl_pq"] == pytest.approx(numbers["kl_pq"].mean(), rel=1e-5)
    _, alone, _ = inspect(root, "yew", text=TEXT)
    np.testing.assert_allclose(numbers["other_surprisal"], alone["surprisal"], rtol=1e-5)
    assert {str(token) for token in numbers["other_top_ids"].flatten()} <= set(words["labels"])


def test_unlike_vocabularies_are_compared_per_byte(root: Path) -> None:
    result, numbers, words = inspect(root, "oak", "fir", text=TEXT)
    pair = result["pair"]
    assert not pair["same_vocabulary"]
    assert "262 tokens and 292" in pair["reason"]
    assert pair["bytes"] == len(TEXT.encode())
    assert "".join(words["spans"]) == TEXT
    assert pair["first"]["sum_nats"] == pytest.approx(result["loss"]["sum_nats"], rel=1e-5)
    alone, _, _ = inspect(root, "fir", text=TEXT)
    assert pair["other"]["sum_nats"] == pytest.approx(alone["loss"]["sum_nats"], rel=1e-5)
    assert pair["other"]["bits_per_byte"] == pytest.approx(alone["loss"]["bits_per_byte"], rel=1e-5)
    assert "kl_pq" not in numbers
    with pytest.raises(InvalidInput, match="conversation"):
        inspect(root, "oak", "fir", messages=[{"role": "user", "content": "Hi"}])


def test_the_answers_of_a_conversation_have_a_loss_of_their_own(root: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    result, numbers, _ = inspect(root, "oak", messages=messages)
    assert result["loss"]["answers"]["tokens"] == numbers["trained"].sum() == 5
    assert result["loss"]["answers"]["sum_nats"] == pytest.approx(
        numbers["surprisal"][numbers["trained"]].sum(), rel=1e-5
    )


def test_weights_are_read_without_a_text_and_compared_tensor_by_tensor(root: Path) -> None:
    result, numbers, words = inspect(root, "oak")
    assert result["facts"] == {
        "what": "weights",
        "tensors": len(words["tensors"]),
        "values": int(numbers["values"].sum()),
        "merged": False,
    }
    assert numbers["counts"].sum() == result["facts"]["values"]
    result, numbers, words = inspect(root, "oak", "oak")
    assert result["changes"]["relative"] == 0
    assert result["changes"]["equal"] == result["changes"]["compared"] == len(words["changes"])
    result, numbers, words = inspect(root, "oak", "fir")
    assert words["missing"]["unlike"] == ["lm_head.weight", "model.embed_tokens.weight"]
    assert result["changes"]["unlike"] == 2
    result, _, words = inspect(root, "oak", "yew")
    assert result["changes"]["compared"] == 0
    assert words["missing"]["only_first"]


def test_a_stop_ends_the_work_and_leaves_no_files(root: Path) -> None:
    class Stopping(Remembering):
        def should_stop(self) -> Any:
            return "cancel"

    for config in ({"text": TEXT}, {}):
        with pytest.raises(JobFailed, match="stopped"):
            inspect(root, "oak", reporter=Stopping(), **config)


def test_a_network_that_does_not_fit_is_refused_before_it_is_loaded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(reading_text.psutil, "virtual_memory", lambda: Memory)
    monkeypatch.setattr(reading_text, "free_bytes", lambda device: Memory.available if is_gpu(device) else None)
    with pytest.raises(JobFailed, match="B of memory"):
        inspect(root, "oak", text=TEXT)
