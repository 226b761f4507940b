"""Tokenize an inspection's input: a text after the begin token, as for perplexity, or a conversation as in chat."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from backend.domain.checkpoints.inspection_config import MAX_TOKENS, InspectionConfig
from backend.errors import InvalidInput
from jobs.modeling.chat import encode_chat
from jobs.modeling.loglikelihood import prefix_token
from jobs.modeling.tokenizers import count_token_bytes, encode_texts


@dataclass(frozen=True)
class Passage:
    """The token ids of an inspection. The first `num_prefix` tokens are not part of the text; `total` counts tokens
    before truncation.

    `trained` marks the assistant's tokens of a conversation; `ends` holds the end of each token in the text, in
    characters, None where the tokenizer has no offsets.
    """

    ids: list[int]
    num_prefix: int
    total: int
    trained: list[bool] | None
    ends: list[int | None]

    @property
    def is_cut(self) -> bool:
        """True if the input was truncated."""
        return self.total > len(self.ids)


def encode_passage(tokenizer: PreTrainedTokenizerBase, config: InspectionConfig, *, longest: int) -> Passage:
    """Tokenize an inspection's text or conversation, at most `limit` tokens and at most the network's context.

    A text's tokens are those of `rolling_nll`: after BOS, else EOS, else nothing. Raises InvalidInput for fewer than
    two tokens.
    """
    size = min(MAX_TOKENS, longest)
    if config.messages:
        ids, trained = encode_chat(tokenizer, [message.model_dump() for message in config.messages])
        passage = Passage(ids[:size], 0, len(ids), trained[:size], [None] * min(size, len(ids)))
    else:
        prefix = prefix_token(tokenizer)
        head = [] if prefix is None else [prefix]
        tail = encode_texts(tokenizer, [config.text])[0]
        ends = [*([0] if head else []), *text_ends(tokenizer, config.text, len(tail))]
        passage = Passage([*head, *tail][:size], len(head), len(head) + len(tail), None, ends[:size])
    if len(passage.ids) < 2:
        raise InvalidInput(
            (
                "The text is a single token without a token before it that could predict it."
                if passage.ids
                else "The text has no tokens."
            ),
            remedy="Give a longer text.",
            field="text",
        )
    return passage


def text_ends(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> list[int | None]:
    """Return the end of each token in the text, None for a token that ends inside a character; all None without a fast
    tokenizer.
    """
    if not tokenizer.is_fast:
        return [None] * count
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    spans: list[tuple[int, int]] = encoded["offset_mapping"]
    ends: list[int | None] = [end for _, end in spans]
    for index, (start, _) in enumerate(spans[1:], 1):
        if start < spans[index - 1][1]:
            ends[index - 1] = None
    return ends if len(ends) == count else [None] * count


def scored_bytes(tokenizer: PreTrainedTokenizerBase, passage: Passage, *, vocab_size: int) -> int:
    """Return the number of text bytes of the scored tokens (all but the first). Special tokens have none."""
    return int(count_token_bytes(tokenizer, vocab_size=vocab_size)[passage.ids[1:]].sum())
