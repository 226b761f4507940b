"""Drafts: what one proposes is what its network would generate, how many tokens are drafted follows what steps took
and how many were right, and a replica with one answers as an engine without.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain.serving.protocol import GenerateRequest, SamplingParams, TokenEvent
from backend.errors import InvalidInput
from jobs.reporter import FileReporter
from jobs.serving.batching import BatchingEngine
from jobs.serving.drafts import LENGTHS, READ_ROWS, TRIAL_STEPS, Acceptance, Draft, DraftRequest, Pace
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.replica import run
from jobs.serving.sampling import SamplingState
from tests.support.gateway_fixtures import eventually
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_llama, make_tokenizer, save_checkpoint
from tests.support.serving.requests import Caught
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events

GREEDY = SamplingParams(temperature=0)


def make_draft(library: Library, network: Any) -> Draft:
    fuse_layers(network, library=library)
    return Draft(network)


def ask(name: str, tokens: list[int]) -> DraftRequest:
    return DraftRequest(name, tokens, SamplingState.of(GREEDY))


def generated(network: Any, tokens: list[int], count: int) -> list[int]:
    prompt = torch.tensor([tokens])
    ids = network.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(ids[0, len(tokens) :].tolist())


def test_drafts_continue_each_request_as_the_network_does_after_right_and_wrong_drafts(library: Library) -> None:
    reference, draft = make_llama(), make_draft(library, make_llama())
    texts = {
        name: [(number * step + 3) % 250 for number in range(20)] for name, step in (("a", 5), ("b", 11), ("c", 17))
    }
    for step in range(6):
        proposed = draft.propose([ask(name, tokens) for name, tokens in texts.items()], 3, vocab_size=260)
        assert proposed == [generated(reference, tokens, 3) for tokens in texts.values()]
        for number, (name, tokens) in enumerate(texts.items()):  # all right and one more, some right, none right
            taken = proposed[number][: (step + number) % 4]
            texts[name] = [*tokens, *taken, (7 * step + number) % 250]


def test_a_fifth_request_takes_the_place_that_was_used_longest_ago(library: Library) -> None:
    reference, draft = make_llama(), make_draft(library, make_llama())
    texts = {str(name): [(name * 7 + number) % 250 for number in range(30)] for name in range(6)}
    for _ in range(2):
        for name, tokens in texts.items():
            assert draft.propose([ask(name, tokens)], 2, vocab_size=260) == [generated(reference, tokens, 2)]


def test_a_long_prompt_is_read_in_parts_before_anything_is_proposed(library: Library) -> None:
    reference, draft = make_llama(context=1024), make_draft(library, make_llama(context=1024))
    tokens = [(number * 13 + 5) % 250 for number in range(2 * READ_ROWS + 100)]
    proposed = [draft.propose([ask("long", tokens)], 2, vocab_size=260)[0] for _ in range(3)]
    assert proposed == [[], [], generated(reference, tokens, 2)]


def test_a_prompt_is_not_read_before_its_answer_took_as_long_as_reading_it_would(library: Library) -> None:
    draft, tokens = make_draft(library, make_llama()), [(number * 13 + 5) % 250 for number in range(100)]
    assert (
        len(draft.propose([DraftRequest("first", tokens, SamplingState.of(GREEDY), spent_s=0.0)], 2, vocab_size=260)[0])
        == 2
    )  # measures
    for spent_s, count in ((0.0, 0), (60.0, 2), (0.0, 2)):  # what was read stays read
        asked = DraftRequest("second", tokens[::-1], SamplingState.of(GREEDY), spent_s=spent_s)
        assert len(draft.propose([asked], 2, vocab_size=260)[0]) == count


def test_tokens_that_the_served_network_lacks_are_not_proposed(library: Library) -> None:
    draft = make_draft(library, make_llama())
    proposed = draft.propose([ask("a", list(range(20)))], 6, vocab_size=30)
    assert len(proposed[0]) == 6
    assert max(proposed[0]) < 30


def test_a_drawn_request_is_drafted_with_its_own_numbers(library: Library) -> None:
    draft, tokens = make_draft(library, make_llama()), list(range(20))
    drawn = [
        DraftRequest("a", tokens, SamplingState(params=SamplingParams(temperature=1.0), seed=seed)) for seed in (1, 2)
    ]
    first, again = (draft.propose([one], 6, vocab_size=260) for one in (drawn[0], drawn[0]))
    assert first == again
    assert draft.propose([drawn[1]], 6, vocab_size=260) != first
    assert drawn[0].draw.drawn == 0


Step = Callable[[int], tuple[int, int, float]]
TRIALS = TRIAL_STEPS * len(LENGTHS)


def take_steps(pace: Pace, step: Step, *, steps: int, num_requests: int = 1) -> list[int]:
    """Return the lengths of the next steps, each with the right drafts, wrong drafts and seconds of its length."""
    chosen = []
    for _ in range(steps):
        length = pace.choose(num_requests)
        right, wrong, seconds = step(length)
        pace.note(num_requests, length, right=right, wrong=wrong, seconds=seconds)
        chosen.append(length)
    return chosen


def good(length: int) -> tuple[int, int, float]:
    """All drafts are right, and long ones cost more than they give."""
    return length, 0, 1.0 + 0.1 * length + 0.05 * length**2


def bad(length: int) -> tuple[int, int, float]:
    """All drafts are wrong."""
    return 0, 1 if length else 0, 1.0 + 0.1 * length


def test_every_length_is_tried_and_the_one_with_most_tokens_per_second_is_taken() -> None:
    chosen = take_steps(Pace(), good, steps=TRIALS + 50)
    assert {length: chosen[:TRIALS].count(length) for length in LENGTHS} == dict.fromkeys(LENGTHS, TRIAL_STEPS)
    assert set(chosen[TRIALS:]) == {max(LENGTHS, key=lambda length: (1 + length) / good(length)[2])} == {4}


def test_drafts_that_are_wrong_end_and_are_tried_again_more_and_more_rarely() -> None:
    pace = Pace()
    early, late = take_steps(pace, bad, steps=500), take_steps(pace, bad, steps=4000)
    assert early.count(0) > 0.85 * len(early)
    assert late.count(0) > 0.98 * len(late)


def test_drafts_that_turn_wrong_end_within_some_steps_and_come_back_once_they_are_right() -> None:
    pace = Pace()
    take_steps(pace, good, steps=TRIALS)
    turned = take_steps(pace, bad, steps=60)
    assert set(turned[30:]) == {0}
    again = take_steps(pace, good, steps=200)
    assert again[-50:].count(4) > 30


def test_each_number_of_requests_has_times_of_its_own() -> None:
    pace = Pace()

    def crowded(length: int) -> tuple[int, int, float]:
        return length, 0, 1.0 + 2.0 * length

    take_steps(pace, good, steps=TRIALS, num_requests=1)
    take_steps(pace, crowded, steps=TRIALS, num_requests=4)
    assert (pace.choose(1), pace.choose(4)) == (4, 0)


def test_one_pause_of_the_machine_does_not_change_the_choice() -> None:
    pace = Pace()
    take_steps(pace, good, steps=TRIALS)
    pace.note(1, 4, right=4, wrong=0, seconds=60.0)
    assert pace.choose(1) == 4


@pytest.mark.parametrize(
    ("share", "length", "expected"), [(0.0, 4, 1.0), (1.0, 4, 5.0), (0.5, 2, 1.75), (0.8, 3, 2.952)]
)
def test_expected_tokens_are_those_of_the_formula(share: float, length: int, expected: float) -> None:
    """(1 - a^(k + 1)) / (1 - a) of Leviathan, Kalman and Matias (2023), equation 1."""
    acceptance = Acceptance(right=1000 * share, checked=1000.0)
    assert acceptance.tokens(length) == pytest.approx(expected)


def test_a_replica_answers_as_without_its_draft_and_counts_what_was_accepted(library: Library, tmp_path: Path) -> None:
    network = make_llama()
    save_checkpoint(tmp_path / "checkpoint", network=network)
    fuse_layers(network, library=library)
    engine, params = (
        BatchingEngine(network, make_tokenizer()),
        {"max_tokens": 60, "temperature": 1.0, "seed": 3, "ignore_eos": True},
    )
    expected = Caught(engine, "Hello", **params).wait().ids
    engine.close()
    replica = RunningReplica(tmp_path, draft="checkpoint")
    request = GenerateRequest(prompt="Hello", params=SamplingParams(**params))
    events = list(stream_events(replica.url, token=TOKEN, request=request))
    assert [token for event in events if isinstance(event, TokenEvent) for token in event.token_ids] == expected
    counted = eventually(lambda: [event for event in replica.events("gauge") if event["drafted_tokens"]])[-1]
    assert 0 < counted["accepted_tokens"] <= counted["drafted_tokens"]
    replica.stop()


def test_a_draft_with_other_tokens_is_refused_at_the_start(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint")
    save_checkpoint(tmp_path / "draft")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "draft")
    values = {"checkpoint": "checkpoint", "draft": "draft", "name": "tiny", "internal_token": TOKEN, "device": "cpu"}
    spec = make_spec("replica", values, root=tmp_path, folder=tmp_path)
    with pytest.raises(InvalidInput, match="draft and checkpoint have different vocabularies"):
        run(spec, FileReporter(tmp_path / "events.jsonl", tmp_path / "control"))
