"""Recognise rows that are bare strings, as in a JSON list of strings: prompts if they look like requests, else
texts.
"""

from __future__ import annotations

import re

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.parsing.json_stream import STRING_COLUMN
from backend.domain.data.recognition.sample import Recognition, SampleRows

MAX_PROMPT = 2000  # characters
_REQUEST = re.compile(
    r"(who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|will|would|should|may|might|have|has|am|"
    r"write|explain|describe|list|give|tell|summari[sz]e|translate|compare|create|generate|make|suggest|name|find|solve|calculate|compute|"
    r"show|help|provide|convert|classify|identify|rewrite|edit|correct|design|develop|draft|outline|propose|plan|imagine|pretend|act|"
    r"answer|define|discuss|analy[sz]e|evaluate|recommend|implement|simplify|compose|complete|continue|please|prove|derive|count|extract|"
    r"teach|instruct|devise|produce|prepare|invent|brainstorm|construct|argue|choose|read|say|think|let's|i want|i"
    r" need|you are)\b",
    re.IGNORECASE,
)


def detect_strings(sample: SampleRows) -> Recognition | None:
    """Recognise a list of strings, as prompts or text; the user may choose the other kind."""
    if sample.columns != [STRING_COLUMN]:
        return None
    texts = [value for value in sample.values(STRING_COLUMN) if isinstance(value, str) and value.strip()]
    if not texts:
        return None
    requests = sum(map(reads_as_request, texts))
    if requests >= 0.6 * len(texts):
        reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
        return Recognition(
            DatasetKind.PROMPTS, {STRING_COLUMN: "prompt"}, 0.7, f"{reason}; choose kind text to train on them"
        )
    reason = f"a list of strings, of which {requests} of the first {len(texts)} read as questions or instructions"
    return Recognition(
        DatasetKind.TEXT, {STRING_COLUMN: "text"}, 0.7, f"{reason}; choose kind prompts to have them answered"
    )


def reads_as_request(text: str) -> bool:
    """Return whether a text looks like a prompt: it ends in a question mark, or begins as a question or an instruction
    does.

    >>> reads_as_request("Explain how a heat pump works."), reads_as_request("The heat pump hummed.")
    (True, False)
    """
    stripped = text.strip()
    if len(stripped) > MAX_PROMPT:
        return False
    return stripped.endswith("?") or _REQUEST.match(stripped) is not None
