"""What a draft proposes is what its network would generate, whatever it proposed before."""

from __future__ import annotations

from typing import Any

import torch

from backend.domain.serving.protocol import SamplingParams
from jobs.serving.drafts import READ_ROWS, Draft, DraftRequest
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.sampling import SamplingState
from tests.support.networks.serving_networks import make_llama

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
