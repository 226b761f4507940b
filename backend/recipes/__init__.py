"""Recipes: named, complete RunConfigs, each with the hardware it was verified on.

They work on the starter content as it is, and show how a config looks for one's own data.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.run_config import LoraConfig, Objective, RunConfig
from backend.errors import NotFound


@dataclass(frozen=True)
class Recipe:
    """A complete config under a name. `verified_on` says where it was run and how long it took."""

    name: str
    title: str
    summary: str
    verified_on: str
    config: RunConfig


_PRETRAIN = RunConfig(
    name="Village stories",
    objective=Objective.PRETRAIN,
    dataset="pebblewick-stories",
    architecture="pebblewick-1m",
    tokenizer="pebblewick-bpe-2048",
    max_steps=1200,
    micro_batch=8,
    context=128,
    learning_rate=4e-3,
    min_learning_rate=2e-4,
    warmup_steps=40,
    eval_every=100,
    checkpoint_every=300,
    sample_prompts=("Once upon a time", "In the village of Pebblewick"),
    device="auto",
)
_SFT = RunConfig(
    name="Village chat",
    objective=Objective.SFT,
    dataset="pebblewick-chat",
    base="Village stories",
    max_steps=600,
    micro_batch=8,
    context=256,
    learning_rate=2e-3,
    min_learning_rate=1e-4,
    warmup_steps=20,
    weight_decay=0.0,
    eval_every=100,
    checkpoint_every=200,
    sample_prompts=("Tell me a bedtime story about Mira.", "How is Juno's fox called?"),
)
_LORA = _SFT.model_copy(
    update={
        "name": "Village chat, LoRA",
        "method": "lora",
        "lora": LoraConfig(rank=16, alpha=32.0),
        "learning_rate": 4e-3,
        "max_steps": 600,
    }
)
_DPO = RunConfig(
    name="Village chat, aligned",
    objective=Objective.DPO,
    dataset="pebblewick-preferences",
    base="Village chat",
    max_steps=60,
    micro_batch=8,
    context=256,
    learning_rate=1e-4,
    warmup_steps=6,
    weight_decay=0.0,
    eval_every=20,
    checkpoint_every=60,
    sample_prompts=("Tell me a bedtime story about Mira.", "How is Juno's fox called?"),
)

STARTER = "starter-pretrain"
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            STARTER,
            "Starter: tell stories",
            "A network of 1.1 M parameters learns to tell stories of a made-up village.",
            "92 s on two quiet CPU cores.",
            _PRETRAIN,
        ),
        Recipe("starter-sft", "Starter: answer questions", "Fine-tunes all weights of the story teller on conversations.", "", _SFT),
        Recipe(
            "starter-lora", "Starter: answer questions with LoRA", "The same with low-rank adapters: the base stays as it is.", "", _LORA
        ),
        Recipe("starter-dpo", "Starter: prefer good answers", "Pulls the chat network towards preferred answers (DPO).", "", _DPO),
    )
}


def get_recipe(name: str) -> Recipe:
    """Return a recipe by name. Raises NotFound naming the ones there are."""
    recipe = RECIPES.get(name)
    if recipe is None:
        raise NotFound(f"There is no recipe {name!r}.", remedy=f"There are {', '.join(RECIPES)}.")
    return recipe
