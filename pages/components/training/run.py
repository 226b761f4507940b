"""Parts of the page Run: facts, actions, failure, queue, checkpoints, notes, findings, report, and the predictions of
held-out rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Literal

import streamlit as st

from backend.domain.jobs.states import Status
from backend.domain.names import as_ascii
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import write_changes
from backend.domain.training.diagnosis import Finding, breaking_finding, spoils
from backend.domain.training.held_out import FEW_ROWS, MEASURES, HeldOutRow, HeldOutRows
from backend.domain.training.metric_labels import METRIC_LABELS, validation_result
from backend.domain.training.objectives import label_of, writes_text
from backend.domain.training.run_table import DURATION_HELP
from backend.domain.wording import format_count, format_duration, format_number, plural, visible
from backend.services.context import Context, Person
from backend.services.training.figures import figures_of_runs, last_step_of
from backend.services.training.reports import report_body, run_report_text
from backend.services.training.runs import (
    archive_runs,
    rename_run,
    resume_run,
    retry_run,
    set_notes,
    set_tags,
    stop_run,
)
from backend.services.training.sweeps import sweep_of_run
from backend.services.training.views import ExpectedStart, RunDetail, RunView, read_held_out
from pages.components import routes
from pages.components.downloads import draw_download
from pages.components.frame import draw_figure, plain, rerun_after, title_tab
from pages.components.links import chat_endpoints, draw_chat_link, page_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.settings_form import draw_notes
from pages.components.training.placement import draw_placement
from pages.components.words import size, when

SHOWN_CHILDREN = 3


def draw_facts(ctx: Context, detail: RunDetail) -> None:
    """Draw the facts of a run, with links to dataset, base, parent, sweep and children."""
    run = detail.run
    training = label_of(run.objective) + ({"lora": " with LoRA", "qlora": " with QLoRA"}.get(run.method, ""))
    who = f" by {plain(run.created_by)}" if run.created_by else ""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.caption(f"{training}, launched {when(run.created_at, now=ctx.now())}{who}", width="content")
        if run.dataset:
            page_link(routes.DATASETS, plain(run.dataset), {"dataset": detail.dataset_id or ""})
        if run.base_id and run.base:
            page_link(routes.CHECKPOINTS, plain(run.base), {"checkpoint": run.base_id})
        if detail.parent is not None:
            page_link(routes.RUN, plain(detail.parent[1]), {"run": detail.parent[0]}, icon="north_west")
        if (sweep := sweep_of_run(ctx, run.id)) is not None:
            page_link(routes.SWEEP, plain(sweep[1]), {"sweep": sweep[0]})
        _draw_children(detail.children[:SHOWN_CHILDREN])
        if others := detail.children[SHOWN_CHILDREN:]:
            with st.popover(f"and {len(others):,} more", type="tertiary"):
                _draw_children(others)
        for tag in run.tags:
            st.badge(plain(tag), color="gray")
        draw_placement(ctx, run)


def _draw_children(children: Sequence[tuple[str, str]]) -> None:
    for run_id, name in children:
        page_link(routes.RUN, plain(name), {"run": run_id}, icon="subdirectory_arrow_right")


def draw_imported_facts(ctx: Context, run: RunView) -> None:
    """Draw the source of an imported run and the link to the comparison."""
    who = f" by {plain(run.created_by)}" if run.created_by else ""
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.badge("Imported log", icon=":material/input:", color="gray")
        st.caption(f"Read from {plain(run.source)} {when(run.created_at, now=ctx.now())}{who}", width="content")
        for tag in run.tags:
            st.badge(plain(tag), color="gray")
        page_link(routes.RUNS, "Compare", {"compare": run.id}, icon="compare_arrows")
    for note in run.import_notes:
        st.caption(f":material/info: {plain(note)}")


def draw_strip(ctx: Context, run: RunView, detail: RunDetail) -> None:
    """Draw the run's figures: losses, steps, tokens, duration, speed, and the settings that matter most. `run` is its
    newest state.
    """
    config = detail.config
    speed = None if run.is_active else figures_of_runs(ctx, [run.id])[run.id].tokens_per_s
    with st.container(border=True, key="run_strip"), st.grid(4, min_column_width=130):
        val_step = None if run.is_active else last_step_of(ctx, run.id, "val_loss")
        for label, value in strip_figures(run, config, now=ctx.now(), val_step=val_step, median_speed=speed):
            draw_figure(label, value, help=DURATION_HELP if label == "Duration" else None)
    if run.restart is not None:
        st.caption(f":material/replay: {run.restart.sentence} Log says why the attempt before it ended.")
    if (encoded := run.encoded) is not None and (encoded.left_out or encoded.truncated):
        left_out = f"{encoded.left_out:,} left out" if encoded.left_out else ""
        truncated = f"{encoded.truncated:,} truncated to {config.context:,} tokens" if encoded.truncated else ""
        counts = " and ".join(filter(None, (left_out, truncated)))
        st.caption(f":material/info: Of {plural(encoded.rows, 'train row')}, {counts}. Log has the causes.")
    held_out = None if run.is_active or config.objective.pretrains else read_held_out(ctx, run)
    if held_out is None:
        return
    if held_out.num_rows < FEW_ROWS:
        rows, cure = plural(held_out.num_rows, "row"), "Hold out more."
        if held_out.num_rows < detail.val_rows and config.eval_batches * config.micro_batch < FEW_ROWS:
            rows = f"{held_out.num_rows:,} of {detail.val_rows:,} held-out rows"
            cure = f"Raise Batches per evaluation, {config.eval_batches:,} here."
        st.caption(f":material/info: Validated on {rows}: too few to measure the model. {cure}")
    if held_out.is_silent:
        prompts = plural(held_out.num_answers, "held-out prompt")
        st.warning(
            f"**The model writes nothing.** At step {held_out.step:,} it ended its answer at once on all of"
            f" {prompts}, whatever its loss. Predictions shows them.",
            icon=":material/speaker_notes_off:",
        )


def strip_figures(
    run: RunView,
    config: RunConfig,
    *,
    now: datetime,
    val_step: int | None = None,
    median_speed: float | None = None,
) -> list[tuple[str, str]]:
    """Return labels and values of the strip; what is not known yet is left out, and of an active run what the chart
    below shows at every step. `val_step` is that of the validation loss, told where the run went on. The speed of an
    ended run is that of the chart: the median of its steps.
    """
    val_loss, train_loss = run.last.get("val_loss"), run.last.get("train_loss")
    figures = []
    if not run.is_active:
        if val_loss is not None and not config.objective.samples:
            best = run.best_val_loss
            at = f" at step {val_step:,}" if val_step is not None and val_step < run.last_step else ""
            figures.append((f"Validation loss{at}", f"{val_loss:.4f}"))
            if best is not None and best < val_loss:
                figures.append(("Best validation loss", f"{best:.4f}"))
        if config.objective.samples:  # the loss of a policy is near 0 whatever it earns
            rewards = {name: run.last.get(name) for name in ("val_reward/mean", "reward/mean")}
            figures += [(METRIC_LABELS[name], f"{one:.4g}") for name, one in rewards.items() if one is not None]
        elif train_loss is not None:
            figures.append(("Training loss", f"{train_loss:.4f}"))
        figures.append(("Steps", f"{run.last_step:,} of {run.max_steps:,}"))
        if run.tokens:
            figures.append(("Tokens", format_count(run.tokens)))
    if (seconds := run.seconds(now)) is not None:
        figures.append(("Duration", format_duration(seconds)))
    if run.is_active:
        if run.status is not Status.QUEUED and (speed := run.last.get("tok_per_sec")):
            figures.append(("Tokens/s now", format_count(speed)))
    elif median_speed:
        figures.append(("Tokens/s, median", format_count(median_speed)))
    figures.append(("Peak LR", format_number(config.learning_rate)))
    sequences = config.micro_batch * config.grad_accum_steps * config.devices.count
    figures.append(("Batch", f"{sequences:,} × {config.context:,} tokens"))
    return figures


def draw_run_actions(ctx: Context, person: Person, detail: RunDetail, *, breaking: Finding | None = None) -> None:
    """Draw the actions that the run's status allows. The cure of a run with a `breaking` finding, or of one that failed
    by a value of its config, is not to start it again: that stands last, and not at all where it would start from
    spoiled weights or from none.
    """
    run = detail.run
    breaks_again = breaking is not None or (run.status is Status.FAILED and run.error.field is not None)
    with st.container(horizontal=True, vertical_alignment="center"):
        if run.is_active:
            _draw_stops(ctx, person, run)
        elif not breaks_again:
            _draw_continuations(ctx, person, detail)
        page_link(routes.LAUNCH, "New run from this one", {"run": run.id}, icon="content_copy")
        page_link(routes.RUNS, "Compare", {"compare": run.id}, icon="compare_arrows")
        if not run.is_active and breaks_again and not spoils(breaking, detail.resume_step):
            _draw_continuations(ctx, person, detail, kind="secondary")


def _draw_stops(ctx: Context, person: Person, run: RunView) -> None:
    waiting = run.status is Status.QUEUED
    if not waiting and st.button(
        "Stop and save",
        key="run_stop_and_save",
        icon=":material/save:",
        disabled=run.status is Status.CANCELLING,
        help="Ends the run after this step with a checkpoint to resume from.",
    ):
        with rerun_after():
            stop_run(ctx, run.id, how="stop_and_save", person=person)
    with st.popover("Cancel", icon=":material/cancel:"):
        st.write(
            "The run has not started, so nothing is lost."
            if waiting
            else "Ends the run now. Progress since the last checkpoint is lost."
        )
        if st.button("Cancel run", key="run_cancel", type="primary"):
            with rerun_after():
                stop_run(ctx, run.id, how="cancel", person=person)


@number_form
def _draw_continuations(
    ctx: Context, person: Person, detail: RunDetail, *, kind: Literal["primary", "secondary"] = "primary"
) -> None:
    run, step = detail.run, detail.resume_step
    if step is None or run.status is Status.FAILED:
        label = "Start again" if step is None else f"Retry from step {step:,}"
        if run.status is not Status.FINISHED and st.button(label, key="run_retry", icon=":material/replay:", type=kind):
            with rerun_after():
                retry_run(ctx, run.id, person=person)
        return
    goes_on, label = step < run.max_steps, f"Resume from step {step:,}"
    if goes_on and st.button(label, key="run_resume", icon=":material/play_arrow:", type=kind):
        with rerun_after():
            resume_run(ctx, run.id, person=person)
    with st.popover("Resume with other steps" if goes_on else label, icon=":material/play_arrow:"):
        total = draw_number(
            st,
            "Total steps",
            step + 1,
            None,
            run.max_steps if goes_on else step + max(1, run.max_steps // 2),
            key="run_more_steps",
            help="The learning rate schedule is stretched to this length.",
        )
        if st.button("Resume", key="run_resume_longer", type="primary", disabled=bool(wrong_numbers())):
            with rerun_after():
                resume_run(ctx, run.id, person=person, max_steps=int(total))


def draw_expected_start(expected: ExpectedStart) -> None:
    """Draw the jobs ahead in the queue and the expected start."""
    if expected.num_slots == 0:
        st.warning(
            "No worker serves the queue `train`. The run starts as soon as one does.", icon=":material/cloud_off:"
        )
        return
    if not expected.ahead.count:
        st.info("Next in the queue: it starts within seconds.", icon=":material/schedule:")
        return
    ahead = ", ".join(
        f"“{plain(job.title)}” ({'running' if job.status is not Status.QUEUED else 'waiting'})"
        for job in expected.ahead.first[:4]
    )
    more = f" and {expected.ahead.count - 4:,} more" if expected.ahead.count > 4 else ""
    start = (
        f" Expected to start in about {format_duration(expected.expected_wait_s)}."
        if expected.expected_wait_s is not None
        else " The expected start is not known yet."
    )
    st.info(f"{plural(expected.ahead.count, 'job')} ahead: {ahead}{more}.{start}", icon=":material/schedule:")


def draw_checkpoints(ctx: Context, detail: RunDetail, *, breaking: Finding | None) -> None:
    """Draw the run's checkpoints with their next steps; those that a breaking finding spoils have none."""
    if not detail.checkpoints:
        st.caption(
            f"The first checkpoint comes at step {min(detail.config.checkpoint_every, detail.config.max_steps):,}."
        )
        return
    best = min(
        (line for line in detail.checkpoints if line.val_loss is not None),
        key=lambda line: line.val_loss or 0.0,
        default=None,
    )
    endpoints = chat_endpoints(ctx)
    for line in detail.checkpoints:
        with st.container(border=True, horizontal=True, vertical_alignment="center", gap="medium"):
            page_link(
                routes.CHECKPOINTS,
                f"Step {line.step:,}" if line.step is not None else plain(line.name),
                {"checkpoint": line.id},
            )
            result = validation_result(line.metrics, detail.run.objective)
            facts = [f"{result[0]} {result[1]:.4f}"] if result is not None else []
            facts += [size(line.bytes), when(line.created_at, now=ctx.now())]
            st.caption(" · ".join(facts), width="content")
            if line == best:
                is_lowest = detail.run.best_val_loss is None or (line.val_loss or 0.0) <= detail.run.best_val_loss
                st.badge("best" if is_lowest else "best of those saved", color="green")
            if line.is_final:
                st.badge("final", color="blue")
            if not spoils(breaking, line.step):
                draw_next_steps(line.id, endpoints, writes=writes_text(detail.run.objective))


