"""TaskGroup: several tasks under one name, with an average of their main scores."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TaskGroup(BaseModel):
    """Tasks that are run together. `centred` averages (score - chance) / (1 - chance), as the CORE metric does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w.-]+$", description="Name of the group.")
    title: str = Field(default="", max_length=120, description="Name on pages; the group's name if left empty.")
    description: str = Field(default="", max_length=2000, description="What the group measures.")
    tasks: tuple[str, ...] = Field(min_length=1, max_length=200, description="Names of the tasks.")
    average: Literal["macro", "micro"] = Field(
        default="macro", description="Mean of the tasks, or mean of all their items."
    )
    centred: bool = Field(default=False, description="Average what exceeds chance.")

    @property
    def shown_title(self) -> str:
        """The name on pages."""
        return self.title or self.name
