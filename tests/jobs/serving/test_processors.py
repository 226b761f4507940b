"""Penalties, filters and ends of an answer against transformers' own processors, in both engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from backend.domain.serving.protocol import FinishReason, SamplingParams
from backend.errors import InvalidInput
from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import Engine
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.sampling import SamplingState, choose_tokens
from jobs.serving.serial import SerialEngine
from tests.support.networks.serving_networks import END_ID, make_llama, make_tokenizer
from tests.support.serving.requests import Caught

PROMPT = "Tell me a story, tell me a story: "


@pytest.fixture(scope="module", params=["compiled", "batching", "serial"])
def engine(request: pytest.FixtureRequest, library: Library) -> Iterator[Engine]:
    torch.set_num_threads(1)
    network = make_llama()
    if request.param == "compiled":
        fuse_layers(network, library=library)
    kind = SerialEngine if request.param == "serial" else BatchingEngine
    engine = kind(network, make_tokenizer())
    yield engine
    engine.close()


def generated(prompt: str, *, tokens: int = 40, **options: Any) -> list[int]:
    """What `generate` gives for a prompt."""
    ids = make_tokenizer()(prompt)["input_ids"]
    output = make_llama().generate(
        torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0, **options
    )
    return [int(token) for token in output[0, len(ids) :]]


@pytest.mark.parametrize("penalty", [0.6, 1.2, 3.0])
def test_a_repetition_penalty_gives_the_tokens_of_generate(engine: Engine, penalty: float) -> None:
    caught = Caught(engine, PROMPT, max_tokens=40, repetition_penalty=penalty).wait()
    assert caught.ids == generated(PROMPT, repetition_penalty=penalty)
    assert caught.ids != generated(PROMPT)


def test_an_answer_of_at_least_so_many_tokens_is_that_of_generate(engine: Engine) -> None:
    often = [token for token in generated(PROMPT) if token != END_ID][3]
    caught = Caught(engine, PROMPT, max_tokens=40, min_tokens=20, stop_token_ids=(often,)).wait()
    assert caught.ids == generated(PROMPT, min_new_tokens=20, eos_token_id=[END_ID, often])
    assert not {END_ID, often} & set(caught.ids[:20])


def test_a_stop_token_ends_the_answer_and_does_not_show(engine: Engine) -> None:
    whole = Caught(engine, PROMPT, max_tokens=30, ignore_eos=True).wait()
    stop = whole.ids[11]
    caught = Caught(engine, PROMPT, max_tokens=30, ignore_eos=True, stop_token_ids=(stop,)).wait()
    end = whole.ids.index(stop)
    assert caught.ids == whole.ids[: end + 1]
    assert caught.finish.finish_reason is FinishReason.STOP
    assert caught.text == Caught(engine, PROMPT, max_tokens=end, ignore_eos=True).wait().text
    with pytest.raises(InvalidInput, match="260"):
        Caught(engine, PROMPT, stop_token_ids=(260,))


def test_stop_strings_wait_for_the_least_number_of_tokens(engine: Engine) -> None:
    whole = Caught(engine, PROMPT, max_tokens=40, ignore_eos=True, temperature=1.0, seed=3).wait()
    letters = [letter for letter in whole.text if letter.isascii() and letter.isprintable()]
    stop = letters[0]
    first = Caught(engine, PROMPT, max_tokens=40, ignore_eos=True, temperature=1.0, seed=3, stop=(stop,)).wait()
    later = Caught(
        engine, PROMPT, max_tokens=40, ignore_eos=True, temperature=1.0, seed=3, stop=(stop,), min_tokens=25
    ).wait()
    assert len(first.ids) < 25 <= len(later.ids)
    assert whole.text.startswith(later.text)


@pytest.mark.parametrize(
    ("width", "scale"), [(50, 1.0), (3000, 1.0), (3000, 0.05), (3000, 4.0)], ids=["small", "wide", "flat", "steep"]
)
@pytest.mark.parametrize(("min_p", "top_p"), [(0.02, 1.0), (0.3, 1.0), (0.9, 1.0), (0.05, 0.8), (1.0, 1.0)])
def test_min_p_leaves_the_tokens_and_the_shares_of_transformers(
    width: int, scale: float, min_p: float, top_p: float
) -> None:
    """The flat row has thousands of tokens to choose from, more than any shortlist."""
    torch.manual_seed(1)
    logits = torch.randn(1, width) * scale
    warpers = [TemperatureLogitsWarper(0.8), *([TopPLogitsWarper(top_p)] if top_p < 1 else []), MinPLogitsWarper(min_p)]
    shares = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.clone()).softmax(-1)[0]
    count = 2000
    draws = [SamplingState.of(SamplingParams(seed=1, temperature=0.8, min_p=min_p, top_p=top_p)) for _ in range(count)]
    for position, draw in enumerate(draws):
        draw.drawn = position
    drawn = torch.tensor(choose_tokens(logits.repeat(count, 1), draws))
    assert bool((shares[drawn] > 0).all())
    best = shares.argsort(descending=True)
    # the cumulative share up to each token: uniform where right
    place = torch.empty(width).index_put_((best,), shares[best].cumsum(0))
    reached = place[drawn].sort().values
    for limit in shares[best].cumsum(0)[:: max(1, width // 20)]:
        expected = float(limit)
        assert float((reached <= limit + 1e-6).float().mean()) == pytest.approx(
            expected, abs=4.5 * (0.25 / count) ** 0.5
        )


def test_a_penalty_applies_to_prompt_and_answer_before_biases() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.9]])
    penalised = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 1]]), logits.clone())
    draw = SamplingState.of(
        SamplingParams(temperature=0, repetition_penalty=1.5, logit_bias=((2, 0.2),), logprobs=3), prompt=[0, 1]
    )
    assert choose_tokens(logits, [draw]) == [3]
    assert penalised.argmax() == 3
    assert draw.records[0].top[0][0] == 0  # probabilities are the network's own
    assert choose_tokens(logits, [draw]) == [0]  # 3 repeats: 1.27, and 0 has 1.33
