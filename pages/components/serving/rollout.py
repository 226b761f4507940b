"""Rollout, number of replicas, rollback and canary of an endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import cast

import streamlit as st

from backend.domain.serving.canary import CanaryRules, Observed, describe_growth
from backend.domain.serving.deployment import MAX_REPLICAS, SLEEP_MINUTES, DeploymentOptions
from backend.domain.serving.engines import ENGINE_TITLES, EngineName
from backend.domain.wording import plural
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.context import Context, Person
from backend.services.serving.aliases import explain_alias
from backend.services.serving.autoscaling import change_scaling
from backend.services.serving.canaries import (
    abort_canary,
    likely_successor,
    observe_canary,
    promote_canary,
    start_canary,
)
from backend.services.serving.deployments import (
    missing_engines,
    next_options,
    rollback_endpoint,
    rollback_target,
    scale_endpoint,
    swap_checkpoint,
)
from backend.services.serving.endpoints import CanaryView, EndpointView
from backend.services.serving.upstreams import list_upstreams
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import choose_from
from pages.components.confirm import close_menu, draw_confirmed, menu_key
from pages.components.forms import Choices, draw_fields, group_expander, read_form
from pages.components.frame import plain, rerun_after, with_code
from pages.components.links import row_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.words import when


def draw_options(
    ctx: Context, drafts: Mapping[str, str], *, previous: EndpointView | None, key: str
) -> DeploymentOptions:
    """Draw the options of a deployment, folded, at first those of the previous revision; return them. `drafts` are the
    checkpoints that can draft, by id.
    """
    icon = ":material/tune:"
    with group_expander(DeploymentOptions, "", "Serving options", name=f"{key}_options", key=key, icon=icon):
        before = next_options(previous, {} if previous and previous.config.draft in drafts else {"draft": None})
        missing = missing_engines(ctx)
        engines = {
            name: title + (" (not installed)" if name in missing else "") for name, title in ENGINE_TITLES.items()
        }
        choices: dict[str, Choices] = {"draft": {None: "None", **drafts}, "engine": engines}
        values = draw_fields(DeploymentOptions, key=key, columns=2, choices=choices, values=before)
        if cure := missing.get(str(values.get("engine"))):
            st.warning(with_code(cure), icon=":material/download:")
        values |= draw_scaling(before, key=key)
        return read_form(DeploymentOptions, before.changed() | values) or before


def draw_scaling(options: DeploymentOptions, *, key: str) -> dict[str, object]:
    """Draw the fields of autoscaling and sleep; return the options that they set."""
    rules = options.scaling
    values: dict[str, object] = {"min_replicas": rules.least, "max_replicas": None, "sleep_after_minutes": None}
    if st.toggle(
        "Autoscaling", rules.most is not None, key=f"{key}_autoscales", help="The number of replicas follows the queue."
    ):
        most = {"max_replicas": rules.most or min(MAX_REPLICAS, rules.least + 3)}
        values |= draw_fields(
            DeploymentOptions, group="Autoscaling", key=key, columns=2, values=options.model_copy(update=most)
        )
    if st.toggle(
        "Sleep while idle",
        rules.sleep_after_s is not None,
        key=f"{key}_sleeps",
        help="All replicas stop; the next request starts them and waits.",
    ):
        minutes = SLEEP_MINUTES if rules.sleep_after_s is None else rules.sleep_after_s / 60
        values |= draw_fields(
            DeploymentOptions, group="Sleep", key=key, columns=2, values={"sleep_after_minutes": minutes}
        )
    return values


def draw_rollout(endpoint: EndpointView) -> None:
    """Draw the progress of a rollout; nothing where none is under way."""
    rollout = endpoint.rollout
    if rollout is None:
        return
    text = (
        f"Revision {rollout.revision}: {rollout.new_ready} of {plural(rollout.target, 'replica')} ready · "
        f"revision {rollout.previous}: {rollout.old_ready} still answering"
    )
    st.progress(min(1.0, rollout.new_ready / max(1, rollout.target)), text=text)


@number_form
def draw_scale(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the number of replicas with its button."""
    with st.popover("Scale", icon=":material/open_in_full:", key=menu_key(f"scale_menu_{endpoint.name}")):
        rules = endpoint.config.scaling
        number = draw_number(
            st,
            "Replicas",
            rules.least if rules.most else 1,
            rules.most or MAX_REPLICAS,
            endpoint.target or 1,
            key=f"scale_number_{endpoint.name}",
        )
        st.caption("Replicas that go finish their open answers.")
        if st.button(
            "Apply",
            type="primary",
            key=f"scale_{endpoint.name}",
            disabled=number == endpoint.target or bool(wrong_numbers()),
        ):
            with rerun_after():
                scale_endpoint(ctx, endpoint.name, int(number), person=person)
                close_menu(f"scale_menu_{endpoint.name}")
        changes = draw_scaling(endpoint.config, key=f"scale_{endpoint.name}")
        is_same = endpoint.config.model_copy(update=changes).scaling == rules
        if st.button("Save limits", key=f"save_scaling_{endpoint.name}", disabled=is_same or bool(wrong_numbers())):
            with rerun_after():
                change_scaling(ctx, endpoint.name, person=person, **changes)
                close_menu(f"scale_menu_{endpoint.name}")