def draw_next_steps(checkpoint_id: str, endpoints: Mapping[str, str], *, writes: bool) -> None:
    """Draw links to the uses of a checkpoint; one that generates no text (a reward model) can only be trained
    further. `endpoints` are those of `chat_endpoints`.
    """
    if writes:
        draw_chat_link(checkpoint_id, endpoints)
    for label, icon, page in NEXT_STEPS if writes else NEXT_STEPS[-1:]:
        page_link(page, label, {_PARAMETER.get(page, "checkpoint"): checkpoint_id}, icon=icon)


BARELY = 0.1


def say_barely_trained(run: RunView, step: int | None) -> str:
    """Say that a network that began at random has made few of its run's steps; empty where it has made more."""
    if run.base_id or step is None or (step > 1 and step >= BARELY * run.max_steps):
        return ""
    return f"Barely trained: step {step:,} of {run.max_steps:,}."


NEXT_STEPS = (
    ("Evaluate", "grading", routes.EVALUATIONS),
    ("Battle", "swords", routes.BATTLES),
    ("Continue training", "model_training", routes.LAUNCH),
)
_PARAMETER = {routes.LAUNCH: "base", routes.BATTLES: "contestants"}


def draw_editor(ctx: Context, person: Person, run: RunView) -> None:
    """Draw name, tags, notes and archive."""
    draw_notes(
        run.notes,
        key=f"run_notes_{run.id}",
        save=lambda notes, before: set_notes(ctx, run.id, notes, person=person, before=before),
        placeholder="Hypothesis and result",
    )
    with st.form(f"run_edit_{run.id}", border=False):
        name = st.text_input("Name", value=run.name, key=f"run_name_{run.id}", max_chars=120)
        tags = st.text_input("Tags, separated by commas", value=", ".join(run.tags), key=f"run_tags_{run.id}")
        if st.form_submit_button("Save", key=f"run_save_{run.id}"):
            with rerun_after():
                if name != run.name:
                    rename_run(ctx, run.id, name, person=person)
                set_tags(ctx, run.id, tuple(tags.split(",")), person=person)
                st.toast("Saved.")
    archived = run.archived_at is not None
    if st.button(
        "Unarchive" if archived else "Archive",
        key=f"run_archive_{run.id}",
        icon=":material/unarchive:" if archived else ":material/archive:",
        disabled=run.is_active,
        help="Hides the run from lists; nothing is deleted.",
    ):
        with rerun_after():
            archive_runs(ctx, [run.id], person=person, archived=not archived)


