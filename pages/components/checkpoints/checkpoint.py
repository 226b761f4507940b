"""One checkpoint: facts, lineage, files, exports, next steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from backend.domain.checkpoints.export_formats import FORMATS, NO_GGUF_CURE, NUMBERS
from backend.domain.jobs.states import Status
from backend.domain.training.diagnosis import breaking_finding, spoils
from backend.domain.training.metric_labels import validation_result
from backend.domain.training.objectives import made_by
from backend.domain.wording import percent, short
from backend.services.checkpoints.checkpoints import (
    CheckpointView,
    archive_checkpoint,
    delete_checkpoint,
    list_checkpoint_users,
    list_children,
    list_deletion_losses,
    list_files,
    list_lineage,
    rename_checkpoint,
    set_checkpoint_notes,
)
from backend.services.checkpoints.exports import export_checkpoint, list_exports, why_no_gguf
from backend.services.checkpoints.files import zip_checkpoint
from backend.services.context import Context, Person
from backend.services.jobs.exports import ExportView
from backend.services.serving.aliases import alias_names
from backend.services.training.diagnosis import diagnose_run
from backend.services.training.views import read_configs
from pages.components import routes
from pages.components.choices import choose_one
from pages.components.downloads import draw_download
from pages.components.evaluation.run_scores import draw_checkpoint_scores
from pages.components.evaluation.safety import draw_safety
from pages.components.exports import draw_export, draw_push
from pages.components.frame import draw_metric, errors_shown, object_heading, plain, rerun_after, show_problem
from pages.components.job_progress import draw_job
from pages.components.links import chat_endpoints, draw_chat_link, page_link, row_link
from pages.components.settings_form import draw_settings_form
from pages.components.tables import draw_table
from pages.components.words import size, when


def draw_checkpoint(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw a checkpoint: facts, next steps, lineage, exports, settings."""
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(checkpoint.name, width="content")
        _draw_badges(checkpoint, alias_names(ctx).get(checkpoint.id, ()))
    if checkpoint.notes:
        st.text(checkpoint.notes)
    if checkpoint.deleted_at is not None:
        st.info(
            f"Its files were deleted {when(checkpoint.deleted_at)}. Its descendants keep their lineage.",
            icon=":material/delete:",
        )
    elif not checkpoint.is_ready:
        _draw_unready(ctx, person, checkpoint)
        return
    else:
        _draw_facts(ctx, checkpoint)
        _draw_next(ctx, checkpoint)
    lineage, scores, safety, exports, files, described = st.tabs(
        ["Lineage", "Scores", "Safety", "Export", "Files", "Details"], key="tab", bind="query-params"
    )
    with lineage:
        _draw_lineage(ctx, checkpoint)
    with scores:
        draw_checkpoint_scores(ctx, checkpoint)
    with safety:
        draw_safety(ctx, person, checkpoint)
    with exports:
        if checkpoint.is_ready:
            draw_exports(ctx, person, checkpoint)
        else:
            st.caption("The files were deleted.")
    with files:
        _draw_files(ctx, person, checkpoint)
    with described:
        rows = {
            "Source": checkpoint.source,
            **{key.replace("_", " ").capitalize(): _words(value) for key, value in checkpoint.facts.dump().items()},
        }
        draw_table(
            [{"Fact": key, "Value": value} for key, value in rows.items() if value],
            key=f"facts_{checkpoint.id}",
            alt="Details",
        )
    if checkpoint.deleted_at is None:
        with st.expander("Rename, notes, archive, delete", icon=":material/settings:"):
            _draw_settings(ctx, person, checkpoint)


def _draw_badges(checkpoint: CheckpointView, aliases: Sequence[str]) -> None:
    for alias in aliases:
        st.badge(plain(alias), icon=":material/bookmark:", color="blue")
    st.badge(
        "base" if checkpoint.origin == "added" else made_by(checkpoint.objective),
        color="gray",
    )
    if checkpoint.is_adapter:
        st.badge("adapter", icon=":material/extension:", color="violet")
    if checkpoint.is_final:
        st.badge("final", icon=":material/flag:", color="green")
    if checkpoint.archived_at:
        st.badge("archived", icon=":material/archive:", color="gray")


