"""The parts of an inspection's results that its row holds; arrays and texts lie in its folder."""

from __future__ import annotations

from typing_extensions import TypedDict


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
