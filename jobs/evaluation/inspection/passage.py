"""The tokens that an inspection is about: a text after the begin token, as perplexity scores it, or a conversation as chat renders it."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from backend.domain.checkpoints.inspection_config import MAX_TOKENS, InspectionConfig
from backend.errors import InvalidInput
from jobs.modeling.chat.render import encode_chat
from jobs.modeling.loglikelihood import prefix_token
from jobs.modeling.tokenizers import encode_texts, token_bytes


@dataclass(frozen=True)
class Passage:
    """What the network reads. `num_prefix` tokens at the beginning were put there by nobody's text; `total` counts what was asked for.

    `trained` says for a conversation which tokens are the assistant's; `ends` where each token of a text ends in it, in characters, None
    where the tokenizer does not know.
    """

    ids: list[int]
    num_prefix: int
    total: int
    trained: list[bool] | None
    ends: list[int | None]

    @property
    def is_cut(self) -> bool:
        """Whether the end was left out."""
        return self.total > len(self.ids)


def encode_passage(tokenizer: PreTrainedTokenizerBase, config: InspectionConfig, *, longest: int, limit: int = MAX_TOKENS) -> Passage:
    """Cut an inspection's text or conversation into tokens, at most `limit` and at most what the network reads at once.

    A text's tokens are those of `rolling_nll`: after BOS, else EOS, else nothing. Raises InvalidInput if there is nothing to score.
    """
    size = min(limit, longest)
    if config.messages:
        ids, trained = encode_chat(tokenizer, [message.model_dump() for message in config.messages])
        found = Passage(ids[:size], 0, len(ids), trained[:size], [None] * min(size, len(ids)))
    else:
        prefix = prefix_token(tokenizer)
        head = [] if prefix is None else [prefix]
        tail = encode_texts(tokenizer, [config.text])[0]
        ends = [*([0] if head else []), *text_ends(tokenizer, config.text, len(tail))]
        found = Passage([*head, *tail][:size], len(head), len(head) + len(tail), None, ends[:size])
    if len(found.ids) < 2:
        raise InvalidInput(
            "The text is a single token, and before it nothing stands that could predict it." if found.ids else "The text has no tokens.",
            remedy="Give a longer text.",
            field="text",
        )
    return found


def text_ends(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> list[int | None]:
    """Return where each token ends in the text, None for one that ends inside a letter; all None without a fast tokenizer."""
    if not tokenizer.is_fast:
        return [None] * count
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False)
    spans: list[tuple[int, int]] = encoded["offset_mapping"]
    ends: list[int | None] = [end for _, end in spans]
    for index, (start, _) in enumerate(spans[1:], 1):
        if start < spans[index - 1][1]:
            ends[index - 1] = None
    return ends if len(ends) == count else [None] * count


def scored_bytes(tokenizer: PreTrainedTokenizerBase, passage: Passage, *, vocab_size: int) -> int:
    """Return how many bytes of text the scored tokens (all but the first) stand for. Special tokens stand for none."""
    return int(token_bytes(tokenizer, vocab_size=vocab_size)[passage.ids[1:]].sum())
