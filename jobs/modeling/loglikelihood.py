"""Log-likelihoods: of continuations given contexts, and of whole texts. Natural logarithms, fp32 sums.

Continuations follow lm-evaluation-harness 0.4 (`TemplateLM._encode_pair`), so scores compare with published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.architectures.hf_config import CONTEXT_NAMES
from backend.errors import InvalidInput
from jobs.modeling.scores import ContinuationScore, Pair, TextNll
from jobs.modeling.tokenizers import count_token_bytes, encode_texts

Progress = Callable[[int, int], bool]
"""Called with (done, total) after each batch; stops early if it returns True."""


@dataclass(frozen=True, eq=False)
class ScoredSequence:
    """Token ids to run, and how many of the last ones to score. `owner` is the index of its pair or text."""

    owner: int
    ids: npt.NDArray[np.int32]
    scored: int
    cut: int = 0


def longest_input(model: PreTrainedModel) -> int:
    """Return the network's context in tokens."""
    return context_of_config(model.config)


def context_of_config(config: PretrainedConfig) -> int:
    """Return the context in tokens that a network's config states."""
    text = config.get_text_config()
    return next((int(length) for name in CONTEXT_NAMES if (length := getattr(text, name, None))), 2048)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the prefix token of a text without context: BOS, else EOS, else none."""
    token: int | None = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return token


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Tokenise each context and its continuation together, each text once; spaces at the context's end are moved to
    the continuation. An empty context is the prefix token alone. A continuation without a token of its own has none.
    """
    moved = [
        _move_spaces(context, continuation) if context else (context, continuation) for context, continuation in pairs
    ]
    plain = {continuation for context, continuation in moved if not context}
    bos = tokenizer.bos_token
    begun = {
        text
        for context, rest in moved
        if context and bos and context.startswith(bos)
        for text in (context, context + rest)
    }
    usual = {text for context, rest in moved if context for text in (context, context + rest)} - begun
    bare, special = _encode_all(tokenizer, plain | begun, special=False), _encode_all(tokenizer, usual, special=True)
    encoded = []
    for context, rest in moved:
        if not context:
            encoded.append(_after_prefix(tokenizer, bare[rest]))
            continue
        table = bare if context in begun else special
        head, ids = table[context], table[context + rest]
        encoded.append((head, ids[len(head) :]) if head else _after_prefix(tokenizer, ids))  # spaces alone, and no BOS
    return encoded


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if bare != context else (context, continuation)


