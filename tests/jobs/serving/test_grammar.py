"""Constraints by llguidance on tokenizers of any size."""

from __future__ import annotations

import json

import pytest

from backend.domain.serving.protocol import Constraint
from jobs.serving.grammar import Grammars
from tests.support.networks.serving_networks import END_ID, make_tokenizer


@pytest.mark.parametrize("size", [260, 287, 288, 289, 320])
@pytest.mark.parametrize("vocab_size", [260, 288, 384])
def test_a_mask_covers_the_networks_vocabulary_whatever_the_tokenizers_size(size: int, vocab_size: int) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"<extra{number}>" for number in range(size - len(tokenizer))])
    assert len(tokenizer) == size
    matcher = Grammars(tokenizer, vocab_size=vocab_size, end_ids=[END_ID]).matcher(Constraint(kind="json_object"))
    allowed = matcher.allowed()
    assert allowed.shape == (vocab_size,)
    brace = tokenizer("{")["input_ids"][0]
    assert allowed.nonzero().flatten().tolist() == [brace]


def test_the_tokens_of_an_answer_lead_to_its_end() -> None:
    tokenizer = make_tokenizer()
    schema = json.dumps(
        {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    )
    matcher = Grammars(tokenizer, vocab_size=260, end_ids=[END_ID]).matcher(
        Constraint(kind="json_schema", value=schema)
    )
    for token in tokenizer('{"a": 2}')["input_ids"]:
        assert matcher.allowed()[token]
        matcher.take(token)
    assert matcher.complete_at == len('{"a": 2}')
