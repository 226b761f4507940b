"""The plan of a run on a campaign's votes: rules and rows, warnings, recipe, launch."""

from __future__ import annotations

import hashlib

import streamlit as st

from backend.domain.battles.preferences import PreferenceRules, make_rules, parse_rules
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig, parse_config, parse_run_config
from backend.domain.training.config_sections import PreferenceConfig
from backend.domain.wording import percent, plural
from backend.services.battles.preference_sets import PreferencePreview, VoteObjective, describe_left_out
from backend.services.battles.views import CampaignView
from backend.services.battles.vote_training import TrainingPlan, plan_training, train_on_votes
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.battles.raters import draw_flagged
from pages.components.choices import by_identity, choose_one
from pages.components.forms import draw_fields
from pages.components.frame import draw_metric, errors_shown, plain
from pages.components.numbers import number_form, wrong_numbers

OBJECTIVES: dict[VoteObjective, str] = {
    "dpo": "Pairs (DPO)",
    "sft": "Rewritten answers (SFT)",
    "kto": "Labelled answers (KTO)",
}
METHODS = {"lora": "LoRA", "full": "Full fine-tuning"}
NUM_SHOWN = 8


@number_form
def draw_training_plan(ctx: Context, person: Person, campaign: CampaignView) -> None:
    """Draw rules, rows, warnings, recipe and the button that trains on a campaign's votes."""
    bases = {c.checkpoint_id: c.name for c in campaign.contestants if c.checkpoint_id and c.has_files}
    st.subheader("Train on the votes", anchor=False)
    if not bases:
        st.caption("No contestant is a checkpoint of this installation, so there is nothing to train.")
        return
    with errors_shown():
        first = plan_training(ctx, campaign.id)
        left, right = st.columns([1.6, 1], vertical_alignment="bottom")
        usual: VoteObjective = "kto" if campaign.config.is_single else "dpo"
        objective: VoteObjective = choose_one("Train on", OBJECTIVES, default=usual, key="plan_objective", place=left)
        ids, words = list(bases), by_identity("plan_base", bases, bases.__getitem__)
        base = right.selectbox(
            "Base",
            ids,
            index=ids.index(first.base.id),
            format_func=words,
            key="plan_base",
            help="By default the leader.",
        )
        rules = _draw_rules(first.preview.categories)
        plan = plan_training(ctx, campaign.id, rules=rules, objective=objective, base_id=base)
        _draw_rows(plan)
        if not plan.num_rows:
            return
        with st.container(horizontal=True, vertical_alignment="center"):
            if draw_flagged(ctx, campaign, key="plan_flags"):
                st.caption("Their votes are trained on, unless you exclude them.", width="content")
        config = _draw_recipe(plan)
        if person.may_build and st.button(
            "Train on these votes",
            type="primary",
            key="plan_go",
            icon=":material/model_training:",
            disabled=bool(wrong_numbers()),
        ):
            content = f"{campaign.num_votes} {rules.to_yaml()} {config.to_yaml()}"
            key = f"{campaign.id}-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
            launch = train_on_votes(
                ctx,
                campaign.id,
                person=person,
                idempotency_key=key,
                rules=rules,
                objective=objective,
                base_id=base,
                config_yaml=config.to_yaml(),
            )
            st.switch_page(routes.BATTLES, query_params={"campaign": launch.rematch.id})


def _draw_rules(categories: tuple[str, ...]) -> PreferenceRules:
    with st.expander("Rules", icon=":material/rule:", key="plan_rules"):
        as_yaml = st.toggle("As YAML", key="plan_rules_as_yaml")
        if as_yaml:
            text = st.text_area(
                "Rules",
                key="plan_rules_yaml",
                height=140,
                placeholder="min_agreement: 0.6\nmin_raters: 2\nboth_bad: exclude",
            )
            return parse_rules(text or "")
        values = draw_fields(
            PreferenceRules,
            key="plan",
            skip=() if categories else ("categories",),
            choices={"categories": {category: category for category in categories}},
        )
        rules = make_rules(values)
        if rules.to_yaml():
            st.code(rules.to_yaml(), language="yaml")
        return rules


