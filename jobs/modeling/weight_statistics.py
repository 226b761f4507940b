"""Statistics of a checkpoint's weights by tensor, in bounded memory: spread, norms, histogram, difference to another
checkpoint; and flags of outlier tensors, whose thresholds are heuristics: a flag does not mean that a network is bad.

Tensors are read from safetensors in slices of rows, so memory does not grow with the network. An adapter is the
exception: it is merged into its base first, as its own matrices say little.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from scipy.sparse.linalg import svds
from torch import Tensor

from backend.domain.checkpoints.inspection import TensorChange, TensorStatistics
from backend.domain.wording import percent
from jobs.modeling.checkpoints import check_folder, is_adapter, load_network, read_tensor_shapes

CHUNK_VALUES = 4_000_000
SPECTRAL_VALUES = 4_000_000
"""Largest matrix, in values, whose spectral norm is computed: larger ones would take longer than all else."""
NUM_BINS = 81
REACH = 5.0
"""Range of a histogram to both sides of 0, in RMS; values beyond are counted in the outermost bins."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|decoder_layers)\.(\d+)\.(.+)$")


def split_name(name: str) -> tuple[int | None, str]:
    """Return the layer and the part that a tensor's name says: `model.layers.3.mlp.up_proj.weight` is part
    `mlp.up_proj.weight` of layer 3.
    """
    if match := _LAYER.search(name):
        return int(match[1]), match[2]
    return None, name.removeprefix("model.").removeprefix("transformer.")


