"""Read the results in an inspection's folder: arrays and texts, without pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import NotFound
from backend.services.checkpoints.inspections import NUMBERS, WORDS, InspectionView
from backend.services.context import Context

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Alternative:
    """A candidate token at a position."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class TokenLine:
    """One token of the text. `surprisal` (nats) and `rank` are None for the first, which is not predicted.

    `expected` are the network's predictions at this position, most likely first; `special` marks a special token.
    """

    position: int
    id: int
    text: str
    special: bool
    trained: bool | None
    surprisal: float | None
    rank: int | None
    expected: tuple[Alternative, ...]

    @property
    def bits(self) -> float | None:
        """The surprisal in bits."""
        return None if self.surprisal is None else self.surprisal / math.log(2)


@dataclass(frozen=True)
class TensorLine:
    """Statistics of one tensor, as `TensorStatistics` of the job; `counts` is its histogram."""

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
    counts: Array


@dataclass(frozen=True)
class ChangeLine:
    """Change of one tensor between two checkpoints: ||b - a|| / ||a||, cosine, and the norms."""

    name: str
    layer: int | None
    relative: float
    cosine: float
    norm_a: float
    norm_change: float


class InspectionResults:
    """Results of a finished inspection; arrays are read on access. Raises NotFound if the files were deleted."""

    def __init__(self, ctx: Context, inspection: InspectionView) -> None:
        self.inspection = inspection
        folder = ctx.artifacts.path(inspection.folder or f"inspections/{inspection.id}")
        self._arrays = folder / NUMBERS
        if not self._arrays.is_file() or not (folder / WORDS).is_file():
            raise NotFound("The files of this inspection were deleted.", remedy="Analyze the text again.")
        self._metadata: dict[str, Any] = json.loads((folder / WORDS).read_text(encoding="utf-8"))

    def array(self, name: str) -> Array:
        """Return an array. Raises NotFound if the inspection has none of that name."""
        with np.load(self._arrays, allow_pickle=False) as file:
            if name not in file.files:
                raise NotFound(f"This inspection has no {name.replace('_', ' ')}.")
            values: Array = file[name]
            return values

    def label(self, token: int) -> str:
        """Return the text of a token."""
        return str(self._metadata["labels"].get(str(int(token)), f"[{int(token)}]"))

    @cached_property
    def ids(self) -> list[int]:
        """The token ids of the text."""
        return [int(token) for token in self.array("ids")]

    @cached_property
    def labels(self) -> list[str]:
        """The tokens of the text."""
        return [self.label(token) for token in self.ids]

    def alternatives(self, *, prefix: str = "") -> list[tuple[Alternative, ...]]:
        """Return the predictions after each token; prefix `other_` selects the other network."""
        ids, probabilities = self.array(f"{prefix}top_ids"), self.array(f"{prefix}top_p")
        return [self._alternatives(row, ps) for row, ps in zip(ids, probabilities, strict=True)]

    def _alternatives(self, ids: Iterable[int], probabilities: Iterable[float]) -> tuple[Alternative, ...]:
        return tuple(Alternative(int(i), self.label(i), float(p)) for i, p in zip(ids, probabilities, strict=True))

    def tokens(self) -> list[TokenLine]:
        """Return the tokens with the predictions at their positions."""
        surprisal, rank = self.array("surprisal"), self.array("rank")
        expected: list[tuple[Alternative, ...]] = [(), *self.alternatives()[:-1]]
        special = set(self.inspection.result["facts"]["special"])
        trained = self.array("trained")
        return [
            TokenLine(
                position=place,
                id=token,
                text=self.labels[place],
                special=place in special,
                trained=bool(trained[place]) if len(trained) else None,
                surprisal=_finite(surprisal[place]),
                rank=int(rank[place]) or None,
                expected=expected[place],
            )
            for place, token in enumerate(self.ids)
        ]

    def attention(self, layer: int) -> Array:
        """Return a layer's attention maps, [heads, queries, keys], fp32."""
        return self.array(f"attention_{layer}")

    @cached_property
    def spans(self) -> list[str]:
        """Spans of text over which two networks with different vocabularies are compared."""
        return [str(span) for span in self._metadata.get("spans", [])]

    def tensors(self) -> list[TensorLine]:
        """Return the statistics of the tensors."""
        columns = {
            name: self.array(name)
            for name in ("values", "mean", "rms", "largest", "zeros", "beyond", "spectral", "counts")
        }
        return [
            TensorLine(
                name=entry["name"],
                layer=entry["layer"],
                part=entry["part"],
                shape=tuple(entry["shape"]),
                dtype=entry["dtype"],
                values=int(columns["values"][row]),
                mean=float(columns["mean"][row]),
                rms=float(columns["rms"][row]),
                largest=float(columns["largest"][row]),
                zeros=float(columns["zeros"][row]),
                beyond=float(columns["beyond"][row]),
                not_finite=entry["not_finite"],
                spectral=_finite(columns["spectral"][row]),
                counts=columns["counts"][row],
            )
            for row, entry in enumerate(self._metadata["tensors"])
        ]

    @property
    def outliers(self) -> list[tuple[str, str]]:
        """(tensor, reason) of the outliers, most severe first."""
        return [(str(entry["name"]), str(entry["text"])) for entry in self._metadata["outliers"]]

    def changes(self) -> list[ChangeLine]:
        """Return the changes of the tensors that both checkpoints have in the same shape."""
        columns = [self.array(name) for name in ("relative", "cosine", "norm_a", "norm_change")]
        return [
            ChangeLine(entry["name"], entry["layer"], *(float(column[row]) for column in columns))
            for row, entry in enumerate(self._metadata["changes"])
        ]

    @property
    def missing(self) -> dict[str, list[str]]:
        """The tensors without a counterpart: `only_first`, `only_other`, and `unlike` in shape."""
        return {name: [str(part) for part in parts] for name, parts in self._metadata["missing"].items()}


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
