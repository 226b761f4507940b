"""Runs in a child process: compare expressions that a model wrote, with bounded memory and processor time.

Started as `python -I expressions_child.py CPU_S MEMORY_BYTES`; reads {"prediction", "references"} as JSON lines,
answers each with 1 or 0. An expression that takes too long ends the process by the kernel's signal, which works inside
a power of large integers too, where no Python code runs.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

MARKS = ("$", r"\boxed", r"\(", r"\[", r"\begin")
"""Delimiters of an expression within text; a text without any is one expression."""


def read(text: str) -> list[Any]:
    """Return the last expression of a text, in a boxed one first. Reads LaTeX alone: the library evaluates plain
    expressions as Python.
    """
    marked = text if any(mark in text for mark in MARKS) else f"${text}$"
    # its timeout would be an alarm; processor time is limited below
    expressions: list[Any] = parse(marked, [LatexExtractionConfig()], parsing_timeout=None)
    return expressions


def is_equal(prediction: str, references: list[str]) -> bool:
    """Return whether a prediction's expression equals one of the references."""
    answer = read(prediction)
    return any(verify(gold, answer, timeout_seconds=None) for reference in references if (gold := read(reference)))


def main() -> None:
    """Answer comparisons until stdin ends."""
    cpu_s, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for name in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(name, (0, 0))
    for line in sys.stdin:
        order = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(
            resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s + 1, resource.RLIM_INFINITY)
        )
        try:
            equal = is_equal(order["prediction"], order["references"])
        except Exception:  # whatever a parser makes of hostile text: it is no equal expression
            equal = False
        sys.stdout.write("1\n" if equal else "0\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
