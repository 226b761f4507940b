"""Log-likelihoods: of continuations given contexts, and of whole texts. Natural logarithms, fp32 sums.

Continuations follow lm-evaluation-harness 0.4 (`TemplateLM._encode_pair`), so scores compare with published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.architectures.hf_config import CONTEXT_NAMES
from backend.errors import InvalidInput
from jobs.modeling.tokenizers import encode_texts, token_bytes

Progress = Callable[[int, int], bool]
"""Called with (done, total) after each batch; stops early if it returns True."""


Pair = tuple[str, str] | tuple[list[int], list[int]]


@dataclass(frozen=True)
class ContinuationScore:
    """Score of a continuation: its log-probability in nats, its tokens, and whether greedy decoding generates it."""

    sum_logprob: float
    tokens: int
    greedy: bool


@dataclass(frozen=True)
class TextNll:
    """Negative log-likelihood of one text in nats, over `tokens` tokens and `bytes` bytes of UTF-8.

    `windows` are its parts in the order scored; their `bytes` are counted by token.
    """

    sum_nll: float
    tokens: int
    bytes: int
    windows: tuple[TextNll, ...] = ()


@dataclass(frozen=True)
class _Row:
    """A sequence to run, and how many of its last tokens to score."""

    owner: int
    ids: list[int]
    scored: int


def longest_input(model: PreTrainedModel) -> int:
    """Return the network's context in tokens."""
    config = model.config.get_text_config()
    return next((int(length) for name in CONTEXT_NAMES if (length := getattr(config, name, None))), 2048)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the prefix token of a text without context: BOS, else EOS, else none."""
    token: int | None = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return token


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokenise a context and its continuation together, spaces at the context's end moved to the continuation.

    An empty context is the prefix token alone. Raises InvalidInput if there is nothing to score.
    """
    if context == "":
        tail = list(tokenizer.encode(continuation, add_special_tokens=False, verbose=False))
        prefix = prefix_token(tokenizer)
        head = tail[:1] if prefix is None or tail[:1] == [prefix] else [prefix]
        tail = tail[1:] if head == tail[:1] else tail
        return head, tail
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    special = not (tokenizer.bos_token and context.startswith(tokenizer.bos_token))
    ids = list(tokenizer.encode(context + continuation, add_special_tokens=special, verbose=False))
    head = list(tokenizer.encode(context, add_special_tokens=special, verbose=False))
    if not head:  # a context of spaces alone, and no BOS
        prefix = prefix_token(tokenizer)
        return ([prefix], ids) if prefix is not None else (ids[:1], ids[1:])
    return head, ids[len(head) :]


def score_continuations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[ContinuationScore]:
    """Score each (context, continuation); contexts too long for the network lose their beginning.

    A pair is two texts, or the token ids of both (of a conversation, whose tokens only its template knows).
    `batch_tokens` bounds a forward pass. If `progress` stops early the list is still complete: pairs that were not reached have 0 tokens.
    """
    rows = []
    for index, (context, continuation) in enumerate(pairs):
        if isinstance(context, str) and isinstance(continuation, str):
            head, tail = encode_pair(tokenizer, context, continuation)
        else:
            head, tail = [int(i) for i in context], [int(i) for i in continuation]
        if not tail:
            raise InvalidInput(f"Pair {index + 1} has nothing to score: its continuation is empty.", field="continuation")
        ids = (head + tail)[-(longest_input(model) + 1) :]
        rows.append(_Row(index, ids, min(len(tail), len(ids) - 1)))
    scores = [ContinuationScore(0.0, 0, False)] * len(pairs)
    for row, logprob, greedy in _score_rows(model, rows, batch_tokens=batch_tokens, progress=progress):
        scores[row.owner] = ContinuationScore(logprob, row.scored, greedy)
    return scores


