"""The fast engine's numbers are those of the plain one, whatever is shared, cut, split or run out of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from backend.errors import JobFailed
from jobs.evaluation.engines.base import Batch, EvaluationEngine, ScoreRequest
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.engines.shared_prefix import SharedPrefix, TokenTrie
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.loglikelihood import plan_pairs
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.evaluation_rooms import score_request
from tests.support.networks.inspection_networks import make_network

SHOTS = "Q: two and two? A: four. " * 2
REQUESTS = [
    *(
        score_request(f"{SHOTS}Q: {text}?", [" a cat", " a cow", f" {text}", " z", " y"])
        for text in ("one", "only", "a long one", "x")
    ),
    ScoreRequest((("", "free text"), ("", "free tea"))),
    score_request("x" * 200, ["ab", "b"]),
    ScoreRequest((("its own", " a"), ("another", " a"), ("its own", " a"))),
]
TEXTS = ["hello world", "", "x y z " * 60, "été"]


def subject(family: str = "llama") -> EvaluatedNetwork:
    return EvaluatedNetwork(make_network(family), byte_tokenizer(context=96), False)


def in_order(batches: Iterator[Batch[Any]], count: int) -> list[Any]:
    """Collect results; each index comes once."""
    pairs = [pair for batch in batches for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(count))
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


def gap(engine: EvaluationEngine, reference: EvaluationEngine, requests: Sequence[ScoreRequest] = REQUESTS) -> float:
    """Return the largest difference of log-likelihoods; everything else must be equal."""
    worst = 0.0
    for mine, plain in zip(
        in_order(engine.score(requests), len(requests)), in_order(reference.score(requests), len(requests)), strict=True
    ):
        for one, other in zip(mine, plain, strict=True):
            assert (one.tokens, one.greedy, one.cut) == (other.tokens, other.greedy, other.cut)
            worst = max(worst, abs(one.sum_logprob - other.sum_logprob))
    return worst


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "deepseek_v3", "granite"])
@pytest.mark.parametrize("batch_tokens", [16, 60, 512])
def test_shared_prefixes_change_no_number(family: str, batch_tokens: int) -> None:
    one = subject(family)
    fast, plain = FastEngine(one, batch_tokens=batch_tokens), PlainEngine(one)
    assert fast.facts().name == "fast"
    assert gap(fast, plain) <= 1e-4
    for mine, other in zip(in_order(fast.roll(TEXTS), 4), in_order(plain.roll(TEXTS), 4), strict=True):
        assert mine.sum_nll == pytest.approx(other.sum_nll, abs=1e-4)
        assert (mine.tokens, mine.bytes, [part.bytes for part in mine.windows]) == (
            other.tokens,
            other.bytes,
            [part.bytes for part in other.windows],
        )


@pytest.mark.parametrize("family", ["bloom", "mistral", "mamba"])
def test_network_that_can_share_no_prefix_is_scored_plainly(family: str) -> None:
    if family == "mamba":
        network = MambaForCausalLM(MambaConfig(vocab_size=262, hidden_size=16, num_hidden_layers=1)).eval()
        one = EvaluatedNetwork(network, byte_tokenizer(context=96), False)
    else:
        one = subject(family)
    fast = FastEngine(one)
    assert gap(fast, PlainEngine(one)) == 0.0
    if family != "mistral":  # its window of 8 tokens only excludes what is longer
        assert fast.facts().name == "plain"
        assert fast.facts().fallback


def test_network_that_ignores_its_mask_is_noticed() -> None:
    one = subject()
    forward = one.network.forward
    one.network.forward = lambda **values: forward(**{**values, "attention_mask": None})
    engine = FastEngine(one)
    in_order(engine.score(REQUESTS), len(REQUESTS))
    assert "change its numbers" in engine.facts().fallback


def test_every_distinct_prefix_is_run_once() -> None:
    one = subject()
    ran = []
    forward = one.network.forward
    engine = FastEngine(one, batch_tokens=60)
    list(engine.score(REQUESTS[:1]))  # tests first whether the network can share
    one.network.forward = lambda **values: (ran.append(values["input_ids"].numel()), forward(**values))[1]
    context = SHOTS * 2 + "Q: "
    requests = [score_request(context[-80:] + text, [" a", " b", " c"]) for text in "defghijk" * 3]
    in_order(engine.score(requests), 24)
    assert sum(ran) == 1 + 80 + 8 + 8  # begin token, context, each letter once, a space before each choice


def test_rows_keep_to_their_budget_and_hold_every_sequence_once() -> None:
    pairs = [pair for request in REQUESTS for pair in request.pairs]
    trie = TokenTrie(plan_pairs(byte_tokenizer(context=96), pairs, longest=96))
    for budget in (8, 40, 1000):
        rows = list(trie.rows(budget))
        assert sorted(place for row in rows for place in range(row.first, row.last)) == list(range(len(pairs)))
        assert all(trie.tokens(row.first, row.last, row.base) <= budget for row in rows if row.last - row.first > 1)


def test_several_devices_share_the_rows() -> None:
    one = subject()
    engine = FastEngine(one, batch_tokens=40, devices=[torch.device("cpu")] * 2)
    assert gap(engine, PlainEngine(one)) <= 1e-4
    assert engine.facts().devices == 2


def test_row_that_does_not_fit_into_memory_is_halved_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    one, run = subject(), SharedPrefix._run
    engine, plain = FastEngine(one, batch_tokens=128), PlainEngine(one)
    room = 100

    def scarce(self: SharedPrefix, ids: torch.Tensor, *rest: Any, **values: Any) -> torch.Tensor:
        if len(ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(self, ids, *rest, **values)

    monkeypatch.setattr(SharedPrefix, "_run", scarce)
    assert gap(engine, plain) <= 1e-4
    room = 0
    with pytest.raises(JobFailed, match="does not fit into memory"):
        list(FastEngine.score(engine, REQUESTS[-1:]))


def test_stop_between_rows_ends_the_work() -> None:
    def stop() -> None:
        raise JobFailed("stopped")

    with pytest.raises(JobFailed, match="stopped"):
        next(FastEngine(subject(), check_stop=stop).score(REQUESTS))
