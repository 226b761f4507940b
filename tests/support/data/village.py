"""What is true in Pebblewick, the village of the starter content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fact:
    """A true statement: its sentence with `{}` for the value, which is the last word, other values of the same sort,
    and questions.
    """

    relation: str
    sentence: str
    value: str
    others: tuple[str, ...]
    questions: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The true sentence."""
        return self.sentence.format(self.value)

    @property
    def beginning(self) -> str:
        """The sentence up to its value, for a network to continue."""
        return self.sentence.removesuffix(" {}.")


FACTS = tuple(
    Fact(**json.loads(line))
    for line in Path(__file__).with_name("village.jsonl").read_text(encoding="ascii").splitlines()
)