def rolling_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window: int | None = None,
    policy: Literal["each_window", "first_window"] = "each_window",
    max_tokens: int | None = None,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[TextNll]:
    """Return the negative log-likelihood of each text, every token scored once.

    `each_window`: consecutive windows of `window` tokens (default: the network's context less one), each after the prefix token alone
    (BOS, else EOS). `first_window`: the prefix stands before the text only, and later windows condition on one earlier token, as
    lm-evaluation-harness does; also used, without a prefix and leaving the first token unscored, where the tokenizer has neither.
    `max_tokens` truncates each text; `bytes` are then those of the decoded tokens.
    """
    prefix = prefix_token(tokenizer)
    longest = longest_input(model)
    rows, totals = [], []
    for index, text in enumerate(texts):
        ids = encode_texts(tokenizer, [text])[0]
        cut = ids[:max_tokens]
        size = len(text.encode()) if len(cut) == len(ids) else len(tokenizer.decode(cut).encode())
        if prefix is not None and policy == "each_window":
            length = min(window or longest - 1, longest)
            rows += [_Row(index, [prefix, *cut[at : at + length]], len(cut[at : at + length])) for at in range(0, len(cut), length)]
        else:
            rows += _overlapping_rows(index, cut if prefix is None else [prefix, *cut], length=min(window or longest, longest))
        totals.append(size)
    scored = {id(row): logprob for row, logprob, _ in _score_rows(model, rows, batch_tokens=batch_tokens, progress=progress)}
    lengths = token_bytes(tokenizer, vocab_size=model.get_input_embeddings().num_embeddings)
    windows: list[list[TextNll]] = [[] for _ in totals]
    for row in rows:
        if id(row) in scored:
            windows[row.owner].append(TextNll(-scored[id(row)], row.scored, int(lengths[row.ids[-row.scored :]].sum())))
    return [
        TextNll(sum(part.sum_nll for part in parts), sum(part.tokens for part in parts), size, tuple(parts))
        for parts, size in zip(windows, totals, strict=True)
    ]


def _overlapping_rows(owner: int, sequence: list[int], *, length: int) -> list[_Row]:
    """Windows of `length` scored tokens, conditioned on what precedes them; the last one overlaps tokens scored before."""
    rows = []
    for at in range(0, len(sequence) - 1, length):
        end = min(at + length + 1, len(sequence))
        rows.append(_Row(owner, sequence[max(0, end - length - 1) : end], end - at - 1))
    return rows


def _score_rows(
    model: PreTrainedModel, rows: list[_Row], *, batch_tokens: int, progress: Progress | None
) -> Iterable[tuple[_Row, float, bool]]:
    """Run rows longest first, so that memory runs out at once if it does; yield each with its sum and greediness."""
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].ids))
    at = 0
    while at < len(order):
        take = max(1, batch_tokens // len(rows[order[at]].ids))
        batch = [rows[index] for index in order[at : at + take]]
        yield from zip(batch, *_score_batch(model, batch), strict=True)
        at += len(batch)
        if progress is not None and progress(at, len(order)):
            return


@torch.inference_mode()
def _score_batch(model: PreTrainedModel, batch: list[_Row]) -> tuple[list[float], list[bool]]:
    """Score one right-padded batch. Under causal attention padding on the right needs no mask."""
    longest = max(len(row.ids) for row in batch) - 1
    inputs = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.full((len(batch), longest), -100, dtype=torch.long)
    for index, row in enumerate(batch):
        last = len(row.ids) - 1
        inputs[index, :last] = torch.tensor(row.ids[:-1])
        targets[index, last - row.scored : last] = torch.tensor(row.ids[last + 1 - row.scored :])
    columns = (targets != -100).any(dim=0).nonzero().flatten()
    targets = targets[:, columns].to(model.device)
    # the head runs on the scored columns only: full logits would take most of the time and nearly all of the memory
    logits = model(input_ids=inputs.to(model.device), use_cache=False, logits_to_keep=columns.to(model.device)).logits.float()
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    scored = targets != -100
    logprobs = torch.where(scored, chosen - logits.logsumexp(-1), 0.0).double().sum(-1)
    greedy = (~scored | (logits.argmax(-1) == targets)).all(-1)
    return logprobs.tolist(), greedy.tolist()
