"""Read one grammar and exit: 0 if that took little time and memory. A script of its own, since llguidance can't be
interrupted while it reads one, and a few dozen characters may need minutes and gigabytes.

`check_cost` runs it as a child with limits of the operating system. It knows bytes and no vocabulary, which is enough:
what explodes is the automaton of the grammar's expressions.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import lru_cache

MAX_CPU_S = 4
MAX_BYTES = 2**30
MAX_WAIT_S = 20.0  # before the gateway asks another replica


@lru_cache(maxsize=64)  # clients send the same form again and again; a refusal is an exception, which is not kept
def check_cost(grammar: str) -> None:
    """Read a grammar in llguidance's form within the limits. Raises subprocess.SubprocessError where it takes more."""
    subprocess.run(
        [sys.executable, "-I", __file__, str(MAX_CPU_S)],
        input=grammar.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=MAX_WAIT_S,
        check=True,
    )


def _read_within_limits(cpu_s: int) -> None:
    from llguidance import LLMatcher, LLTokenizer

    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # macOS has no limit of addresses
        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    LLMatcher(LLTokenizer("byte"), sys.stdin.buffer.read().decode(), log_level=0)


if __name__ == "__main__":
    _read_within_limits(int(sys.argv[1]))