def draw_rollback(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the way back to the revision before; nothing where there is none."""
    target = rollback_target(ctx, endpoint.name)
    if target is None:
        return
    icon, key = ":material/undo:", menu_key(f"rollback_menu_{endpoint.name}")
    if target.problem:
        reason = f"Revision {target.revision} can't be served again. {target.problem}"
        st.button("Roll back", icon=icon, disabled=True, help=plain(reason), key=key)
        return
    with st.popover("Roll back", icon=icon, key=key):
        follows = explain_alias(ctx, endpoint.config.alias, served=target.checkpoint_name)
        again = f"Serve revision {target.revision} ({plain(target.checkpoint_name)}) again?"
        st.markdown(f"{again} No answer is cut off. {plain(follows)}".rstrip())
        if st.button("Roll back", type="primary", key=f"rollback_{endpoint.name}"):
            with rerun_after():
                rollback_endpoint(ctx, endpoint.name, person=person)
                close_menu(f"rollback_menu_{endpoint.name}")


def draw_swap(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the choice of another checkpoint, which is served with the same options."""
    with st.popover("Swap", icon=":material/swap_horiz:", key=menu_key(f"swap_menu_{endpoint.name}")):
        others = {c.id: c for c in list_checkpoints(ctx, ready=True) if c.writes and c.id != endpoint.checkpoint_id}
        if not others:
            st.caption("There is no other checkpoint. Train a model or add a base.")
            return
        chosen = choose_successor(
            ctx, label_usable_first(ctx, others.values()), key=f"swap_checkpoint_{endpoint.name}", endpoint=endpoint
        )
        st.caption("Replicas and options stay; replicas are replaced one by one. Rollback brings this checkpoint back.")
        if chosen and (follows := explain_alias(ctx, endpoint.config.alias, served=others[chosen].name)):
            st.caption(plain(follows))
        if st.button("Swap", type="primary", key=f"swap_{endpoint.name}", disabled=chosen is None) and chosen:
            with rerun_after():
                swap_checkpoint(ctx, endpoint.name, checkpoint_id=chosen, person=person)
                close_menu(f"swap_menu_{endpoint.name}")


def label_beside(ctx: Context, checkpoints: Iterable[CheckpointView], *, served: str) -> dict[str, str]:
    """Return the checkpoints that can answer beside the one that is served, by id, those of runs that diverged marked;
    the served one last, and named so.
    """
    labels = label_usable_first(ctx, [c for c in checkpoints if c.writes])
    name = labels.pop(served, None)
    return labels | ({} if name is None else {served: f"{name} (serves now)"})


def choose_successor(ctx: Context, labels: Mapping[str, str], *, key: str, endpoint: EndpointView) -> str | None:
    """Draw the choice of a checkpoint beside the served one or in its place: at first a likely one, or none."""
    likely = likely_successor(ctx, endpoint.checkpoint_id, list(labels))
    chosen: str | None = choose_from("Checkpoint", labels, key=key, value=likely, placeholder="Choose a checkpoint")
    return chosen


@number_form
def draw_canary_form(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the form that starts a canary; nothing while one runs."""
    if endpoint.canary is not None:
        return
    with st.popover("Canary", icon=":material/call_split:", key=f"canary_menu_{endpoint.name}"):
        checkpoints = label_beside(
            ctx, [*list_checkpoints(ctx, ready=True), *list_upstreams(ctx)], served=endpoint.checkpoint_id
        )
        chosen = choose_successor(ctx, checkpoints, key=f"canary_checkpoint_{endpoint.name}", endpoint=endpoint)
        engine = st.selectbox(
            "Engine",
            list(ENGINE_TITLES),
            index=list(ENGINE_TITLES).index(endpoint.config.engine),
            format_func=ENGINE_TITLES.__getitem__,
            key=f"canary_engine_{endpoint.name}",
        )
        values = draw_fields(CanaryRules, key=f"canary_{endpoint.name}", columns=1)
        if endpoint.config.alias is not None:
            st.caption(plain(f"{endpoint.config.alias} stays with its checkpoint, also where the canary is promoted."))
        if (
            st.button(
                "Start canary",
                type="primary",
                key=f"canary_{endpoint.name}",
                disabled=chosen is None or bool(wrong_numbers()),
            )
            and chosen
        ):
            with rerun_after():
                rules = CanaryRules.read(values)
                start_canary(
                    ctx,
                    endpoint.name,
                    checkpoint_id=chosen,
                    rules=rules,
                    engine=cast(EngineName, engine),
                    person=person,
                )


def draw_canary(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the canary that runs, with its share and its end by hand."""
    canary = endpoint.canary
    if canary is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", key=f"canary_row_{endpoint.name}"):
        words = f"canary {canary.percent:g} %, revision {canary.revision}"
        st.badge(words, icon=":material/call_split:", color="orange")
        query = {"checkpoint": canary.checkpoint_id}
        row_link(canary.checkpoint_name, page=routes.CHECKPOINTS, query=query, key=f"canary_of_{endpoint.name}")
        observed = observe_canary(ctx, endpoint.name)
        st.caption(plain(_rules(canary, observed)), width="content")
        if observed and observed.votes.total:
            st.caption(observed.votes.describe(), width="content")
        st.space("stretch")
        with st.container(horizontal=True, width="content"):  # wraps as one
            _draw_canary_ends(ctx, person, endpoint, canary)


def _draw_canary_ends(ctx: Context, person: Person, endpoint: EndpointView, canary: CanaryView) -> None:
    follows = explain_alias(ctx, endpoint.config.alias, served=canary.checkpoint_name)
    draw_confirmed(
        "Promote",
        f"All requests to **{plain(endpoint.name)}** go to {plain(canary.checkpoint_name)}, which answers"
        f" {canary.percent:g} % of them now; {plain(endpoint.checkpoint_name)} is replaced. No answer is cut off."
        + (f"  \n{plain(follows)}" if follows else ""),
        lambda: promote_canary(ctx, endpoint.name, person=person),
        key=f"promote_canary_{endpoint.name}",
        icon="north",
        disabled=not canary.num_ready,
        type="secondary",
    )
    if st.button("Abort", icon=":material/close:", key=f"abort_canary_{endpoint.name}"):
        with rerun_after():
            abort_canary(ctx, endpoint.name, person=person)


def _rules(canary: CanaryView, observed: Observed | None) -> str:
    rules = canary.traffic
    words = [f"{canary.num_ready} of {plural(canary.num_replicas, 'replica')} ready"]
    if rules.abort_error_rate is not None:
        words.append(f"aborts above {100 * rules.abort_error_rate:g} % errors")
    if rules.abort_p95_s is not None:
        words.append(f"aborts above {rules.abort_p95_s:g} s to the first token (p95)")
    words.append(describe_growth(rules))
    if rules.step_up and observed:
        earliest = (rules.step_at or canary.since) + timedelta(minutes=rules.step_minutes)
        so_far = f"{observed.requests:,} of {plural(rules.min_requests, 'request')}"
        words.append(f"next step at {when(earliest)} or later, {so_far} so far")
    return " · ".join(words)
