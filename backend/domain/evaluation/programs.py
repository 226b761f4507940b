"""Make the program that tests a completion of code, as HumanEval does (Chen et al. 2021): prompt, completion, tests."""

from __future__ import annotations

import re

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_FUNCTION = re.compile(r"^(?:async )?def (\w+)\(", re.MULTILINE)


def write_program(prompt: str, completion: str, tests: str) -> str:
    """Return prompt, completion and tests as one program.

    A completion that continues the prompt is appended to it. One that writes the function of the prompt again, in a
    fenced block or without, replaces it; the prompt's text before the function stays, since it holds imports and
    helpers.
    """
    fenced = _FENCE.search(completion)
    code = fenced[1] if fenced else completion
    functions = list(_FUNCTION.finditer(prompt))
    rewritten = functions and functions[-1][1] in _FUNCTION.findall(code)
    before = f"{prompt[: functions[-1].start()]}\n" if rewritten else prompt
    return f"{before}{code}\n{tests}\n"
