"""Decide whether val_loss can be compared: same objective, loss settings, validation data and tokenizer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from backend.domain.wording import list_first


class Aspect(StrEnum):
    """A property in which runs must agree for their val_loss to be comparable."""

    OBJECTIVE = "objective"
    LOSS = "loss"
    DATA = "data"
    TOKENIZER = "tokenizer"


TITLES: dict[Aspect, str] = {
    Aspect.OBJECTIVE: "Different objectives",
    Aspect.LOSS: "Different loss settings",
    Aspect.DATA: "Different validation data",
    Aspect.TOKENIZER: "Different tokenizers",
}
WHY: dict[Aspect, str] = {
    Aspect.LOSS: "They weight the same answers differently.",
    Aspect.TOKENIZER: "val_loss is per token, and a token of one holds more text than a token of the other.",
}


class Side(NamedTuple):
    """A dataset version, tokenizer, ... of a run: `id` says which are the same (None: unknown), `name` is shown."""

    id: str | None
    name: str


@dataclass(frozen=True)
class LossBasis:
    """The objective, loss, data and tokenizer that a val_loss is measured with."""

    objective: Side
    loss: Side
    data: Side
    tokenizer: Side

    @property
    def key(self) -> tuple[str | None, ...]:
        """Return a key that is equal for runs whose val_loss is comparable."""
        return tuple(self.side(aspect).id for aspect in Aspect)

    def side(self, aspect: Aspect) -> Side:
        """Return one of its sides."""
        sides: dict[Aspect, Side] = {
            Aspect.OBJECTIVE: self.objective,
            Aspect.LOSS: self.loss,
            Aspect.DATA: self.data,
            Aspect.TOKENIZER: self.tokenizer,
        }
        return sides[aspect]


@dataclass(frozen=True)
class Obstacle:
    """A reason why val_loss is not comparable: `sides` are (name, the runs that have it)."""

    aspect: Aspect
    sides: tuple[tuple[str, tuple[str, ...]], ...]

    def sentence(self) -> str:
        """Return the reason, with the names of at most four runs a side."""
        sides = ", ".join(f"{name} ({list_first(runs, 4)})" for name, runs in self.sides)
        return f"{TITLES[self.aspect]}: {sides}. {WHY.get(self.aspect, '')}".rstrip()


def find_obstacles(bases: Mapping[str, LossBasis]) -> tuple[Obstacle, ...]:
    """Return the reasons why the val_loss of runs is not comparable; empty if it is. An unknown value differs from
    every other value, unknown ones included.
    """
    obstacles = []
    for aspect in Aspect:
        sides: dict[str | None, tuple[str, list[str]]] = {}
        for run, basis in bases.items():
            side = basis.side(aspect)
            sides.setdefault(side.id, (side.name, []))[1].append(run)
        if len(sides) > 1 or len(sides.get(None, ("", []))[1]) > 1:
            obstacles.append(Obstacle(aspect, tuple((name, tuple(runs)) for name, runs in sides.values())))
    return tuple(obstacles)
