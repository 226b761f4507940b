"""An inspection of a text (losses, attention, logit lens, perhaps of two checkpoints) or of the weights: its config,
and the parts of its results that its row holds; arrays and texts lie in its folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from typing_extensions import TypedDict

from backend.domain.validation import is_stored

if TYPE_CHECKING:  # a worker imports this module, and numpy no more than another numeric library
    import numpy as np
    import numpy.typing as npt

INSPECTION_VERSION = 2
"""Bumped whenever an inspection's numbers or files change, so that stale results are not reused."""
MAX_TOKENS = 256
"""Tokens of a text that are analyzed, the begin token included."""
MAX_CHARACTERS = 20_000
NUM_ALTERNATIVES = 10


class InspectedMessage(BaseModel):
    """One message of a conversation, rendered with the checkpoint's chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"] = "user"
    content: str = Field(max_length=MAX_CHARACTERS)


class InspectionConfig(BaseModel):
    """Input of an inspection: a raw text, a conversation, or (neither given) the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(default="", max_length=MAX_CHARACTERS, description="Raw text, after the begin token.")
    messages: tuple[InspectedMessage, ...] = Field(
        default=(), max_length=64, description="Conversation, rendered with the chat template."
    )

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if self.text and self.messages:
            raise ValueError("give a text or a conversation, not both")
        if any("\x00" in part for part in (self.text, *(message.content for message in self.messages))):
            raise ValueError("the text holds a NUL character, which can't be stored")
        return self

    @property
    def of_text(self) -> bool:
        """Return whether a text or a conversation is inspected, rather than the weights."""
        return bool(self.text or self.messages)


def inspection_fingerprint(config: InspectionConfig, *, subject: str, other: str | None) -> str:
    """Return the SHA-256 that equal requests share. `subject` and `other` identify the weights."""
    request = {"version": INSPECTION_VERSION, "subject": subject, "other": other, **config.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class TensorStatistics:
    """Statistics of one tensor's values.

    `layer` is None outside the layers. `rms`, `mean`, `largest` (absolute) are of its finite values; `zeros` and
    `beyond` are shares: of exact zeros, and of values beyond the histogram `counts`. `spectral` is the largest singular
    value of a matrix that is not too large. `row_peak` and `column_peak` are the ratio of the largest row or column
    norm to the median, and its index.
    """

    name: str
    layer: int | None
    part: str
    shape: tuple[int, ...]
    dtype: str
    values: int
    mean: float
    rms: float
    largest: float
    zeros: float
    beyond: float
    not_finite: int
    spectral: float | None
    row_peak: tuple[float, int] | None
    column_peak: tuple[float, int] | None
    counts: npt.NDArray[np.int64]


TENSOR_ARRAYS = ("values", "mean", "rms", "largest", "zeros", "beyond", "spectral", "counts")
"""Fields of all tensors that are stored as arrays, the others as texts."""


@dataclass(frozen=True)
class TensorChange:
    """Change of one tensor between two checkpoints: ||b - a|| / ||a||, cosine, and the norms."""

    name: str
    layer: int | None
    relative: float
    cosine: float
    norm_a: float
    norm_change: float


CHANGE_ARRAYS = ("relative", "cosine", "norm_a", "norm_change")


class LossSums(TypedDict, total=False):
    """Losses of tokens: sum, mean, perplexity, bits per byte (None without bytes). `answers`: trained ones."""

    tokens: int
    bytes: int
    sum_nats: float
    mean_nats: float
    mean_bits: float
    perplexity: float
    bits_per_byte: float | None
    answers: LossSums


class InspectionFacts(TypedDict, total=False):
    """Facts of the subject: a text (`tokens` to `seconds`) or the weights (`tensors` is their number)."""

    what: str
    tokens: int
    total_tokens: int
    cut: bool
    prefix: int
    special: list[int]
    family: str
    layers: int
    number_format: str
    device: str
    seconds: float
    tensors: int
    values: int
    merged: bool


class AttentionSummary(TypedDict, total=False):
    """Attention maps by layer; `reason` says why there are none."""

    layers: int
    heads: list[int]
    tokens: int
    row_error: float
    reason: str


class LensSummary(TypedDict, total=False):
    """The logit lens; `reason` says why there is none."""

    depths: int
    error: float
    reason: str


class BytesLoss(TypedDict, total=False):
    """Loss over a text that networks of two vocabularies both score."""

    sum_nats: float
    bits_per_byte: float


class PairSummary(TypedDict, total=False):
    """Comparison of two networks: by token with the same vocabulary (`mean_kl_pq` to `shared_rows`), else by byte, for
    the `reason`. A mean is None where it is infinite.
    """

    same_vocabulary: bool
    mean_kl_pq: float | None
    mean_kl_qp: float | None
    agreement: float
    other_loss: LossSums
    shared_rows: int | None
    reason: str
    bytes: int
    first: BytesLoss
    other: BytesLoss
    characters: list[int]
    other_tokens: int


class ChangeSummary(TypedDict, total=False):
    """Change of the weights between two checkpoints: tensors compared, equal, and without a counterpart."""

    compared: int
    equal: int
    relative: float | None
    only_first: int
    only_other: int
    unlike: int


class InspectionSummary(TypedDict, total=False):
    """Parts that an inspection has: of a text facts, loss, attention, lens and perhaps pair, of weights facts, outliers
    and perhaps changes.
    """

    facts: InspectionFacts
    loss: LossSums
    attention: AttentionSummary
    lens: LensSummary
    pair: PairSummary
    outliers: int
    changes: ChangeSummary
