"""The training objectives: one row says all that pages, estimates and checks know of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Objective(StrEnum):
    """The objective of a run."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    ORPO = "orpo"
    SIMPO = "simpo"
    REWARD = "reward"
    GRPO = "grpo"

    @property
    def facts(self) -> ObjectiveFacts:
        """Return its row of the table."""
        return OBJECTIVE_FACTS[self]

    @property
    def pretrains(self) -> bool:
        """Return whether it learns running text in windows of one length, and from random weights, too."""
        return self.facts.rows == "text"

    @property
    def packs(self) -> bool:
        """Return whether it learns the answers of conversations, several of which may fill a context."""
        return self.facts.rows == "conversations"

    @property
    def predicts_tokens(self) -> bool:
        """Return whether its loss is the mean cross-entropy of tokens."""
        return self.pretrains or self.packs

    @property
    def compares_pairs(self) -> bool:
        """Return whether it learns from a chosen and a rejected answer."""
        return self.facts.rows == "pairs"

    @property
    def learns_preferences(self) -> bool:
        """Return whether it learns from pairs or rated answers."""
        return self.facts.rows in ("pairs", "ratings")

    @property
    def samples(self) -> bool:
        """Return whether it samples completions while it trains, and learns from their rewards."""
        return self.facts.rows == "prompts"

    @property
    def counts_tokens(self) -> bool:
        """Return whether its runs count the tokens that they read, which fill no context: sampled ones, or answers."""
        return self.samples or self.learns_preferences


Rows = Literal["text", "conversations", "pairs", "ratings", "prompts"]


@dataclass(frozen=True)
class ObjectiveFacts:
    """Facts of an objective, besides its loss.

    `name` fits a column and is, regardless of case, the value of filters; `label` says more. `rows` are what it learns
    from: pairs are a chosen and a rejected answer. `metrics` are those that its runs are compared by, the usual one
    first. `settings` are the fields of PreferenceConfig that its loss reads. `needs_answers`: it only shifts between
    answers that a base already gives, so that the base must chat. `has_reference`: its loss measures against the frozen
    base. `writes`: its checkpoints generate text, and do not only score it. `min_micro_batch`: rows of a micro-batch
    that it compares. `made` labels its checkpoints, `verb` begins the generated names of its runs, `tag` is what the
    model card's readers on the hub call it, if otherwise.
    """

    name: str
    label: str
    rows: Rows
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: tuple[str, ...] = ()
    needs_answers: bool = False
    has_reference: bool = False
    writes: bool = True
    min_micro_batch: int = 1
    made: str = ""
    verb: str = ""
    tag: str = ""


_LANGUAGE = ("val_loss", "train_loss", "tok_per_sec")
_PREFERENCE = ("val_loss", "val_rewards/accuracies", "val_rewards/margins", "train_loss")

OBJECTIVE_FACTS: dict[Objective, ObjectiveFacts] = {
    Objective.PRETRAIN: ObjectiveFacts(
        name="Pretrain",
        label="Pretraining",
        rows="text",
        datasets=("text",),
        metrics=("val_loss", "val_bpb", *_LANGUAGE[1:]),
        made="pretrained",
    ),
    Objective.SFT: ObjectiveFacts(
        name="SFT",
        label="Fine-tuning (SFT)",
        rows="conversations",
        datasets=("instruction", "chat"),
        metrics=_LANGUAGE,
        made="fine-tuned",
        verb="Fine-tune",
    ),
    Objective.DPO: ObjectiveFacts(
        name="DPO",
        label="Preference tuning (DPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
        settings=("beta", "loss", "label_smoothing", "sft_weight"),
        needs_answers=True,
        has_reference=True,
    ),
    Objective.KTO: ObjectiveFacts(
        name="KTO",
        label="Preference tuning (KTO)",
        rows="ratings",
        datasets=("kto", "preference"),
        metrics=("val_loss", "val_rewards/margins", "train_loss"),
        settings=("beta", "desirable_weight", "undesirable_weight"),
        needs_answers=True,
        has_reference=True,
        min_micro_batch=2,
    ),
    # it teaches answers, too (Hong et al. 2024, arXiv 2403.07691)
    Objective.ORPO: ObjectiveFacts(
        name="ORPO",
        label="Preference tuning (ORPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
        settings=("beta",),
    ),
    Objective.SIMPO: ObjectiveFacts(
        name="SimPO",
        label="Preference tuning (SimPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
        settings=("beta", "gamma", "sft_weight"),
        needs_answers=True,
        tag="cpo",
    ),
    Objective.REWARD: ObjectiveFacts(
        name="Reward",
        label="Reward model",
        rows="pairs",
        datasets=("preference",),
        metrics=("val_loss", "val_accuracy", "val_margin", "train_loss"),
        writes=False,
        made="reward model",
        verb="Reward model of",
        tag="reward-trainer",
    ),
    Objective.GRPO: ObjectiveFacts(
        name="GRPO",
        label="Reinforcement learning (GRPO)",
        rows="prompts",
        datasets=("instruction", "prompts", "benchmark"),
        metrics=("val_reward/mean", "reward/mean", "val_loss"),
        needs_answers=True,
    ),
}


def label_of(objective: str) -> str:
    """Return an objective's label; a name that is not known, of an imported run, stands for itself."""
    return OBJECTIVE_FACTS[Objective(objective)].label if objective in OBJECTIVE_FACTS else objective


def made_by(objective: str | None) -> str:
    """Return the label of a checkpoint that a run of this objective made."""
    if objective not in OBJECTIVE_FACTS:
        return "from a run"
    facts = OBJECTIVE_FACTS[Objective(objective)]
    return facts.made or f"{facts.name}-trained"


def writes_text(objective: str | None) -> bool:
    """Return whether a checkpoint generates text, by the objective of the run that made it, if any."""
    return objective not in OBJECTIVE_FACTS or Objective(objective).facts.writes


def chats(objective: str | None) -> bool:
    """Return whether a checkpoint has learned to chat, by the objective of the run that made it, if any."""
    return objective not in OBJECTIVE_FACTS or not Objective(objective).pretrains
