"""Inspect a text: tokenize it after the begin token, as for perplexity, or a conversation as in chat, load the networks
in turn and collect token losses, attention, logit lens and comparison.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.checkpoints.inspection import (
    MAX_TOKENS,
    NUM_ALTERNATIVES,
    BytesLoss,
    InspectionConfig,
    InspectionFacts,
    InspectionSummary,
    LossSums,
)
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, JobFailed
from jobs.evaluation.inspection.network import Pass, lens_logits, run_network
from jobs.evaluation.inspection.statistics import (
    HeadStatistics,
    TokenStatistics,
    head_statistics,
    lens_statistics,
    pair_statistics,
    token_statistics,
)
from jobs.evaluation.ledger import check_stop
from jobs.modeling.blocks import find_blocks
from jobs.modeling.chat import encode_chat
from jobs.modeling.checkpoints import base_folder_of, inspect_folder, is_adapter, load_network
from jobs.modeling.devices import free_bytes, pick_device
from jobs.modeling.loglikelihood import longest_input, prefix_token
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import count_token_bytes, encode_texts, label_tokens
from jobs.reporter import Reporter


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


def scored_bytes(tokenizer: PreTrainedTokenizerBase, passage: Passage, *, vocab_size: int, text: str) -> int:
    """Return the number of text bytes of the scored tokens (all but the first). Special tokens have none, nor has the
    space that SentencePiece puts before a `text`.
    """
    size = int(count_token_bytes(tokenizer, vocab_size=vocab_size)[passage.ids[1:]].sum())
    end = passage.ends[-1]
    return size if end is None else min(size, len(text[:end].encode()))


Arrays = dict[str, npt.NDArray[Any]]
ATTENTION_VALUES = 20_000_000
"""Attention weights stored, over all layers and heads. A map of fewer tokens is exact under a causal mask."""


@dataclass(frozen=True)
class _Subject:
    """A loaded network with its tokenizer."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def vocab_size(self) -> int:
        return int(self.network.get_input_embeddings().num_embeddings)


