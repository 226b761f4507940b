"""Train on a campaign's votes: suggest a recipe for the set, make it, queue the run, and open its rematch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.db.tables import Run
from backend.domain.battles.preferences import PreferenceRules
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig, parse_config, parse_run_config
from backend.domain.training.defaults import suggest_recipe
from backend.domain.training.objectives import Objective
from backend.errors import Conflict, InvalidInput
from backend.services.battles.preference_sets import (
    PreferencePreview,
    VoteDataset,
    VoteObjective,
    draw_rematch_prompts,
    make_vote_dataset,
    preview_preferences,
)
from backend.services.battles.rematches import REMATCH, open_rematch
from backend.services.battles.standings import standings
from backend.services.battles.views import CampaignView, get_campaign
from backend.services.checkpoints.checkpoints import CheckpointView, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.training.runs import launch_run

PENDING = "votes of this campaign"
"""Name of the dataset in a planned config; the launch puts the dataset that it makes in its place."""
DEFAULT_CONTEXT = 128


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of “Train on these votes”: the rows, the base, and a config with the reasons of its values."""

    objective: VoteObjective
    base: CheckpointView
    preview: PreferencePreview
    config: RunConfig
    reasons: tuple[tuple[str, str], ...]

    @property
    def num_rows(self) -> int:
        """Rows that the run trains on."""
        return self.preview.num_rows[self.objective]


@dataclass(frozen=True)
class TrainingLaunch:
    """A launched run with its rematch, whose prompts the run does not train on."""

    dataset: str
    num_rows: int
    run_id: str
    run: str
    base: str
    rematch: CampaignView


def plan_training(
    ctx: Context,
    campaign_id: str,
    *,
    rules: PreferenceRules | None = None,
    objective: VoteObjective = "dpo",
    base_id: str | None = None,
) -> TrainingPlan:
    """Return the plan of a run on a campaign's votes, from `base_id` or the campaign's leader.

    Raises InvalidInput for a base outside the campaign, Conflict for one whose files are gone or a campaign without
    checkpoints.
    """
    campaign = get_campaign(ctx, campaign_id)
    base = _base(ctx, campaign, base_id)
    preview = preview_preferences(ctx, campaign_id, rules)
    config, reasons = suggest_config(ctx, campaign, base, objective=objective, num_rows=preview.num_rows[objective])
    return TrainingPlan(objective, base, preview, config, reasons)


def suggest_config(
    ctx: Context, campaign: CampaignView, base: CheckpointView, *, objective: VoteObjective, num_rows: int
) -> tuple[RunConfig, tuple[tuple[str, str], ...]]:
    """Return the suggested config of a run on `num_rows` rows of votes, and the reasons of its values."""
    recipe = suggest_recipe(
        Objective(objective), num_rows=max(1, num_rows), parameters=base.parameters, context=_context_of(ctx, base)
    )
    values: dict[str, object] = {
        "name": f"{objective.upper()} on votes of {campaign.name.removeprefix(REMATCH)}"[:100],
        "objective": objective,
        "dataset": PENDING,
        "base": base.id,
        "method": "lora",
        "sample_prompts": (),
        **_nested(recipe.values),
    }
    return parse_config(values), recipe.reasons


def train_on_votes(
    ctx: Context,
    campaign_id: str,
    *,
    person: Person,
    idempotency_key: str,
    rules: PreferenceRules | None = None,
    objective: VoteObjective = "dpo",
    base_id: str | None = None,
    config_yaml: str | None = None,
) -> TrainingLaunch:
    """Store the training rows, queue the run that waits for them, and open the rematch that waits for the run.

    The run starts from `base_id` or the campaign's leader, by the suggested recipe or `config_yaml`. The same key gives
    the same run and rematch. Raises InvalidInput when the votes give no rows or leave no prompt for the rematch,
    Conflict for a base whose files are gone, NotAllowed.
    """
    require_builder(person)
    plan = plan_training(ctx, campaign_id, rules=rules, objective=objective, base_id=base_id)
    campaign = get_campaign(ctx, campaign_id)
    made = make_vote_dataset(
        ctx,
        campaign_id,
        name=f"{campaign.name} {'votes' if objective == 'dpo' else objective}"[:120],
        person=person,
        objective=objective,
        rules=rules,
        idempotency_key=f"votes-{idempotency_key}",
    )
    prompts = draw_rematch_prompts(ctx, campaign, learned=made.prompt_hashes)
    config = _edited(plan, config_yaml, made)
    run = launch_run(ctx, config, person=person, idempotency_key=f"{objective}-{idempotency_key}")
    rematch = open_rematch(ctx, campaign, prompts, run_id=run.id, base_id=plan.base.id, person=person)
    return TrainingLaunch(made.version.label, made.num_rows, run.id, run.name, plan.base.name, rematch)


def _edited(plan: TrainingPlan, config_yaml: str | None, made: VoteDataset) -> RunConfig:
    config = parse_run_config(config_yaml) if config_yaml else plan.config
    if config.objective.value != plan.objective:
        raise InvalidInput(
            f"The config's objective is {config.objective.value}, and the rows are for {plan.objective}.",
            remedy=f"Write `objective: {plan.objective}`, or choose the other objective first.",
            field="objective",
        )
    if config.base != plan.base.id:
        raise InvalidInput(
            f"The config's base is not “{plan.base.name}”, the parent in the rematch.",
            remedy="Choose the base in the form.",
            field="base",
        )
    return config.model_copy(update={"dataset": made.version.label})


def _base(ctx: Context, campaign: CampaignView, base_id: str | None) -> CheckpointView:
    if base_id is None:
        board = standings(ctx, campaign.id)
        ranked = board.table.contestants if board.table else ()
        trainable = {
            contestant.name: contestant.checkpoint_id for contestant in campaign.contestants if contestant.has_files
        }
        base_id = next((trainable[name] for name in (*ranked, *trainable) if name in trainable), None)
    if base_id is None:
        raise Conflict(
            "No contestant of this campaign is a checkpoint with files here, so there is nothing to train.",
            remedy="Add one as a contestant.",
        )
    base = resolve_checkpoint(ctx, base_id)
    if base.id not in {contestant.checkpoint_id for contestant in campaign.contestants}:
        raise InvalidInput(
            f"“{base.name}” is not in this campaign.", remedy="Choose one of its contestants.", field="base"
        )
    return base


def _context_of(ctx: Context, base: CheckpointView) -> int:
    """Return a checkpoint's longest input from its row; a run's training context is a lower bound."""
    known = base.facts.context
    if known:
        return int(known)
    if base.run_id is None:
        return DEFAULT_CONTEXT
    with ctx.db.read() as session:
        config = session.get_one(Run, base.run_id).config
        return config.context if config is not None else DEFAULT_CONTEXT


def _nested(values: Any) -> FieldValues:
    """Return values by path as nested mappings: {"preference.beta": 0.1} becomes {"preference": {"beta": 0.1}}."""
    nested: FieldValues = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        part = nested
        for section in sections:
            part = part.setdefault(section, {})
        part[name] = value
    return nested
