"""The held-out rows with the highest losses of a validation, and what the network gives for them.

Their losses come from the validation's own forward pass; only the answers cost time, and their number, their length and
their time are limited.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peft
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.domain.training.config import RunConfig
from backend.domain.training.held_out import FILE, HeldOutRow, HeldOutRows, Measure
from backend.domain.training.objectives import Rows
from jobs.batches.base import IGNORE, MicroBatch
from jobs.batches.preference import PairBatch, RatedBatch, ScoredBatch
from jobs.modeling.chat import turn_end
from jobs.modeling.devices import release_gpu_cache
from jobs.modeling.tokenizers import padding_id
from jobs.modeling.unusable import one_line

MOST = 12
ANSWER_TOKENS, PROMPT_TOKENS = 48, 512
ANSWERS_S = 20.0
"""Seconds after which answers are cut off where they are."""
MAX_CHARACTERS = 4_000


@dataclass(frozen=True)
class HeldOutIds:
    """A row as token ids, or as text without ids. `given` is a completion that validation itself sampled."""

    prompt: list[int]
    expected: list[int] | str
    rejected: list[int] | None = None
    is_good: bool | None = None
    given: str | None = None
    tokens: int = 0


@dataclass
class WorstRows:
    """The rows of a validation with the highest losses."""

    most: int = MOST
    num_rows: int = 0
    total: float = 0.0
    _heap: list[tuple[float, int, HeldOutIds]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def offer(self, loss: float, ids: Callable[[], HeldOutIds]) -> None:
        """Count a row, and keep it if it is among the worst so far. One that is not finite is the worst of all."""
        self.num_rows += 1
        self.total += loss
        rank = math.inf if math.isnan(loss) else loss
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, (rank, -next(self._order), ids()))
        elif rank > self._heap[0][0]:
            heapq.heapreplace(self._heap, (rank, -next(self._order), ids()))

    def ranked(self) -> list[tuple[float, HeldOutIds]]:
        """Return (loss, row), highest loss first."""
        return [(loss, ids) for loss, _, ids in sorted(self._heap, key=lambda one: one[:2], reverse=True)]


def offer_tokens(worst: WorstRows, batch: MicroBatch, nll: torch.Tensor) -> None:
    """Offer the rows of a batch by their mean loss over trained tokens; `nll` is by target, at its columns."""
    targets = batch.targets.numpy()
    losses = np.zeros(targets.shape)
    losses[:, slice(None) if batch.columns is None else batch.columns.numpy()] = nll.view(len(targets), -1).numpy()
    ends = None if batch.row_ends is None else batch.row_ends.tolist()
    spans = (
        [(row, 0, targets.shape[1]) for row in range(len(targets))]
        if ends is None
        else [(0, begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    )
    for row, begin, end in spans:
        own, trained = losses[row, begin:end], targets[row, begin:end] != IGNORE
        if trained.any():
            worst.offer(
                float(own[trained].mean()),
                partial(_ids_of_tokens, batch.inputs[row, begin:end], batch.targets[row, begin:end], own),
            )


def _ids_of_tokens(inputs: torch.Tensor, targets: torch.Tensor, losses: npt.NDArray[np.float64]) -> HeldOutIds:
    """Return a row with its worst answer as what was expected; of running text, its second half."""
    trained = np.flatnonzero(targets.numpy() != IGNORE)
    answers = np.split(trained, np.flatnonzero(np.diff(trained) > 1) + 1)
    places = max(answers, key=lambda answer: float(losses[answer].mean()))
    if places[0] == 0 and len(places) > 1:
        places = places[len(places) // 2 :]
    return HeldOutIds(inputs[: int(places[0]) + 1].tolist(), targets[places].tolist(), tokens=len(trained))


def ids_of_item(batch: PairBatch | RatedBatch | ScoredBatch, index: int) -> HeldOutIds:
    """Return a pair, or a rated answer, of a batch."""
    if isinstance(batch, ScoredBatch):
        chosen, rejected = batch.inputs[index].tolist(), batch.inputs[index + batch.units].tolist()
        shared = next(
            (place for place, (one, other) in enumerate(zip(chosen, rejected, strict=True)) if one != other),
            len(chosen),
        )
        return HeldOutIds(chosen[:shared], chosen[shared:], rejected[shared:])
    if isinstance(batch, PairBatch):
        starts = batch.starts.tolist()
        prompt, chosen = _answer(batch, index, starts[index])
        return HeldOutIds(prompt, chosen, _answer(batch, index + batch.units, starts[index + batch.units])[1])
    start = int((batch.targets[index] != IGNORE).nonzero()[0, 0])
    prompt, answer = _answer(batch, index, start)
    return HeldOutIds(prompt, answer, is_good=bool(batch.desirable[index]))


def _answer(batch: PairBatch | RatedBatch, row: int, start: int) -> tuple[list[int], list[int]]:
    answer = batch.targets[row, start:]
    return batch.inputs[row, : start + 1].tolist(), answer[answer != IGNORE].tolist()


_MEASURES: dict[Rows, Measure] = {
    "text": "tokens",
    "conversations": "tokens",
    "pairs": "pair",
    "ratings": "answer",
    "prompts": "reward",
}


def write_held_out(
    worst: WorstRows,
    folder: Path,
    *,
    step: int,
    config: RunConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    log: Callable[[str], None],
) -> None:
    """Write the worst rows into a run's folder, with what the network gives for their prompts where a `model` in
    evaluation mode is passed. Answers that fail are left out and logged: they never end a run.
    """
    ranked = worst.ranked()
    prompts = [ids.prompt for _, ids in ranked if ids.given is None] if model is not None else []
    answers: Iterator[str] = iter(())
    if prompts:
        try:
            answers = iter(_answers(model, tokenizer, prompts, context=config.context))
        except Exception as error:  # memory that training left, an architecture that does not generate in batches
            log(f"The held-out rows are shown without answers: {type(error).__name__}: {one_line(error)}")
            release_gpu_cache()
    rows = []
    for loss, ids in ranked:
        given = ids.given if ids.given is not None else next(answers, None)
        expected = ids.expected if isinstance(ids.expected, str) else _text(tokenizer, ids.expected)
        rows.append(
            HeldOutRow(
                loss=loss,
                tokens=ids.tokens,
                prompt=str(tokenizer.decode(ids.prompt))[-MAX_CHARACTERS:],
                expected=expected[:MAX_CHARACTERS],
                rejected=None if ids.rejected is None else _text(tokenizer, ids.rejected)[:MAX_CHARACTERS],
                is_good=ids.is_good,
                given=None if given is None else given[:MAX_CHARACTERS],
            )
        )
    record = HeldOutRows(
        step=step,
        measure=_MEASURES[config.objective.facts.rows],
        num_rows=worst.num_rows,
        mean_loss=worst.total / worst.num_rows,
        rows=tuple(rows),
    )
    partial_file = folder / f"{FILE}.partial"
    partial_file.write_text(record.model_dump_json())
    os.replace(partial_file, folder / FILE)


@torch.inference_mode()
def _answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], *, context: int
) -> list[str]:
    """Return the likeliest answer to each prompt, all in one batch, so that twelve cost little more than one."""
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    new = min(ANSWER_TOKENS, max(1, context // 2))
    prompts = [prompt[-min(context - new, PROMPT_TOKENS) :] for prompt in prompts]
    longest = max(map(len, prompts))
    pad_id = padding_id(tokenizer)
    ends = {token for token in (tokenizer.eos_token_id, turn_end(tokenizer)) if token is not None}
    inputs = torch.tensor([[pad_id] * (longest - len(prompt)) + prompt for prompt in prompts], device=network.device)
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=network.device
    )
    own = network.generation_config  # which checkpoints save
    network.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=new,
        max_time=ANSWERS_S,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad_id,
        use_cache=True,
    )
    try:
        output = network.generate(inputs, attention_mask=mask, generation_config=network.generation_config)
    finally:
        network.generation_config = own
    texts = []
    for row in output[:, longest:].tolist():
        length = next((place for place, token in enumerate(row) if token in ends), len(row))
        texts.append(_text(tokenizer, row[:length]))
    return texts


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
