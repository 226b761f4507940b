"""Compare runs: differing settings, curves, and whether a difference is comparable and more than seed noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.training.comparisons import Aspect
from backend.domain.training.differences import SettingDifference, label_runs, list_differences
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.training.comparisons import ConfigGroup, GroupComparison, RunsComparison, compare_runs
from backend.services.training.imported_runs import import_log
from backend.services.training.views import RunView, read_configs, unique_names
from pages.components import routes
from pages.components.browser.live_chart.component import live_chart
from pages.components.frame import errors_shown, plain
from pages.components.links import page_link
from pages.components.numbers import form_button
from pages.components.tables import draw_table

MAX_COLUMNS = 3
CONCLUSION_ICONS = {True: ":material/check_circle:", False: ":material/grain:", None: ":material/help:"}
"""By whether a difference is more than seed noise; None: not known."""


def draw_run_comparison(ctx: Context, person: Person, runs: Sequence[RunView], *, head: DeltaGenerator) -> None:
    """Draw the settings in which runs differ at the head, overlaid curves, and below what may be concluded."""
    if len(runs) < 2:
        st.caption("Tick another run to compare.")
        live_chart(ctx, runs, person=person, key="runs_chart")
        return
    compared = compare_runs(ctx, [run.id for run in runs])
    configs, names = read_configs(ctx, [run.id for run in runs]), unique_names(runs)
    with head:
        st.subheader(f"{len(runs)} runs compared", anchor=False)
        _draw_obstacles(compared)
        _draw_settings(names, runs, list_differences(configs))
    live_chart(ctx, runs, person=person, key="runs_chart", labels=label_runs(names, configs))
    draw_seeds(compared)


def _draw_obstacles(compared: RunsComparison) -> None:
    """Draw why the losses are not comparable, and what to compare instead; or that they are of different parts."""
    if not compared.obstacles:
        if compared.validated:
            parts = "; ".join(f"{plain(name)}: {part}" for name, part in compared.validated.items())
            st.caption(
                f":material/info: Validated on different parts of the validation split. {parts}, at most. The losses"
                " are of the same part where batches per evaluation times micro-batch, and the context, are equal."
            )
        return
    aspects = {obstacle.aspect for obstacle in compared.obstacles}
    if aspects == {Aspect.TOKENIZER}:
        cure = "Compare bits per byte instead (panel “Validation bits per byte”): it does not depend on the tokenizer."
    else:
        cure = (
            "Evaluate the checkpoints on one benchmark to compare them. Bits per byte corrects for the tokenizer, not"
            " for the text."
        )
    reasons = "".join(f"  \n{plain(obstacle.sentence())}" for obstacle in compared.obstacles)
    st.warning(f"**Not comparable by loss.** {cure}{reasons}", icon=":material/balance:")


def draw_seeds(compared: RunsComparison) -> None:
    """Draw the mean last validation loss of each config over its seeds, and what may be concluded about the configs."""
    if not compared.groups:
        return
    st.markdown(
        "**Seeds**",
        help="Finished runs whose configs differ only in the seed, ticked or not, by their last validation loss.",
    )
    _draw_groups(compared.groups)
    for comparison in compared.comparisons:
        _draw_conclusion(comparison)
    few = [group for group in compared.groups if len(group.losses.losses) < 3]
    if len(compared.groups) > 1 and few and any(comparison.result for comparison in compared.comparisons):
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.caption("Launch another seed:", width="content")
            for group in few[:6]:
                page_link(
                    routes.LAUNCH,
                    f"{plain(group.label)}, seed {group.free_seed}",
                    {"run": group.runs[0].id, "set": f"seed:{group.free_seed}"},
                    icon="casino",
                )


def _draw_groups(groups: Sequence[ConfigGroup]) -> None:
    rows = []
    for group in groups:
        losses, by_bytes = group.losses, group.bits_per_byte
        row = {"Config of": group.label, "Data": group.basis.data.name, "Tokenizer": group.basis.tokenizer.name}
        row |= {
            "Seeds": f"{len(losses.losses)}",
            "Mean last validation loss": f"{losses.mean:.4f}",
            "Standard deviation": _number(losses.sd),
        }
        rows.append({**row, "Mean last bits per byte": _number(by_bytes.mean if by_bytes else None)})
    same = {name for name in ("Data", "Tokenizer") if len({row[name] for row in rows}) == 1}
    same |= {"Mean last bits per byte"} if not any(group.bits_per_byte for group in groups) else set()
    table = [{name: value for name, value in row.items() if name not in same} for row in rows]
    draw_table(table, key="runs_seeds", alt="Validation loss over the seeds of each config")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _draw_conclusion(comparison: GroupComparison) -> None:
    better, other, result = comparison.better, comparison.other, comparison.result
    pair = f"**{plain(better.label)}** against **{plain(other.label)}**"
    if result is None:
        st.markdown(f":material/balance: {pair}: not comparable.{_bytes_sentence(comparison)}")
        return
    needed = (
        f" About {plural(comparison.needed, 'seed')} each would show a difference of this size."
        if comparison.needed
        else ""
    )
    if comparison.obstacles:
        conclusion = (
            "not comparable by validation loss (different tokenizers); by bits per byte"
            f" {plain(result.conclusion('last bits per byte'))}"
        )
    else:
        conclusion = plain(result.conclusion())
    st.markdown(f"{CONCLUSION_ICONS[result.is_beyond_noise]} {pair}: {conclusion}{needed}")


def _bytes_sentence(comparison: GroupComparison) -> str:
    """Return the bits per byte of two configs that can't be tested against each other, where they are known."""
    aspects = {obstacle.aspect for obstacle in comparison.obstacles}
    one, two = comparison.better.bits_per_byte, comparison.other.bits_per_byte
    if one is None or two is None:
        return " Bits per byte, which would be comparable, were not measured." if aspects == {Aspect.TOKENIZER} else ""
    values = f" Bits per byte: {plain(f'{one.mean:.4f}')} against {plain(f'{two.mean:.4f}')}"
    return f"{values}, each on its own validation data." if Aspect.DATA in aspects else f"{values}."