class WeightFolder:
    """The tensors of a checkpoint folder, read in slices. A context manager. Raises as `check_folder`."""

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._whole: dict[str, Tensor] = {}

    def __enter__(self) -> WeightFolder:
        if is_adapter(self._folder):
            storages: set[int] = set()
            for name, tensor in load_network(self._folder).state_dict().items():
                if tensor.data_ptr() not in storages:  # a tied head repeats the embedding
                    storages.add(tensor.data_ptr())
                    self._whole[name] = tensor
            return self
        for file in sorted(self._folder.glob("*.safetensors")):
            shapes = read_tensor_shapes(file)
            self._shapes.update(shapes)
            self._files.update(dict.fromkeys(shapes, file))
        return self

    def __exit__(self, *_error: object) -> None:
        self._whole = {}

    def names(self) -> list[str]:
        """Return the tensors' names, layers in order."""
        names = [*self._files, *self._whole]
        return sorted(names, key=lambda name: (-1 if (layer := split_name(name)[0]) is None else layer, name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._whole[name].shape) if name in self._whole else self._shapes[name][1]

    def dtype(self, name: str) -> str:
        """Return a tensor's storage type, such as `BF16`."""
        return str(self._whole[name].dtype).removeprefix("torch.") if name in self._whole else self._shapes[name][0]

    def slices(self, name: str) -> Iterator[Tensor]:
        """Yield a tensor in slices along its first dimension, as fp32 matrices [rows, rest], each of a few million
        values at most.
        """
        if name in self._whole:
            yield from _sliced(self._whole[name], self.shape(name))
            return
        # reopened, so that pages read before leave the memory
        with safe_open(str(self._files[name]), framework="pt") as file:
            yield from _sliced(file.get_slice(name) if self.shape(name) else file.get_tensor(name), self.shape(name))


def _sliced(source: Any, shape: tuple[int, ...]) -> Iterator[Tensor]:
    if len(shape) < 2:
        yield (source[:] if shape else source).float().reshape(1, -1)
        return
    step = max(1, CHUNK_VALUES // max(1, math.prod(shape[1:])))
    for at in range(0, shape[0], step):
        yield source[at : at + step].float().reshape(min(step, shape[0] - at), -1)


def read_tensor(folder: WeightFolder, name: str) -> TensorStatistics:
    """Compute a tensor's statistics in two passes over its slices: the first finds the second's scale."""
    shape, (layer, part) = folder.shape(name), split_name(name)
    total, squares, largest, zeros, broken, count = 0.0, 0.0, 0.0, 0, 0, 0
    rows: list[Tensor] = []
    columns: Tensor | None = None
    for rows_read in folder.slices(name):
        finite = torch.isfinite(rows_read)
        lost = int((~finite).sum())
        values = torch.where(finite, rows_read, 0.0) if lost else rows_read
        squared = values.square()
        broken, count, zeros = broken + lost, count + values.numel(), zeros + int((rows_read == 0).sum())
        total += float(values.sum(dtype=torch.float64))
        largest = max(largest, float(values.abs().max()) if values.numel() else 0.0)
        rows.append(squared.sum(1, dtype=torch.float64))
        summed = squared.sum(0, dtype=torch.float64)
        columns = summed if columns is None else columns + summed
        squares += float(rows[-1].sum())
    usable = max(1, count - broken)
    rms = math.sqrt(squares / usable)
    counts, beyond = _histogram(folder, name, rms=rms, finite=not broken)
    matrix = len(shape) >= 2 and min(shape) > 1
    small = len(shape) == 2 and min(shape) > 2 and count <= SPECTRAL_VALUES
    return TensorStatistics(
        name=name,
        layer=layer,
        part=part,
        shape=shape,
        dtype=folder.dtype(name),
        values=count,
        mean=total / usable,
        rms=rms,
        largest=largest,
        zeros=zeros / max(1, count),
        beyond=beyond,
        not_finite=broken,
        spectral=_spectral(folder, name) if small and not broken and squares > 0 else None,
        row_peak=_peak(torch.cat(rows)) if matrix else None,
        column_peak=_peak(columns) if matrix and columns is not None else None,
        counts=counts,
    )


def _histogram(folder: WeightFolder, name: str, *, rms: float, finite: bool) -> tuple[npt.NDArray[np.int64], float]:
    counts = np.zeros(NUM_BINS, dtype=np.int64)
    beyond = total = 0
    for part in folder.slices(name):
        values = (part.flatten() if finite else part[torch.isfinite(part)]) / (rms or 1.0)
        total += len(values)
        beyond += int((values.abs() > REACH).sum())
        counts += torch.histc(values.clamp(-REACH, REACH), NUM_BINS, -REACH, REACH).long().numpy()
    return counts, beyond / max(1, total)


def _peak(squares: Tensor) -> tuple[float, int] | None:
    """Return the ratio of the largest norm to the median, and its index."""
    norms = squares.sqrt()
    median = float(norms.median())
    return (float(norms.max()) / median, int(norms.argmax())) if median > 0 else None


def _spectral(folder: WeightFolder, name: str) -> float:
    """Return the largest singular value, by Lanczos iterations (ARPACK), to about four digits."""
    matrix = torch.cat(list(folder.slices(name))).numpy()
    # a fixed start vector, so that the result is deterministic
    start = np.ones(min(matrix.shape), dtype=np.float32)
    return float(svds(matrix, k=1, return_singular_vectors=False, tol=1e-4, v0=start)[0])


def read_change(a: WeightFolder, b: WeightFolder, name: str) -> TensorChange:
    """Compare a tensor that both folders hold with the same shape."""
    sums = np.zeros(4)
    for left, right in zip(a.slices(name), b.slices(name), strict=True):
        change = right - left
        pairs = ((left, left), (right, right), (left, right), (change, change))
        sums += [float((one * two).sum(dtype=torch.float64)) for one, two in pairs]
    norm_a, norm_b, norm_change = math.sqrt(sums[0]), math.sqrt(sums[1]), math.sqrt(sums[3])
    relative = norm_change / norm_a if norm_a else (math.inf if norm_change else 0.0)
    cosine = sums[2] / (norm_a * norm_b) if norm_a and norm_b else math.nan
    return TensorChange(name, split_name(name)[0], relative, min(1.0, max(-1.0, cosine)), norm_a, norm_change)


CHANNEL = 8.0
"""Ratio of a row's or column's norm to the median from which on it is an outlier channel (Dettmers et al. 2022, arXiv
2208.07339).
"""
SPIKE = 40.0
"""Distance of an outlier value from 0, in RMS: of 10^9 normal values the largest lies near 6."""
ZEROS = 0.2
"""Share of exact zeros from which on a tensor is flagged."""
UNLIKE = 6.0
"""Deviation of a tensor's log RMS from that part in other layers, in robust standard deviations (1.4826 x MAD)."""
MIN_LAYERS = 6


@dataclass(frozen=True)
class Outlier:
    """An outlier tensor: `weight` orders flags by severity, `text` gives the reason."""

    name: str
    weight: float
    text: str


def find_outliers(tensors: list[TensorStatistics]) -> list[Outlier]:
    """Return the flags, most severe first."""
    outliers = [outlier for tensor in tensors for outlier in _own_flags(tensor)]
    outliers += _unlike_other_layers(tensors)
    return sorted(outliers, key=lambda outlier: -outlier.weight)


def _own_flags(tensor: TensorStatistics) -> list[Outlier]:
    flags = []
    if tensor.not_finite:
        flags.append((1e9, f"{tensor.not_finite:,} of {tensor.values:,} values are NaN or infinite"))
    if tensor.values > 1 and tensor.rms == 0 and not tensor.not_finite and not tensor.name.endswith("bias"):
        flags.append((1e8, "every value is zero"))
    elif tensor.zeros > ZEROS and not tensor.name.endswith("bias"):
        flags.append((10 * tensor.zeros, f"{percent(tensor.zeros)} of its values are exactly zero"))
    if tensor.rms and tensor.largest / tensor.rms > SPIKE:
        times = tensor.largest / tensor.rms
        flags.append((times / SPIKE, f"its largest value, {tensor.largest:.3g}, is {times:.0f} times its RMS"))
    for word, peak in (("row", tensor.row_peak), ("column", tensor.column_peak)):
        if peak is not None and peak[0] > CHANNEL:
            flags.append((peak[0] / CHANNEL, f"{word} {peak[1]:,} has {peak[0]:.0f} times the median {word}'s norm"))
    return [Outlier(tensor.name, weight, text) for weight, text in flags]


def _unlike_other_layers(tensors: list[TensorStatistics]) -> list[Outlier]:
    """Compare each tensor's RMS with the same part in the other layers."""
    parts: dict[str, list[TensorStatistics]] = defaultdict(list)
    for tensor in tensors:
        if tensor.layer is not None and tensor.rms > 0:
            parts[tensor.part].append(tensor)
    outliers = []
    for group in parts.values():
        if len(group) < MIN_LAYERS:
            continue
        logs = np.log([tensor.rms for tensor in group])
        middle = float(np.median(logs))
        spread = max(1.4826 * float(np.median(np.abs(logs - middle))), 0.02)
        for tensor, value in zip(group, logs, strict=True):
            score = abs(value - middle) / spread
            if score > UNLIKE:
                times = float(np.exp(value - middle))
                ratio = f"{times:.1f} times" if times > 1 else f"1/{1 / times:.1f} of"
                outliers.append(
                    Outlier(
                        tensor.name, score / UNLIKE, f"its RMS, {tensor.rms:.3g}, is {ratio} that of the other layers"
                    )
                )
    return outliers