BOXES = {
    "error": (st.error, ":material/emergency_home:"),
    "warning": (st.warning, ":material/troubleshoot:"),
    "note": (st.info, ":material/lightbulb:"),
}


def draw_findings(ctx: Context, person: Person, run: RunView, findings: Sequence[Finding]) -> None:
    """Draw findings: symptom, likely cause, and a link that launches a run with the suggested changes. What breaks a
    run is said alone; while the run is active, once more as a notification and in the tab's title.
    """
    breaking = breaking_finding(findings)
    is_diverging = run.is_active and breaking is not None
    title_tab(f"Diverging: {run.name}" if is_diverging else run.name)
    for index, finding in enumerate([breaking] if breaking is not None else findings):
        box, icon = BOXES[finding.severity]
        with st.container(horizontal=True, vertical_alignment="center", gap="medium", key=f"finding_{index}"):
            head = f"This run is diverging. {finding.sentence}" if is_diverging else finding.sentence
            box(f"**{plain(head)}**  \n{plain(finding.cause)}", icon=icon, width="stretch")
            if finding is breaking and is_diverging:
                _notify_once(run, finding)
                _draw_stop_and_cure(ctx, person, run, finding)
            elif run.is_imported or not finding.changes:
                continue
            elif finding is breaking:
                if st.button(finding.action, type="primary", icon=":material/healing:", key=f"cure_{index}"):
                    st.switch_page(routes.LAUNCH, query_params=_cure(run, finding))
            else:
                page_link(routes.LAUNCH, finding.action, _cure(run, finding), icon="healing")


