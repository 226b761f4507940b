"""Log-likelihoods against known values and token-by-token scoring."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lm_eval.utils import get_rolling_token_windows
from transformers import GPT2Config, GPT2LMHeadModel

from backend.errors import InvalidInput
from jobs.modeling.build import build_network
from jobs.modeling.loglikelihood import encode_pairs, rolling_nll, score_continuations
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, train_bpe
from tests.support.training_rooms import TINY, make_stories

TEXTS = [*make_stories(4, seed=8), "é", "A longer one. " * 40]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe(make_stories(100), vocab_size=TINY.vocab_size)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    network = build_network(TINY, seed=4).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)  # far from uniform, so that a mistake shows
    return network


@torch.inference_mode()
def step_by_step(network: Any, ids: list[int], *, scored: int) -> tuple[float, bool]:
    """Sum the log-probabilities of the last `scored` tokens, one forward pass each."""
    total, greedy = 0.0, True
    for at in range(len(ids) - scored, len(ids)):
        logprobs = network(torch.tensor([ids[:at]])).logits[0, -1].double().log_softmax(-1)
        total += float(logprobs[ids[at]])
        greedy = greedy and int(logprobs.argmax()) == ids[at]
    return total, greedy


def test_pair_scores_equal_token_by_token_scoring_for_any_batch_size(network: Any, tokenizer: Any) -> None:
    pairs = [
        ("Mira found ", "a lamp"),
        ("", "Tom found a song."),
        ("Ada", " and Ben"),
        ("Everyone was glad. " * 2, "Très bien"),
        ("   ", "x"),
    ]
    batched = score_continuations(network, tokenizer, pairs)
    for pair, score, alone in zip(
        pairs, batched, score_continuations(network, tokenizer, pairs, batch_tokens=1), strict=True
    ):
        ((head, tail),) = encode_pairs(tokenizer, [pair])
        total, greedy = step_by_step(network, head + tail, scored=len(tail))
        assert (score.tokens, score.greedy) == (len(tail), greedy)
        assert score.sum_logprob == pytest.approx(total, abs=1e-3)
        assert alone.sum_logprob == pytest.approx(total, abs=1e-3)


def test_only_the_greedy_continuation_scores_as_greedy(network: Any, tokenizer: Any) -> None:
    checked = 0
    for prompt in ("Mira", "Tom found", "Ada gave it to", "Ben", "Everyone was", "a lamp and", "the old boat"):
        head = [0, *encode_texts(tokenizer, [prompt])[0]]
        with torch.inference_mode():
            likeliest = network(torch.tensor([head])).logits[0, -1].argsort(descending=True)[:2].tolist()
        for token, greedy in zip(likeliest, (True, False), strict=True):
            text = tokenizer.decode([token])
            # the text must encode to the same tokens again
            if encode_pairs(tokenizer, [(prompt, text)]) == [(head, [token])]:
                assert score_continuations(network, tokenizer, [(prompt, text)])[0].greedy is greedy
                checked += 1
    assert checked >= 4


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(tokenizer: Any) -> None:
    pairs = [("Mira found ", "a lamp"), ("Mira found", " a lamp"), ("", "Tom"), ("<|bos|>Mira", " found")]
    moved, plain, bare, begun = encode_pairs(tokenizer, pairs)
    assert moved == plain
    assert bare[0] == [tokenizer.bos_token_id]
    assert begun[0].count(tokenizer.bos_token_id) == 1


def test_a_context_too_long_for_the_network_is_truncated_on_the_left(network: Any, tokenizer: Any) -> None:
    long = "Everyone was glad. " * 60
    score = score_continuations(network, tokenizer, [(long, "Mira found a lamp")])[0]
    ((head, tail),) = encode_pairs(tokenizer, [(long, "Mira found a lamp")])
    ids = (head + tail)[-(TINY.context + 1) :]
    assert score.tokens == len(tail)
    with torch.inference_mode():
        logprobs = network(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    expected = sum(float(logprobs[at - 1, ids[at]]) for at in range(len(ids) - len(tail), len(ids)))
    assert score.sum_logprob == pytest.approx(expected, abs=1e-3)


def test_an_empty_continuation_is_refused(network: Any, tokenizer: Any) -> None:
    with pytest.raises(InvalidInput, match="Pair 2 has nothing to score"):
        score_continuations(network, tokenizer, [("a", "b"), ("a", "")])


@pytest.mark.parametrize("policy", ["each_window", "first_window"])
@pytest.mark.parametrize("window", [None, 7])
def test_a_uniform_network_gives_the_vocabularys_size_as_perplexity(
    tokenizer: Any, policy: Any, window: int | None
) -> None:
    uniform = build_network(TINY.model_copy(update={"tie_embeddings": False}), seed=1)
    torch.nn.init.zeros_(uniform.lm_head.weight)
    for text, item in zip(TEXTS, rolling_nll(uniform, tokenizer, TEXTS, policy=policy, window=window), strict=True):
        assert item.tokens == len(encode_texts(tokenizer, [text])[0])
        assert item.bytes == len(text.encode())
        assert item.sum_nll == pytest.approx(item.tokens * math.log(TINY.vocab_size), rel=1e-6)


def test_each_window_starts_from_the_prefix_alone(network: Any, tokenizer: Any) -> None:
    text = TEXTS[-1]
    ids = encode_texts(tokenizer, [text])[0]
    expected = -sum(
        step_by_step(network, [0, *ids[at : at + 20]], scored=len(ids[at : at + 20]))[0]
        for at in range(0, len(ids), 20)
    )
    assert rolling_nll(network, tokenizer, [text], window=20)[0].sum_nll == pytest.approx(expected, rel=1e-5)


def test_the_first_window_policy_scores_the_windows_of_lm_evaluation_harness(network: Any, tokenizer: Any) -> None:
    text = TEXTS[-1]
    ids = encode_texts(tokenizer, [text])[0]
    expected = 0.0
    for inputs, predicted in get_rolling_token_windows(ids, prefix_token=0, max_seq_len=TINY.context, context_len=1):
        expected -= step_by_step(network, [*inputs, predicted[-1]], scored=len(predicted))[0]
    assert rolling_nll(network, tokenizer, [text], policy="first_window")[0].sum_nll == pytest.approx(
        expected, rel=1e-5
    )


def test_without_any_prefix_token_the_first_token_is_not_scored() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    network = GPT2LMHeadModel(GPT2Config(vocab_size=262, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    item = rolling_nll(network, tokenizer, ["x" * 100])[0]
    assert item.tokens == 99


def test_scoring_stops_on_request_and_reports_progress(network: Any, tokenizer: Any) -> None:
    seen: list[tuple[int, int]] = []

    def stop_after_two(done: int, total: int) -> bool:
        seen.append((done, total))
        return done >= 2

    scores = score_continuations(
        network, tokenizer, [("a", f"b{n}") for n in range(5)], batch_tokens=1, progress=stop_after_two
    )
    assert seen == [(1, 5), (2, 5)]
    assert sum(score.tokens > 0 for score in scores) == 2
