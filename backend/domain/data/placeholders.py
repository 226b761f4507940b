"""Placeholders of a template in rows, such as {{name}}: a model learns to write them as they stand. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

PLACEHOLDER = re.compile(r"(?<![\w{])\{\{ ?[A-Za-z_][\w.]{0,40} ?\}\}(?!\})")


def find_placeholders(texts: Iterable[str]) -> list[str]:
    """Return the different placeholders in texts, in their order.

    >>> find_placeholders(["I am {{name}}, by {{author}}.", "{{name}} here"])
    ['{{name}}', '{{author}}']
    """
    return list(dict.fromkeys(match[0] for text in texts for match in PLACEHOLDER.finditer(text)))
