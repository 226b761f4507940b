"""Equality of mathematical expressions: `\\frac{n(n+1)}{2}` and `n(n+1)/2`. Decided outside, in bounded time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Equal = Callable[[str, Sequence[str]], bool]
"""Decides whether the expression of an answer equals one of the references."""


def math_equal(prediction: str, references: Sequence[str], *, equal: Equal | None = None) -> float:
    """Return 1 if the prediction's last expression, in LaTeX, equals a reference, else 0. `equal` must be bound."""
    if equal is None:
        raise RuntimeError("math_equal needs a checker: bind it with `bind_checker`.")
    return float(equal(prediction, references))