def _draw_settings(names: Sequence[str], runs: Sequence[RunView], differences: Sequence[SettingDifference]) -> None:
    """Draw a row for each run, with its settings, steps and best loss that are not those of all; fields that
    decide little are behind a fold where there are many.
    """
    first = [each for each in differences if each.decides][:MAX_COLUMNS] or differences[:MAX_COLUMNS]
    steps = {run.last_step for run in runs}
    rows = [
        {
            "Run": name,
            **{each.label: each.texts[place] for each in first},
            **({"Steps done": f"{run.last_step:,}"} if len(steps) > 1 else {}),
            "Best validation loss": run.best_val_loss and f"{run.best_val_loss:.4f}",
        }
        for place, (name, run) in enumerate(zip(names, runs, strict=True))
    ]
    draw_table(rows, key="config_differences", alt="Settings in which the runs differ")
    if not differences:
        st.caption("The settings are the same.")
    if others := [each for each in differences if each not in first]:
        with st.expander(f"{plural(len(others), 'more setting')} {'differs' if len(others) == 1 else 'differ'}"):
            table = [{"Setting": each.label, **dict(zip(names, each.texts, strict=True))} for each in others]
            draw_table(table, key="other_differences", alt="Other settings in which the runs differ")


ENDINGS = "`trainer_state.json` (transformers), CSV with a column `step`, JSON Lines, TensorBoard event file"


def draw_log_import(ctx: Context, person: Person) -> list[str] | None:
    """Draw the popover that imports logs; return the ids of the runs it made."""
    # part of the keys, so that the popover closes and empties after an import
    entered = st.session_state.setdefault("log_entered", 0)
    with st.popover("Import logs", icon=":material/input:", key=f"log_popover_{entered}"):
        st.write(f"Add another program's curves as a run to compare with. Formats: {ENDINGS}.")
        files = st.file_uploader(
            "Files", accept_multiple_files=True, key=f"log_files_{entered}", label_visibility="collapsed"
        )
        name = st.text_input("Name", key=f"log_name_{entered}", max_chars=100, placeholder="Name of the file")
        if form_button("Import", {"choose a file": not files}, key="log_import"):
            made: list[str] = []
            with errors_shown():
                for file in files:
                    own = name if len(files) == 1 or not name else f"{name} {PurePath(file.name).stem}"
                    runs = import_log(ctx, file.getvalue(), filename=file.name, person=person, name=own)
                    made += [run.id for run in runs]
            if made:
                st.session_state["log_entered"] = entered + 1
            return made or None
    return None
