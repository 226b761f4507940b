"""Expressions compared in a real child process, hostile ones included."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.infra.expressions import MathChecker


@pytest.fixture(scope="module")
def checker() -> Iterator[MathChecker]:
    checker = MathChecker(cpu_s=1)
    yield checker
    checker.close()


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("$n(n+1)/2$", r"$\frac{n(n+1)}{2}$"),
        (r"so the answer is \boxed{0.5}.", "1/2"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        (r"50\%", "0.5"),
        (r"$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$", r"$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$"),
    ],
)
def test_equal_expressions_are_equal_however_written(checker: MathChecker, answer: str, reference: str) -> None:
    assert checker.equal(answer, ["$-7$", reference])


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"$\pi$", "$3.14159$"),
        ("$n^2/2$", r"$\frac{n(n+1)}{2}$"),
        (r"$x = \frac{-b + \sqrt{b^2 - 4ac}}{2a}$", r"$x = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$"),
        ("", "1"),
        ("(1, 2]", "[1, 2]"),
    ],
)
def test_unlike_expressions_are_not_equal(checker: MathChecker, answer: str, reference: str) -> None:
    assert not checker.equal(answer, [reference])


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^{9}}}",
        "(10^{8})!",
        "(" * 3000 + "x" + ")" * 3000,
        "$__import__('os')._exit(1)$",
        "\n$1$\n0\n1\n",
    ],
    ids=["tower", "factorial", "nesting", "python", "lines"],
)
def test_a_hostile_expression_is_not_equal_and_the_next_one_is_compared(checker: MathChecker, hostile: str) -> None:
    assert not checker.equal(hostile, ["7"])
    assert checker.equal("7", ["7"])
