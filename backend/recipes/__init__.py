"""Recipes: named, complete configs as YAML files, each with its hardware, duration and results.

`roundhouse run launch FILE` and the launch page read them; the head `recipe:` holds the measurements. Starter recipes
run on the starter content; the others name the data to import.
"""

from __future__ import annotations

from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from backend.domain.training.config import RunConfig
from backend.errors import NotFound

STARTER = "starter-pretrain"
ORDER = (
    STARTER,
    "starter-sft",
    "starter-lora",
    "starter-dpo",
    "starter-kto",
    "starter-orpo",
    "starter-grpo",
    "shakespeare-char",
    "stories260k-sft",
    "smollm2-135m-sft",
    "smollm2-135m-dpo",
    "gpt2-124m",
    "llama-3.1-8b-qlora",
    "llama-3.1-8b-fsdp",
    "llama-3.1-70b-fsdp",
)


class RecipeHead(BaseModel):
    """Header of a recipe. `state` is `run` if its numbers were measured, `planned` otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    summary: str
    hardware: str
    state: Literal["run", "planned"]
    time: str = ""
    memory: str = ""
    loss: str = ""

    @property
    def known(self) -> str:
        """Return one sentence on hardware and measurements."""
        if self.state == "planned":
            return f"For {self.hardware}. Planned: not run yet."
        measured = [part for part in (self.time, self.memory, self.loss.replace("val_loss", "validation loss")) if part]
        return f"Run on {self.hardware}" + (f": {', '.join(measured)}." if measured else ".")


class Recipe(BaseModel):
    """A complete config under a name."""

    model_config = ConfigDict(frozen=True)

    name: str
    head: RecipeHead
    config: RunConfig


def _read(name: str) -> Recipe:
    data: dict[str, object] = yaml.safe_load(resources.files(__package__).joinpath(f"{name}.yaml").read_text("utf-8"))
    head = RecipeHead.model_validate(data.pop("recipe"))
    return Recipe(name=name, head=head, config=RunConfig.model_validate(data))


RECIPES: dict[str, Recipe] = {name: _read(name) for name in ORDER}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name. Raises NotFound naming the known ones."""
    recipe = RECIPES.get(name)
    if recipe is None:
        raise NotFound(f"There is no recipe {name!r}.", remedy=f"There are {', '.join(RECIPES)}.")
    return recipe
