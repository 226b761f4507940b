"""Names of datasets that are read from files. A file such as `gsm8k/test.jsonl` says only a part's name. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

SPLITS = frozenset(
    {
        *(
            "train",
            "training",
            "test",
            "testing",
            "dev",
            "development",
            "val",
            "valid",
            "validation",
            "eval",
            "heldout",
            "split",
            "part",
        ),
        *("all", "full", "main", "default", "data", "dataset", "input", "output", "file"),
    }
)
"""Words that name a part of a dataset and nothing of what it holds."""
CONTENTS = frozenset(
    {
        "inputs",
        "rows",
        "items",
        "records",
        "text",
        "sentences",
        "question",
        "questions",
        "prompts",
        "examples",
        "samples",
    }
)
"""Words that say what rows are, not which set they are of."""
_WORD = re.compile(r"[^\W_]+")


def propose_name(stem: str, *, folder: str = "") -> str:
    """Return the name of a dataset by its file's name without ending, behind its folder's where the file's does not say
    what it is.

    Empty where neither says it: the person who imports the file has to.

    Example:
        >>> propose_name("test", folder="gsm8k"), propose_name("stories", folder="gsm8k"), propose_name("test")
        ('gsm8k-test', 'stories', '')
    """
    if not bare_name(stem) and (own := bare_name(folder)):
        return f"{own}-{stem}"
    return stem if _cut(stem, SPLITS) else ""


def bare_name(name: str) -> str:
    """Return the words of a name up to those at its end that are not the name of a set; empty if there are no others.

    Example:
        >>> bare_name("gsm8k-test"), bare_name("xstest_prompts"), bare_name("test")
        ('gsm8k', 'xstest', '')
    """
    return _cut(name, SPLITS | CONTENTS)


def _cut(name: str, words: Collection[str]) -> str:
    parts = list(_WORD.finditer(name))
    while parts and (parts[-1].group().lower() in words or parts[-1].group().isdecimal()):
        parts.pop()
    return name[: parts[-1].end()] if parts else ""