class TextInspection:
    """One inspection; `read` runs it. Holds at most one network in memory."""

    def __init__(self, config: InspectionConfig, reporter: Reporter) -> None:
        self._config, self._reporter = config, reporter
        self._numbers: Arrays = {}
        self._words: dict[str, object] = {}
        self._summary: InspectionSummary = {}
        self._done, self._total = 0, 4
        self._started = time.monotonic()

    def read(self, folder: Path, other: Path | None) -> tuple[InspectionSummary, Arrays, dict[str, object]]:
        """Return (summary, numbers, words). Raises InvalidInput for a text that can't be read, JobFailed for a network
        that can't.
        """
        self._step("Loading the model")
        subject = self._load(folder)
        passage = encode_passage(subject.tokenizer, self._config, longest=longest_input(subject.network))
        self._total += len(find_blocks(subject.network)) + 1 + (3 if other is not None else 0)
        self._step("Running the model")
        forward = run_network(subject.network, passage.ids)
        tokens = token_statistics(forward.logits, passage.ids)
        self._summary["loss"] = self._loss(subject, passage, tokens)
        self._numbers |= {
            "ids": np.array(passage.ids),
            "trained": np.array(passage.trained or [], dtype=bool),
            **_token_arrays(tokens),
        }
        self._add_attention(forward)
        self._add_lens(subject, passage, forward)
        self._summary["facts"] = self._facts(subject, passage)
        labelled_ids = {
            *passage.ids,
            *tokens.top_ids.flatten().tolist(),
            *self._numbers.get("lens_ids", np.array([], dtype=int)).flatten().tolist(),
        }
        tokenizer = subject.tokenizer
        del subject
        if other is not None:
            gc.collect()  # make room for the second network
            labelled_ids |= self._add_pair(other, passage, forward.logits, tokens, tokenizer)
        order = sorted(labelled_ids)
        self._words["labels"] = dict(zip(map(str, order), label_tokens(tokenizer, order), strict=True))
        self._summary["facts"]["seconds"] = round(time.monotonic() - self._started, 2)
        self._step("Storing the results")
        return self._summary, self._numbers, self._words

    def _step(self, message: str) -> None:
        check_stop(self._reporter)
        self._reporter.progress(self._done, self._total, unit="steps", message=message)
        self._done += 1

    def _load(self, folder: Path) -> _Subject:
        device = pick_device()
        tokenizer = load_tokenizer(folder)
        return _Subject(
            load_network(folder, device=device, dtype=pick_inspection_dtype(folder, device=device)), tokenizer
        )

    def _facts(self, subject: _Subject, passage: Passage) -> InspectionFacts:
        special = set(subject.tokenizer.all_special_ids)
        return {
            "what": "text",
            "tokens": len(passage.ids),
            "total_tokens": passage.total,
            "cut": passage.is_cut,
            "prefix": passage.num_prefix,
            "special": [index for index, token in enumerate(passage.ids) if token in special],
            "family": subject.network.config.model_type,
            "layers": len(find_blocks(subject.network)),
            "number_format": str(subject.network.dtype).removeprefix("torch."),
            "device": subject.network.device.type,
        }

    def _loss(self, subject: _Subject, passage: Passage, tokens: TokenStatistics) -> LossSums:
        num_bytes = scored_bytes(subject.tokenizer, passage, vocab_size=subject.vocab_size, text=self._config.text)
        summed = sum_up(tokens.surprisal, num_bytes=num_bytes)
        if passage.trained is not None and any(passage.trained[1:]):
            answers = np.where(passage.trained, tokens.surprisal, np.nan)
            summed["answers"] = sum_up(answers, num_bytes=0)
        return summed

    def _add_attention(self, forward: Pass) -> None:
        if not forward.attention:
            self._summary["attention"] = {"layers": 0, "reason": forward.no_attention}
            return
        heads = sum(one.shape[0] for one in forward.attention)
        size = min(len(forward.logits), math.isqrt(ATTENTION_VALUES // heads))
        summary = head_statistics(forward.attention)
        self._numbers |= _head_arrays(summary)
        for layer, maps in enumerate(forward.attention):
            self._numbers[f"attention_{layer}"] = maps[:, :size, :size].numpy()
        self._summary["attention"] = {
            "layers": len(forward.attention),
            "heads": [one.shape[0] for one in forward.attention],
            "tokens": size,
            "row_error": summary.row_error,
            "reason": "",
        }

    def _add_lens(self, subject: _Subject, passage: Passage, forward: Pass) -> None:
        if not forward.states:
            self._summary["lens"] = {
                "depths": 0,
                "reason": "The layers of this family are not one list of blocks, so the lens can't skip any.",
            }
            return

        def depths() -> Any:
            for number, logits in enumerate(lens_logits(subject.network, passage.ids, forward)):
                self._step(f"Logit lens, layer {number} of {len(forward.states) - 1}")
                yield logits

        lens = lens_statistics(forward.logits, depths(), passage.ids)
        self._numbers |= {
            "lens_ids": lens.top_ids,
            "lens_p": lens.top_p,
            "lens_kl": lens.kl,
            "lens_next_p": lens.next_p,
        }
        self._summary["lens"] = {"depths": len(lens.kl), "error": lens.error, "reason": ""}

    def _add_pair(
        self,
        folder: Path,
        passage: Passage,
        logits: Tensor,
        tokens: TokenStatistics,
        tokenizer: PreTrainedTokenizerBase,
    ) -> set[int]:
        """Run the second network on the same tokens; return the token ids that need a label."""
        self._step("Loading the second model")
        other = self._load(folder)
        reason = why_not_same_vocabulary(tokenizer, other.tokenizer)
        if reason:
            self._add_aligned(other, passage, tokens, reason)
            return set()
        if len(passage.ids) > longest_input(other.network):
            raise InvalidInput(
                f"The text has {len(passage.ids)} tokens, and the context of the second model holds"
                f" {longest_input(other.network)}.",
                remedy="Give a shorter text.",
                field="text",
            )
        self._step("Running the second model")
        beside = run_network(other.network, passage.ids, attention=False, states=False).logits
        numbers, theirs = pair_statistics(logits, beside), token_statistics(beside, passage.ids)
        self._numbers |= {
            "kl_pq": numbers.kl_pq,
            "kl_qp": numbers.kl_qp,
            "agree": numbers.agree,
            **_token_arrays(theirs, prefix="other_"),
        }
        num_bytes = scored_bytes(other.tokenizer, passage, vocab_size=other.vocab_size, text=self._config.text)
        self._summary["pair"] = {
            "same_vocabulary": True,
            "mean_kl_pq": _mean(numbers.kl_pq),
            "mean_kl_qp": _mean(numbers.kl_qp),
            "agreement": float(numbers.agree.mean()),
            "other_loss": sum_up(theirs.surprisal, num_bytes=num_bytes),
            "shared_rows": min(logits.shape[-1], beside.shape[-1]) if logits.shape[-1] != beside.shape[-1] else None,
        }
        return set(theirs.top_ids.flatten().tolist())

    def _add_aligned(self, other: _Subject, passage: Passage, tokens: TokenStatistics, reason: str) -> None:
        """Compare losses over the text that both score, because tokens can't be matched."""
        if self._config.messages:
            raise InvalidInput(
                f"The two checkpoints can't be compared on a conversation: {reason}, and each renders it in its own"
                " way.",
                remedy="Compare them on a text; loss per byte can be compared between vocabularies.",
                field="against",
            )
        theirs = encode_passage(other.tokenizer, self._config, longest=longest_input(other.network))
        self._step("Running the second model")
        numbers = token_statistics(
            run_network(other.network, theirs.ids, attention=False, states=False).logits, theirs.ids
        )
        text = self._config.text
        spans = align_losses(
            passage, theirs, tokens.surprisal.tolist(), numbers.surprisal.tolist(), num_characters=len(text)
        )
        start, end = spans[0].start, spans[-1].end
        num_bytes = len(text[start:end].encode())
        self._words["spans"] = [text[span.start : span.end] for span in spans]
        self._numbers |= {
            "span_first": np.array([span.first for span in spans]),
            "span_other": np.array([span.other for span in spans]),
        }
        self._summary["pair"] = {
            "same_vocabulary": False,
            "reason": reason,
            "bytes": num_bytes,
            "first": _per_byte(sum(span.first for span in spans), num_bytes),
            "other": _per_byte(sum(span.other for span in spans), num_bytes),
            "characters": [start, end],
            "other_tokens": len(theirs.ids),
        }


def pick_inspection_dtype(folder: Path, *, device: torch.device) -> torch.dtype:
    """Return fp32 if the network fits, else bf16. Raises JobFailed if neither fits, before memory runs out."""
    described = inspect_folder(base_folder_of(folder) if is_adapter(folder) else folder)
    on_gpu = free_bytes(device)
    free = psutil.virtual_memory().available if on_gpu is None else on_gpu
    values = described.parameters or 0
    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        if values * width < 0.85 * free:
            return dtype
    raise JobFailed(
        f"The model needs {format_bytes(2 * values)} of memory, and {format_bytes(free)} are free.",
        remedy="Inspect its weights: that loads no model.",
    )


def sum_up(surprisal: npt.NDArray[Any], *, num_bytes: int) -> LossSums:
    """Summarise token losses (nats, NaN if not scored): sum, mean, perplexity, bits per byte."""
    scored = surprisal[~np.isnan(surprisal)].astype(np.float64)
    total = float(scored.sum())
    mean = total / max(1, len(scored))
    return {
        "tokens": len(scored),
        "bytes": num_bytes,
        "sum_nats": total,
        "mean_nats": mean,
        "mean_bits": mean / math.log(2),
        "perplexity": math.exp(min(mean, 700.0)),
        "bits_per_byte": total / math.log(2) / num_bytes if num_bytes else None,
    }


def _mean(values: npt.NDArray[Any]) -> float | None:
    """Return the mean, or None where it is infinite: one network rules out a token that the other allows."""
    mean = float(values.mean(dtype=np.float64))
    return mean if math.isfinite(mean) else None


def _per_byte(nats: float, num_bytes: int) -> BytesLoss:
    return {"sum_nats": nats, "bits_per_byte": nats / math.log(2) / max(1, num_bytes)}


def _token_arrays(tokens: TokenStatistics, *, prefix: str = "") -> Arrays:
    return {
        f"{prefix}surprisal": tokens.surprisal,
        f"{prefix}rank": tokens.rank,
        f"{prefix}entropy": tokens.entropy,
        f"{prefix}top_ids": tokens.top_ids[:, :NUM_ALTERNATIVES],
        f"{prefix}top_p": tokens.top_p[:, :NUM_ALTERNATIVES],
    }


def _head_arrays(heads: HeadStatistics) -> Arrays:
    return {f"head_{name}": getattr(heads, name) for name in ("distance", "entropy", "first", "previous", "self_share")}


@dataclass(frozen=True)
class TextSpan:
    """A span of text between two positions where both tokenizers end a token, with each network's loss in nats."""

    start: int
    end: int
    first: float
    other: float


def why_not_same_vocabulary(first: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """Return the reason why two tokenizers' tokens can't be matched; empty if their vocabularies are equal."""
    left, right = first.get_vocab(), other.get_vocab()
    if left == right:
        return ""
    if len(left) != len(right):
        return f"the vocabularies differ: {len(left):,} tokens and {len(right):,}"
    unlike = sum(1 for token, index in left.items() if right.get(token) != index)
    return f"the vocabularies differ: {unlike:,} of {len(left):,} tokens are not the same"


def align_losses(
    first: Passage, other: Passage, first_nats: Sequence[float], other_nats: Sequence[float], *, num_characters: int
) -> list[TextSpan]:
    """Split a text where both passages end a token, and sum each one's token losses (nats; NaN if not scored) per span.

    Covers only text that both score. Raises InvalidInput if there is none, or if a tokenizer has no character offsets.
    """
    places = [_places(first, num_characters), _places(other, num_characters)]
    # a passage's first token is not scored, so its own end is the earliest place from which it can be counted
    start = max(next(iter(places[0]), num_characters), next(iter(places[1]), num_characters))
    shared = sorted(place for place in places[0].keys() & places[1].keys() if place >= start)
    if len(shared) < 2:
        raise InvalidInput(
            "The two tokenizers never end a token at the same position, so their losses can't be compared.",
            remedy="Give a longer text, or compare models that share a tokenizer.",
            field="text",
        )
    sums = [_running(first_nats), _running(other_nats)]
    return [
        TextSpan(
            left,
            right,
            *(total[place[right] + 1] - total[place[left] + 1] for total, place in zip(sums, places, strict=True)),
        )
        for left, right in pairwise(shared)
    ]


def _places(passage: Passage, num_characters: int) -> dict[int, int]:
    """Map each place in the text where a token ends to the last token that ends there, from the first token on."""
    return {end: index for index, end in enumerate(passage.ends) if end is not None and end <= num_characters}


def _running(nats: Sequence[float]) -> list[float]:
    """Return sums of the first k losses, k = 0, 1, ...; what is not scored counts nothing."""
    total, sums = 0.0, [0.0]
    for value in nats:
        total += value if value == value else 0.0  # NaN differs from itself
        sums.append(total)
    return sums