def _cure(run: RunView, finding: Finding) -> dict[str, str]:
    return {"run": run.id, "set": write_changes(finding.changes)}


def _notify_once(run: RunView, finding: Finding) -> None:
    notified: set[str] = st.session_state.setdefault("runs_told_of", set())
    if run.id not in notified:
        notified.add(run.id)
        st.toast(f"**{plain(run.name)} is diverging.** {plain(finding.cause)}", icon=":material/emergency_home:")


def _draw_stop_and_cure(ctx: Context, person: Person, run: RunView, finding: Finding) -> None:
    """Draw the button that stops a diverging run and opens its cure."""
    cures = bool(finding.changes)
    label = f"Stop it and {finding.action[0].lower()}{finding.action[1:]}" if cures else "Stop the run"
    if st.button(
        label,
        key="cure_now",
        type="primary",
        icon=":material/healing:",
        disabled=run.status is Status.CANCELLING,
        help="Checkpoints that were saved stay.",
    ):
        with rerun_after():
            stop_run(ctx, run.id, how="cancel", person=person)
            if cures:
                st.switch_page(routes.LAUNCH, query_params=_cure(run, finding))


FORMS = {"md": "Download Markdown (model card)", "html": "Download HTML"}


def draw_run_report(ctx: Context, run: RunView) -> None:
    """Draw the report and its downloads, which are made when they are clicked."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", as_ascii(run.name)).strip("-") or "run"
    with st.container(horizontal=True):
        for form, label in FORMS.items():
            make = partial(run_report_text, ctx, run.id, form=form)
            draw_download(label, make, f"{name}.{form}", key=f"run_report_{form}", icon="description")
    with st.container(border=True, key="run_report"):
        st.markdown(report_body(ctx, run.id, escape=plain))


GIVEN = "Model output"


def _why_no_predictions(run: RunView, detail: RunDetail) -> str:
    first = min(detail.config.eval_every, detail.config.checkpoint_every, detail.config.max_steps)
    if not detail.val_rows:
        return f": {plain(detail.config.dataset)} has no validation split"
    return f": it ended before its first validation, at step {first:,}" if run.last_step < first else ""


def draw_held_out(ctx: Context, run: RunView, detail: RunDetail) -> None:
    """Draw the held-out rows with the highest losses. `run` is its newest state."""
    held_out = read_held_out(ctx, run)
    if held_out is None:
        st.caption(
            "Rows of the validation split with the highest losses appear here with the first checkpoint that is"
            " validated."
            if run.is_active
            else f"This run left no predictions{_why_no_predictions(run, detail)}."
        )
        return
    worst = f"the worst {len(held_out.rows)} of {plural(held_out.num_rows, 'held-out row')}"
    st.markdown(
        f"Step {held_out.step:,}: {worst}, in {MEASURES[held_out.measure]}. The mean of all is"
        f" **{held_out.mean_loss:.4g}**, each row counting once."
    )
    for index, row in enumerate(held_out.rows):
        _draw_row(held_out, row, index)


def _draw_row(held_out: HeldOutRows, row: HeldOutRow, index: int) -> None:
    with st.container(border=True, key=f"held_out_{index}", gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.markdown(f"**{row.loss:.4g}**", width="content")
            label = "" if row.is_good is None else " · rated good" if row.is_good else " · rated bad"
            tokens = plural(row.tokens, "trained token") if row.tokens else ""
            st.caption(f"{MEASURES[held_out.measure]}{label}{' · ' if tokens else ''}{tokens}", width="content")
        with st.grid("auto", min_column_width=240):
            for title, text in _texts(row):
                with st.container(gap="xsmall"):
                    st.caption(title)
                    st.code(visible(text), language=None, wrap_lines=True, height=_height(visible(text)))


def _texts(row: HeldOutRow) -> list[tuple[str, str]]:
    answers = [("Chosen", row.expected), ("Rejected", row.rejected)] if row.rejected is not None else []
    answers = answers or [("Answer" if row.is_good is not None else "Expected", row.expected)]
    given = [(GIVEN, row.given)] if row.given is not None else []
    return [("Prompt", row.prompt), *answers, *given]


def _height(text: str) -> int | Literal["content"]:
    return 180 if len(text) > 320 or text.count("\n") > 6 else "content"