def _draw_rows(plan: TrainingPlan) -> None:
    preview = plan.preview
    grid = st.grid(4, min_column_width=140)
    draw_metric(grid, "Preference pairs" if plan.objective == "dpo" else "Rows", f"{plan.num_rows:,}")
    agreement = preview.resolution.agreement
    draw_metric(
        grid,
        "Mean agreement",
        percent(agreement) if agreement is not None else "–",
        help="Share of a pair's votes for the chosen answer, over pairs that several raters voted on.",
    )
    draw_metric(
        grid,
        "Held-out voted prompts",
        f"{preview.num_locked:,}",
        help="Voted prompts that no run trains on. The rematch draws from them and from prompts without votes.",
    )
    length = preview.length
    interval = (
        f"95 % interval {length.low:+.1f} to {length.high:+.1f}" if length and length.low is not None else "no interval"
    )
    draw_metric(
        grid,
        "Chosen longer by",
        f"{length.value:+.1f} tokens" if length else "–",
        help=f"Chosen minus rejected answer, on average; {interval}.",
    )
    left_out = describe_left_out(preview.resolution.left_out.items())
    if plan.objective == "dpo" and left_out:
        st.caption(plain(f"Pairs left out: {left_out}."))
    if agreement is not None:
        shared = f"{len(preview.resolution.shared):,} of {plural(len(preview.resolution.preferences), 'pair')}"
        st.caption(f"Mean agreement is over {shared} with votes of several raters.")
    if preview.num_excluded_votes:
        st.caption(f"{plural(preview.num_excluded_votes, 'vote')} of excluded raters left out.")
    if not plan.num_rows:
        st.info("The votes give no row of this kind yet.", icon=":material/info:")
        return
    if plan.objective == "dpo":
        for warning in preview.warnings:
            st.warning(plain(warning.text), icon=":material/warning:")
        _draw_pairs(preview)


def _draw_pairs(preview: PreferencePreview) -> None:
    with st.expander(f"Preview of {plural(len(preview.pairs), 'pair')}", icon=":material/preview:", key="plan_preview"):
        for number, pair in enumerate(preview.pairs[:NUM_SHOWN]):
            with st.container(border=True, gap="xsmall", key=f"plan_pair_{number}"):
                st.caption(plain(f"{plural(pair.num_raters, 'rater')}, agreement {percent(pair.agreement)}"))
                st.text(pair.prompt)
                chosen, rejected = st.columns(2)
                chosen.badge(f"chosen · {plain(pair.chosen_by)}", color="green", icon=":material/check:")
                chosen.text(pair.chosen or "(empty)")
                rejected.badge(f"rejected · {plain(pair.rejected_by)}", color="gray", icon=":material/close:")
                rejected.text(pair.rejected or "(empty)")
        if len(preview.pairs) > NUM_SHOWN:
            st.caption(f"and {len(preview.pairs) - NUM_SHOWN:,} more")


def _draw_recipe(plan: TrainingPlan) -> RunConfig:
    """Draw the recipe's fields, or the whole config as YAML; return the config as edited."""
    suggested = plan.config
    scope = f"{plan.objective}_{plan.base.id}_{plan.num_rows}"  # another suggestion shows its own values
    with st.expander("Recipe", icon=":material/tune:", key="plan_recipe"):
        if st.toggle("As YAML", key="plan_config_as_yaml", help="Every field of the run's config."):
            text = st.text_area("Config", value=suggested.to_yaml(), height=320, key=f"plan_yaml_{scope}")
            return parse_run_config(text or "")
        values: FieldValues = suggested.model_dump(mode="json")
        grid = st.grid(5 if plan.objective != "sft" else 4, min_column_width=150)
        key = f"plan_{scope}"
        values |= draw_fields(
            RunConfig,
            key=key,
            only=("learning_rate", "max_steps", "micro_batch", "method"),
            values=suggested,
            choices={"method": METHODS},
            place=grid,
        )
        if plan.objective != "sft":
            section = {**suggested.preference.__dict__, "objective": plan.objective}
            values["preference"] |= draw_fields(PreferenceConfig, key=key, only=("beta",), values=section, place=grid)
        values["warmup_steps"] = min(int(values["warmup_steps"] or 0), int(values["max_steps"]))
        values["checkpoint_every"] = values["max_steps"]
        values["eval_every"] = min(int(values["eval_every"]), int(values["max_steps"]))
        for label, reason in plan.reasons:
            st.caption(plain(f"{label}: {reason}."))
        return parse_config(values)
