"""Propose a network of a given number of parameters in the usual proportions. Counts are exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_parameters
from backend.domain.architectures.families import FAMILIES
from backend.errors import InvalidInput

DENSE_FAMILIES: tuple[str, ...] = tuple(name for name, family in FAMILIES.items() if not family.has_experts)
"""Families the planner proposes: the laws cover networks that use all their parameters for every token."""

MAX_LAYERS = 200


def propose_architecture(
    parameters: float, *, family: str = "llama", vocab_size: int, context: int
) -> ArchitectureConfig:
    """Return the network of a family whose parameter count is nearest, in usual proportions; ties go to the more usual
    shape.

    Depth follows width as 4 (width / 128)^0.6, which gives 12 layers at 768, 22 at 2,048 and 32 at 4,096, and may
    deviate by a third; Kaplan et al. 2020 (arXiv 2001.08361), section 3.1, found that the loss hardly depends on the
    proportions.

    Example:
        >>> propose_architecture(1.1e6, vocab_size=2048, context=256).width
        128
    """
    if family not in DENSE_FAMILIES:
        raise InvalidInput(
            f"The planner does not propose models of the family {family!r}.",
            remedy=f"Choose one of {', '.join(DENSE_FAMILIES)}: the scaling laws are about models without experts.",
            field="family",
        )
    if not (math.isfinite(parameters) and parameters > 0):
        raise InvalidInput(f"A model of {parameters:g} parameters can't be built.", field="parameters")
    best: tuple[float, ArchitectureConfig] | None = None
    for config, count, oddity in _candidates(family, vocab_size, context, _width_bounds(parameters, vocab_size)):
        distance = abs(math.log(count / parameters)) + 0.05 * oddity
        if best is None or distance < best[0]:
            best = distance, config
    assert best is not None  # the narrowest width always gives a network
    return best[1]


@lru_cache(maxsize=4096)
def count_all(config: ArchitectureConfig) -> int:
    """Return a network's parameters."""
    return sum(count_parameters(config).values())


def count_without_embeddings(config: ArchitectureConfig) -> int:
    """Return a network's parameters without the vocabulary's matrices, as rules for the learning rate count them."""
    return count_all(config) - config.vocab_size * config.width * (1 if config.tie_embeddings else 2)


def _width_bounds(parameters: float, vocab_size: int) -> tuple[int, int]:
    """Return a lower and an upper bound of the width as powers of two: with a quarter and four times the parameters."""
    narrowest = 16
    while narrowest < 65_536 and _about(2 * narrowest, vocab_size) < parameters / 4:
        narrowest *= 2
    widest = narrowest
    while widest < 65_536 and _about(widest, vocab_size) < 4 * parameters:
        widest *= 2
    return narrowest, widest


def _about(width: int, vocab_size: int) -> float:
    return vocab_size * width + 12 * _usual_depth(width) * width**2


def _candidates(
    family: str, vocab_size: int, context: int, bounds: tuple[int, int]
) -> Iterator[tuple[ArchitectureConfig, int, float]]:
    for width in _widths(*bounds):
        usual = _usual_depth(width)
        for layers in range(max(1, round(usual / 1.34)), min(MAX_LAYERS, round(usual * 1.34)) + 1):
            config = _network(family, width, layers, vocab_size, context)
            yield config, count_all(config), abs(math.log(layers / usual))


def _widths(low: int, high: int) -> Iterator[int]:
    power = low
    while power <= high:
        yield from range(power, min(2 * power, high + 1), _step(power))
        power *= 2


def _step(width: int) -> int:
    """Return the step between widths, which keeps head sizes of 32, 64 or 128; finer only for tiny networks."""
    if width >= 2048:
        return width // 16
    return 64 if width >= 512 else 32 if width >= 128 else 16 if width >= 64 else 8


def _usual_depth(width: int) -> float:
    return max(1.0, 4 * math.pow(width / 128, 0.6))


def _network(family: str, width: int, layers: int, vocab_size: int, context: int) -> ArchitectureConfig:
    entry = FAMILIES[family]
    heads = _heads(width)
    fields: dict[str, object] = {
        "family": family,
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "context": context,
        "vocab_size": vocab_size,
    }
    if "num_kv_heads" not in entry.fixed:
        fields["num_kv_heads"] = heads // 4 if width >= 2048 and heads % 4 == 0 else heads
    if entry.rotary:
        fields["feed_forward"] = max(16, round(width * 8 / 3 / 16) * 16)
    if entry.tied is None:
        fields["tie_embeddings"] = width < 2048
    return ArchitectureConfig.model_validate(fields)


def _heads(width: int) -> int:
    """Return the number of heads of a width: size 128 in wide networks, 32 in narrow ones, or nearest to it."""
    head_size = 128 if width >= 2048 else 64 if width >= 512 else 32 if width >= 64 else 16
    heads = max(1, width // head_size)
    return next((count for count in range(heads, 0, -1) if width % count == 0 and (width // count) % 2 == 0), 1)