def _draw_unready(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    if checkpoint.status in {Status.FAILED, Status.CANCELLED} or checkpoint.job_id is None:
        if checkpoint.status is Status.CANCELLED:
            st.info("Stopped before it was added; nothing was kept.", icon=":material/stop_circle:")
        else:
            show_problem(
                f"It could not be added: {checkpoint.error.cause or 'its job is gone.'}", checkpoint.error.remedy
            )
        with st.container(horizontal=True, vertical_alignment="center"):
            page_link(routes.CHECKPOINTS, "Add it again", {"add": "1"}, icon="add")
            if st.button("Remove this entry", key=f"forget_{checkpoint.id}", icon=":material/delete:"):
                with errors_shown():
                    delete_checkpoint(ctx, checkpoint.id, person=person)
                    st.switch_page(routes.CHECKPOINTS, query_params={})
        return
    draw_job(ctx, person, checkpoint.job_id, doing=f"Adding {checkpoint.source}")


def _draw_facts(ctx: Context, checkpoint: CheckpointView) -> None:
    grid = st.grid(4, min_column_width=140)
    if checkpoint.parameters:
        draw_metric(grid, "Parameters", short(checkpoint.parameters))
    if context := checkpoint.facts.context:
        config = read_configs(ctx, [checkpoint.run_id])[0] if checkpoint.run_id else None
        is_shorter = config is not None and not config.base and config.context < context
        note = f"trained on {config.context:,}" if config is not None and is_shorter else None
        help_ = "Positions beyond those were never trained: longer texts get worse answers." if note else None
        draw_metric(grid, "Context, tokens", f"{context:,}", note=note, help=help_)
    draw_metric(grid, "Size", size(checkpoint.bytes))
    accuracy = checkpoint.metrics.get("val_accuracy")
    if accuracy is not None:
        help_ = "Share of validation pairs whose chosen answer scores higher."
        draw_metric(grid, "Validation accuracy", percent(accuracy, digits=1), help=help_)
    elif (result := validation_result(checkpoint.metrics, checkpoint.objective)) is not None:
        help_ = "Nats per token." if checkpoint.objective in ("pretrain", "sft", None) else None
        draw_metric(grid, result[0], f"{result[1]:.3f}", help=help_)
    elif checkpoint.family:
        draw_metric(grid, "Family", plain(checkpoint.family))
    if checkpoint.origin == "added":
        _draw_origin(checkpoint)


def _draw_origin(checkpoint: CheckpointView) -> None:
    """Draw the source and licence of a base."""
    commit, revision = checkpoint.facts.revision, checkpoint.facts.requested_revision
    source = plain(checkpoint.source.partition("@")[0] if commit else checkpoint.source)
    pinned = f", {plain(str(revision))}" + (f" at commit `{commit}`" if revision != commit else "") if commit else ""
    licence = plain(checkpoint.facts.licence or "not stated")
    with st.container(gap=None):
        st.caption(f":material/license: Licence: {licence}")
        st.caption(f":material/input: Source: {source}{pinned}")
        if checkpoint.facts.quantisation:
            st.caption(
                f":material/compress: GGUF: {plain(checkpoint.facts.quantisation)},"
                f" {checkpoint.facts.bits_per_weight} bits per weight; engine llama.cpp serves it as it is"
            )


def _draw_next(ctx: Context, checkpoint: CheckpointView) -> None:
    breaking = breaking_finding(diagnose_run(ctx, checkpoint.run_id)) if checkpoint.run_id else None
    if breaking is not None and spoils(breaking, checkpoint.step):
        st.error(f"**Of no use.** {plain(breaking.sentence)}", icon=":material/emergency_home:")
        page_link(routes.RUN, "See the run", {"run": checkpoint.run_id or ""}, icon="monitoring")
        return
    if not checkpoint.writes:
        st.info(
            "Reward models score answers and generate none, so they are not evaluated or entered in battles. As"
            " endpoints they answer /v1/score and /v1/rerank. transformers loads them as"
            " AutoModelForSequenceClassification; a reward run can continue from them.",
            icon=":material/scoreboard:",
        )
        with st.container(horizontal=True):
            query = {"checkpoint": checkpoint.id}
            page_link(routes.ENDPOINTS, "Deploy", query)
            query = {"base": checkpoint.name}
            page_link(routes.LAUNCH, "Continue training", query, icon="model_training")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        query = {"checkpoint": checkpoint.id}
        draw_chat_link(checkpoint.id, chat_endpoints(ctx))
        page_link(routes.LAUNCH, "Continue training", {"base": checkpoint.name}, icon="model_training")
        page_link(routes.INSPECT, "Inspect", query)
        page_link(routes.EVALUATIONS, "Evaluate", query)
        page_link(routes.BATTLES, "Battle", {"contestants": checkpoint.id})
        query = {"promote": checkpoint.id}
        row_link("Promote", page=routes.CHECKPOINTS, query=query, icon="arrow_upward", key="to_promotion")


def _draw_lineage(ctx: Context, checkpoint: CheckpointView) -> None:
    query = {"checkpoint": checkpoint.id}
    row_link("Graph with votes, decisions and files", page=routes.LINEAGE, query=query, key="to_lineage")
    chain = list_lineage(ctx, checkpoint.id)
    for place, link in enumerate(chain):
        with st.container(border=link.id == checkpoint.id, gap="xsmall"):
            with st.container(horizontal=True, vertical_alignment="center"):
                icon = "subdirectory_arrow_right" if place else "deployed_code"
                if link.id == checkpoint.id:
                    st.markdown(f":material/{icon}: **{plain(link.name)}**", width="content")
                else:
                    row_link(
                        link.name,
                        page=routes.CHECKPOINTS,
                        query={"checkpoint": link.id},
                        icon=icon,
                        key=f"link_{link.id}",
                    )
                if link.run_id and link.run:
                    page_link(routes.RUN, f"run {plain(link.run)}", {"run": link.run_id})
                if link.dataset and link.dataset_id:
                    page_link(routes.DATASETS, plain(link.dataset), {"dataset": link.dataset_id})
            st.caption(
                f"added from {plain(link.source)}, {when(link.created_at)}"
                if link.origin == "added"
                else f"step {link.step:,}, {when(link.created_at)}"
            )
    children = list_children(ctx, checkpoint.id)
    if children:
        st.caption("Descendants")
        for child in children[:20]:
            row_link(
                child.name,
                page=routes.CHECKPOINTS,
                query={"checkpoint": child.id},
                icon="arrow_forward",
                key=f"child_{child.id}",
            )


def _draw_files(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    files = list_files(ctx, checkpoint.id)
    if not files:
        st.caption("The files were deleted.")
        return
    draw_table([{"File": f.name, "Size": size(f.bytes)} for f in files], key=f"files_{checkpoint.id}", alt="Files")
    prepared = st.session_state.get("checkpoint_zip")
    if prepared and prepared[0] == checkpoint.id and prepared[1].is_file():
        name, make = f"{_file_name(checkpoint.name)}.zip", partial(prepared[1].open, "rb")
        draw_download("Download the zip file", make, name, key=f"zip_{checkpoint.id}", type="primary")
    elif st.button(
        "Prepare a download",
        key=f"prepare_{checkpoint.id}",
        icon=":material/folder_zip:",
        help="Without the training state.",
    ):
        with rerun_after():
            st.session_state["checkpoint_zip"] = (checkpoint.id, zip_checkpoint(ctx, checkpoint.id, person=person))


def _draw_settings(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    draw_settings_form(
        checkpoint,
        rename=lambda name: rename_checkpoint(ctx, checkpoint.id, name, person=person),
        save_notes=lambda notes, before: set_checkpoint_notes(ctx, checkpoint.id, notes, person=person, before=before),
        archive=lambda archived: archive_checkpoint(ctx, checkpoint.id, person=person, archived=archived),
        draw_delete=lambda: _draw_delete(ctx, person, checkpoint.id),
    )


def _draw_delete(ctx: Context, person: Person, checkpoint_id: str) -> None:
    if users := list_checkpoint_users(ctx, checkpoint_id):
        st.markdown("In use, so it can't be deleted. Stop these first, or archive the checkpoint instead:")
        st.markdown("\n".join(f"- {plain(user)}" for user in users))
        return
    st.markdown("Its files are deleted permanently; its lineage entry is kept.")
    if losses := list_deletion_losses(ctx, checkpoint_id):
        st.warning("  \n".join(map(plain, losses)))
    if st.button("Delete", key=f"delete_yes_{checkpoint_id}", type="primary"):
        with errors_shown():
            delete_checkpoint(ctx, checkpoint_id, person=person)
            st.switch_page(routes.CHECKPOINTS, query_params={})


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:80]


TITLES = {"hf": "Hugging Face folder", "merged": "Hugging Face folder, adapter merged", "gguf": "GGUF file"}


def draw_exports(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw the form and the list of exports."""
    _draw_form(ctx, person, checkpoint)
    exports = list_exports(ctx, checkpoint.id)
    for export in exports:
        with st.container(border=True, gap="xsmall"):
            draw_export(ctx, person, export, title=_title(export))
    if not exports:
        st.caption("No exports yet.")


def _draw_form(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    refusal = why_no_gguf(ctx, checkpoint)
    formats = [
        name for name in FORMATS if (name != "merged" or checkpoint.is_adapter) and (name != "gguf" or refusal is None)
    ]
    titles = {**TITLES, "hf": "Adapter" if checkpoint.is_adapter else "Folder"}
    format = choose_one(
        "Format",
        formats,
        default=formats[-1],
        format_func=lambda name: titles[name],
        key=f"export_format_{checkpoint.id}",
    )
    numbers = "f16"
    st.caption(FORMATS[str(format)])
    if refusal is not None:
        st.caption(f":material/info: {plain(refusal)} {plain(NO_GGUF_CURE)}")
    if format == "gguf":
        numbers = st.selectbox(
            "Precision",
            list(NUMBERS),
            key=f"export_numbers_{checkpoint.id}",
            format_func=lambda name: f"{name.upper()} · {NUMBERS[name]}",
            width=420,
        )
    push, private, is_ready = draw_push(f"export_{checkpoint.id}")
    if st.button(
        "Export", key=f"export_{checkpoint.id}", icon=":material/ios_share:", type="primary", disabled=not is_ready
    ):
        with rerun_after():
            export_checkpoint(
                ctx, checkpoint.id, format=str(format), numbers=numbers, push=push, private=private, person=person
            )


def _title(export: ExportView) -> str:
    title = TITLES.get(export.format, export.format)
    return f"{title}, {export.numbers.upper()}" if export.format == "gguf" else title