def _encode_all(tokenizer: PreTrainedTokenizerBase, texts: set[str], *, special: bool) -> dict[str, list[int]]:
    listed = list(texts)
    if not listed:
        return {}
    ids = tokenizer(listed, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    return dict(zip(listed, ids, strict=True))


def _after_prefix(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> tuple[list[int], list[int]]:
    prefix = prefix_token(tokenizer)
    return (ids[:1], ids[1:]) if prefix is None or ids[:1] == [prefix] else ([prefix], ids)


def plan_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], *, longest: int) -> list[ScoredSequence]:
    """Return the sequence of each pair, cut at its beginning to `longest` inputs. Raises InvalidInput without one."""
    texts = [pair for pair in pairs if isinstance(pair[0], str)]
    encoded = iter(encode_pairs(tokenizer, texts) if texts else ())
    rows = []
    for index, pair in enumerate(pairs):
        head, tail = next(encoded) if isinstance(pair[0], str) else pair
        if not tail:
            raise InvalidInput(
                f"Pair {index + 1} has nothing to score: its continuation is empty.", field="continuation"
            )
        ids = np.array([*head, *tail], dtype=np.int32)
        last = ids[-(longest + 1) :]
        rows.append(ScoredSequence(index, last, min(len(tail), len(last) - 1), cut=len(ids) - len(last)))
    return rows


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
    `batch_tokens` bounds a forward pass. If `progress` stops early the list is still complete: pairs that were not
    reached have 0 tokens.
    """
    rows = plan_pairs(tokenizer, pairs, longest=longest_input(model))
    scores = [ContinuationScore(0.0, 0, False)] * len(pairs)
    for row, logprob, greedy in _score_rows(model, rows, batch_tokens=batch_tokens, progress=progress):
        scores[row.owner] = ContinuationScore(logprob, row.scored, greedy, row.cut)
    return scores


def rolling_nll(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    window: int | None = None,
    policy: Literal["each_window", "first_window"] = "each_window",
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> list[TextNll]:
    """Return the negative log-likelihood of each text, every token scored once.

    `each_window`: consecutive windows of `window` tokens (default: the network's context less one), each after the
    prefix token alone (BOS, else EOS). `first_window`: the prefix stands before the text only, and later windows
    condition on one earlier token, as lm-evaluation-harness does; also used, without a prefix and leaving the first
    token unscored, where the tokenizer has neither.
    """
    rows, sizes = plan_windows(tokenizer, texts, longest=longest_input(model), window=window, policy=policy)
    scored = {
        id(row): logprob for row, logprob, _ in _score_rows(model, rows, batch_tokens=batch_tokens, progress=progress)
    }
    lengths = count_token_bytes(tokenizer, vocab_size=model.get_input_embeddings().num_embeddings)
    windows: list[list[TextNll]] = [[] for _ in sizes]
    for row in rows:
        if id(row) in scored:
            windows[row.owner].append(window_nll(row, scored[id(row)], lengths))
    return [sum_windows(parts, size) for parts, size in zip(windows, sizes, strict=True)]


def plan_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    longest: int,
    window: int | None = None,
    policy: Literal["each_window", "first_window"] = "each_window",
) -> tuple[list[ScoredSequence], list[int]]:
    """Return the windows of texts in order, and the bytes of each text; see `rolling_nll`."""
    prefix = prefix_token(tokenizer)
    rows, sizes = [], []
    for index, text in enumerate(texts):
        ids = encode_texts(tokenizer, [text])[0]
        sizes.append(len(text.encode()))
        if prefix is not None and policy == "each_window":
            length = min(window or longest - 1, longest)
            parts = [ids[at : at + length] for at in range(0, len(ids), length)]
            rows += [ScoredSequence(index, np.array([prefix, *part], dtype=np.int32), len(part)) for part in parts]
        else:
            rows += _overlapping_rows(
                index, ids if prefix is None else [prefix, *ids], length=min(window or longest, longest)
            )
    return rows, sizes


def window_nll(row: ScoredSequence, logprob: float, lengths: npt.NDArray[np.int32]) -> TextNll:
    """Return a window's negative log-likelihood; `lengths` are the bytes of each token (see `count_token_bytes`)."""
    return TextNll(-logprob, row.scored, int(lengths[row.ids[-row.scored :]].sum()))


def sum_windows(windows: Sequence[TextNll], size: int) -> TextNll:
    """Return the negative log-likelihood of a text of `size` bytes from that of its windows."""
    return TextNll(sum(part.sum_nll for part in windows), sum(part.tokens for part in windows), size, tuple(windows))


def _overlapping_rows(owner: int, sequence: list[int], *, length: int) -> list[ScoredSequence]:
    """Windows of `length` scored tokens, conditioned on what precedes them; the last overlaps scored ones."""
    rows = []
    for at in range(0, len(sequence) - 1, length):
        end = min(at + length + 1, len(sequence))
        ids = np.array(sequence[max(0, end - length - 1) : end], dtype=np.int32)
        rows.append(ScoredSequence(owner, ids, end - at - 1))
    return rows


def _score_rows(
    model: PreTrainedModel, rows: list[ScoredSequence], *, batch_tokens: int, progress: Progress | None
) -> Iterable[tuple[ScoredSequence, float, bool]]:
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
def _score_batch(model: PreTrainedModel, batch: list[ScoredSequence]) -> tuple[list[float], list[bool]]:
    """Score one right-padded batch. Under causal attention padding on the right needs no mask."""
    longest = max(len(row.ids) for row in batch) - 1
    inputs = torch.zeros(len(batch), longest, dtype=torch.long)
    targets = torch.full((len(batch), longest), -100, dtype=torch.long)
    for index, row in enumerate(batch):
        last = len(row.ids) - 1
        inputs[index, :last] = torch.from_numpy(row.ids[:-1])
        targets[index, last - row.scored : last] = torch.from_numpy(row.ids[last + 1 - row.scored :])
    columns = (targets != -100).any(dim=0).nonzero().flatten()
    targets = targets[:, columns].to(model.device)
    # the head runs on the scored columns only: full logits would take most of the time and nearly all of the memory
    logits = model(
        input_ids=inputs.to(model.device), use_cache=False, logits_to_keep=columns.to(model.device)
    ).logits.float()
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    scored = targets != -100
    logprobs = torch.where(scored, chosen - logits.logsumexp(-1), 0.0).double().sum(-1)
    greedy = (~scored | (logits.argmax(-1) == targets)).all(-1)
    return logprobs.tolist(), greedy.tolist()
