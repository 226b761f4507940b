"""The program that tests a completion."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.programs import write_program

PROMPT = 'import math\n\ndef helper():\n    return 1\n\ndef double(x):\n    """Double it."""\n'


@pytest.mark.parametrize(
    "completion",
    [
        "    return 2 * x\n",
        "Here it is:\n```python\ndef double(x):\n    return 2 * x\n```\nIt doubles.",
        "def double(x):\n    return x + helper() * x",
        "```\n    return 2 * x\n```",
    ],
)
def test_a_completion_becomes_a_program_whatever_its_form(completion: str) -> None:
    namespace: dict[str, object] = {}
    exec(write_program(PROMPT, completion, "assert double(4) == 8\nassert math.pi > 3"), namespace)
    assert "helper" in namespace
