"""Safety: the card of a checkpoint with its drift, the report of a safety evaluation, and the installation's probes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import streamlit as st

from backend.domain.data.rows.records import KEEPS_RECORDS
from backend.domain.evaluation.safety.agreement import NOT_MEASURED, LanguageAgreement
from backend.domain.evaluation.safety.drift import Drift
from backend.domain.evaluation.safety.probes import METRICS, PROBE_LABEL, Probe
from backend.domain.evaluation.safety.reports import (
    NONE_JUDGED,
    CardScore,
    GroupScore,
    Unjudged,
    direction,
    format_value,
)
from backend.domain.wording import plural
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.endpoints import EvaluatedEndpointView, resolve_evaluated
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.items import ItemView
from backend.services.evaluation.safety.cards import (
    SafetyCard,
    add_agreement,
    agreement_line,
    has_judge,
    list_agreements,
    list_unjudged,
    read_harm,
    safety_card,
)
from backend.services.evaluation.safety.drifts import SafetyDrift
from backend.services.evaluation.safety.probes import (
    add_injection_probe,
    add_probe,
    list_probes,
    read_rows_of,
    rows_of_dataset,
    rows_of_upload,
)
from backend.services.evaluation.safety.runs import read_reports, read_toxicity, run_safety
from backend.services.evaluation.safety.toxicity import describe_toxicity
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import choose_from
from pages.components.evaluation.folding import folded
from pages.components.evaluation.gate import draw_verdict
from pages.components.frame import errors_shown, object_heading, plain, rerun_after
from pages.components.links import row_link
from pages.components.numbers import draw_number, form_button, number_form
from pages.components.tables import draw_table

SHOWN_CHOICES = 10
OUTCOME_COLOURS: dict[str, Literal["blue", "violet", "orange", "red"]] = {
    "refusal": "blue",
    "compliance": "violet",
    "unclear": "orange",
    "injected": "red",
    "reproduced": "red",
}


def draw_safety(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw a checkpoint's safety card, its drift from the base, and the form that measures it."""
    card = safety_card(ctx, checkpoint.id)
    if card.drift is not None:
        _draw_drift(card.drift)
    elif card.problem:
        st.warning(plain(card.problem), icon=":material/warning:")
    _draw_card(card, absent="Safety was not measured on this checkpoint. Measure it on the safety probes below.")
    if checkpoint.is_ready and checkpoint.writes and person.may_build:
        _draw_run(ctx, person, checkpoint)


def _draw_drift(drift: SafetyDrift) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        draw_verdict(drift.verdict)
        st.caption(
            plain(f"against {drift.base.name}, on the same items; margin {100 * drift.margin:g} points"),
            width="content",
        )
    for sentence in drift.sentences:
        st.error(plain(sentence[:1].upper() + sentence[1:] + "."), icon=":material/trending_down:")
    if not drift.sentences:
        st.caption("No change towards unsafe is shown by an interval.")
    rows = [_drift_row(change) for change in drift.changes]
    draw_table(rows, key=f"drift_{drift.checkpoint.id}", alt="Change of each safety metric")
    if drift.unmeasured:
        st.caption(plain(f"Not measured on both: {', '.join(drift.unmeasured)}."))


def _drift_row(change: Drift) -> dict[str, object]:
    gap = change.difference
    scale = 100 if METRICS[change.metric].is_share else 1
    bounds = (
        ""
        if gap is None or gap.low is None or gap.high is None
        else f" [{scale * gap.low:+.1f}, {scale * gap.high:+.1f}]"
    )
    return {
        "Probe": change.probe,
        "Metric": METRICS[change.metric].label,
        "Before": format_value(change.metric, change.before) if change.before == change.before else "–",
        "After": format_value(change.metric, change.after) if change.after == change.after else "–",
        "Change, points" if scale == 100 else "Change": "–" if gap is None else f"{scale * gap.value:+.1f}{bounds}",
        "Items": f"{change.n} of {change.total}",
        "Verdict": f"{change.verdict.value.capitalize()}: {change.reason}",
    }


def _draw_card(card: SafetyCard, *, absent: str) -> None:
    """Draw the scores with their notes; `absent` where nothing was measured."""
    is_measured = bool(card.scores or card.unjudged)
    if is_measured:
        _draw_scores(card)
    for note in card.notes:
        st.caption(plain(f"{note}."))
    if is_measured:
        missing = "Missing items could not be judged and count neither as safe nor as unsafe."
        st.caption(plain(f"{_agreement(card.agreement)} {missing}"))
        with st.expander("Safety card as Markdown", icon=":material/description:"):
            st.code(card.markdown, language="markdown")
    elif card.pending:
        st.caption(f"{plural(card.pending, 'safety probe')} running. Results appear here.")
    elif not card.notes:
        st.caption(absent)


def _draw_scores(card: SafetyCard) -> None:
    rows = [
        _card_row(s, value=format_value(s.metric, s.value, s.low, s.high), n=s.n, method=s.method) for s in card.scores
    ]
    rows += [_card_row(one, value=NONE_JUDGED, n=0, method="") for one in card.unjudged]
    draw_table(rows, key=f"safety_{card.subject.id}", alt="Safety scores with intervals and missing items")


def _card_row(score: CardScore | Unjudged, *, value: str, n: int, method: str) -> dict[str, object]:
    return {
        "Probe": PROBE_LABEL[score.probe],
        "Benchmark": score.benchmark,
        "Metric": f"{METRICS[score.metric].label} ({direction(score.metric)})",
        "Value [95 % interval]": value,
        "Items": n,
        "Missing": score.missing,
        "Interval by": method,
    }


def draw_endpoint_safety(ctx: Context, person: Person, key: str) -> None:
    """Draw the safety card of an endpoint, and the form that measures it. Raises NotFound."""
    endpoint = resolve_evaluated(ctx, key)
    object_heading(f"Safety of {endpoint.name}")
    card = safety_card(ctx, endpoint=key)
    _draw_card(card, absent="Safety was not measured on this endpoint.")
    probes = [view.version.dataset for view in list_probes(ctx)]
    if not probes:
        row_link("Add a safety probe", page=routes.EVALUATIONS, query={"safety": "1"}, icon="add", key="safety_add")
    elif person.may_build:
        with st.container(border=True):
            st.markdown("**Run the probes**")
            if _draw_run_form(ctx, person, endpoint, probes, key=key):
                st.rerun()


def _draw_run(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    probes = [view.version.dataset for view in list_probes(ctx)]
    if not probes:
        row_link(
            "Add a safety probe",
            page=routes.EVALUATIONS,
            query={"safety": "1"},
            icon="add",
            key=f"safety_add_{checkpoint.id}",
        )
        return
    with st.expander("Measure safety", icon=":material/shield:"):
        if _draw_run_form(ctx, person, checkpoint, probes, key=checkpoint.id):
            st.rerun()


@number_form
def _draw_run_form(
    ctx: Context,
    person: Person,
    subject: CheckpointView | EvaluatedEndpointView | None,
    probes: list[str],
    *,
    key: str,
) -> bool:
    """Draw the form that measures a checkpoint or an endpoint on probes; return whether it was started."""
    chosen = st.multiselect("Probes", probes, default=probes, key=f"safety_probes_{key}")
    limit = draw_number(
        st,
        "Item limit",
        1,
        None,
        key=f"safety_limit_{key}",
        placeholder="all",
        help="Items of each probe, drawn with a seed.",
    )
    parent = subject.parent_id if isinstance(subject, CheckpointView) else None
    with_base = parent is not None and st.checkbox(
        "Also measure its base, for the drift", value=True, key=f"safety_base_{key}_{parent}"
    )
    missing = {"choose a checkpoint": subject is None, "choose a probe": not chosen}
    if form_button("Run", missing, key=f"safety_run_{key}", icon="play_arrow") and subject is not None:
        with errors_shown():
            if isinstance(subject, EvaluatedEndpointView):
                run_safety(ctx, endpoint=subject.key, person=person, probes=chosen, limit=limit)
                return True
            for side in [subject.id, *([parent] if with_base and parent else [])]:
                run_safety(ctx, checkpoint=side, person=person, probes=chosen, limit=limit)
            return True
    return False


def _agreement(line: str, *, place: str = "under Safety probes") -> str:
    sentence = f"{line[:1].upper()}{line[1:]}."
    return (
        f"{sentence} Measure it on answers that people labelled, {place}." if line.endswith(NOT_MEASURED) else sentence
    )


def draw_safety_report(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw what a safety evaluation has beside its scores: the scorer's agreement, missing items, groups."""
    toxicity = read_toxicity(ctx, [evaluation.id]).get(evaluation.id)
    if toxicity is not None:
        st.caption(plain(f"{describe_toxicity(toxicity)}."))
        with st.expander("Audit of the classifier: harmless sentences called toxic", icon=":material/fact_check:"):
            draw_table(
                [_group_row("toxic", group) for group in toxicity.audit],
                key=f"audit_{evaluation.id}",
                alt="Audit by group",
            )
    report = read_reports(ctx, [evaluation.id]).get(evaluation.id)
    if report is None:
        return
    words = (
        f"{plural(report.unclear, 'item')} of {report.items} could not be judged and count neither as safe nor as"
        " unsafe."
    )
    if report.scorer:
        _draw_harm(ctx, evaluation)
        words = f"{_agreement(agreement_line(ctx))} {words}"
    lacking = "".join(f" {one.sentence}." for one in list_unjudged(evaluation, report))
    st.caption(plain(f"{words}{lacking}"))
    for metric, groups in report.groups.items():
        label = METRICS[metric].label if metric in METRICS else metric
        with st.expander(f"By group: {label}", icon=":material/category:"):
            draw_table(
                [_group_row(metric, group) for group in groups],
                key=f"groups_{evaluation.id}_{metric}",
                alt=f"{label} by group",
            )


def _draw_harm(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw what a judge said about harm, or offer to ask one: an answer that does not refuse need not do harm."""
    harm = read_harm(ctx, [evaluation.id]).get(evaluation.id)
    if harm is not None:
        share = format_value("harm", harm.share.value, harm.share.low, harm.share.high)
        missing = f", {harm.missing} without a verdict" if harm.missing else ""
        st.markdown(plain(f"Harmful answers by the judge {harm.judge}: {share} of {harm.share.n}{missing}."))
        row_link(
            "Verdicts",
            page=routes.EVALUATIONS,
            query={"judgement": harm.job_id},
            icon="gavel",
            key=f"harm_{evaluation.id}",
        )
        return
    words = "These scores say which answers don't refuse, in ten languages. A judge says which do harm, in any."
    if not has_judge(ctx):
        words += " None is at hand: deploy an endpoint or set ROUNDHOUSE_JUDGE_URL."
    with st.container(horizontal=True, vertical_alignment="center"):
        row_link(
            "Judge the harm of these answers",
            page=routes.EVALUATIONS,
            query={"judges": evaluation.id},
            icon="gavel",
            key=f"harm_{evaluation.id}",
        )
        st.caption(words)


def _group_row(metric: str, group: GroupScore) -> dict[str, object]:
    value = format_value(metric, group.value, group.low, group.high)
    return {"Group": group.group, "Value [95 % interval]": value, "Items": group.n}


def draw_safety_item(item: ItemView) -> None:
    """Draw one item of a safety evaluation: its outcome, and its texts folded."""
    outcome = str(item.shown.get("outcome") or ("missing" if item.shown.get("missing") else ""))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if outcome:
            st.badge(outcome, color=OUTCOME_COLOURS.get(outcome, "gray"))
        measured = {
            name: value for name, value in item.values.items() if name in METRICS and name != "unsafe_compliance"
        }
        shown = ", ".join(f"{METRICS[name].label}: {value:g}" for name, value in measured.items() if not outcome)
        st.caption(plain(shown or ", ".join(map(str, item.shown.get("cues") or []))), width="content")
    with folded(True):
        draw_texts(item.shown)


def draw_texts(shown: dict[str, Any]) -> None:
    """Draw an item's prompt and answer, or its choices, as plain text."""
    if shown.get("question"):
        st.text(str(shown["question"]))
    if "completion" in shown:
        st.caption("Answer")
        st.text(str(shown.get("completion") or "(nothing)"))
    logprobs = shown.get("logprobs") or []
    for index, choice in enumerate((shown.get("choices") or [])[:SHOWN_CHOICES]):
        score = f"log-likelihood {logprobs[index]:.2f}  " if index < len(logprobs) else ""
        st.text(f"{score}{str(choice).strip()}")


def draw_probes(ctx: Context, person: Person) -> None:
    """Draw the installation's safety probes, the agreement of the scorer, and the forms that add to them."""
    probes = list_probes(ctx)
    object_heading("Safety probes")
    rows = [
        {"Probe": p.version.label, "Kind": PROBE_LABEL[p.probe], "Items": p.items, "Source": p.source} for p in probes
    ]
    draw_table(rows, key="safety_probes", alt="Safety probes")
    if not probes:
        st.caption(
            "No safety probes yet. Add a published one, such as XSTest, AdvBench, BBQ, Winogender or CrowS-Pairs: its"
            " file, or a benchmark that was imported from it."
        )
    elif person.may_build:
        _draw_run_here(ctx, person, [view.version.dataset for view in probes])
    agreements = list_agreements(ctx)
    for agreement in agreements:
        st.caption(plain(_agreement(agreement.sentence)))
        if len(agreement.languages) > 1:
            rows = [_language_row(one) for one in agreement.languages]
            draw_table(rows, key=f"languages_{agreement.file}", alt="Agreement by language")
    if not agreements:
        st.caption(plain(_agreement(agreement_line(ctx), place="below")))
    if person.may_build:
        _draw_add(ctx, person, {view.version.dataset for view in probes})
        _draw_agreement(ctx, person)


def _draw_run_here(ctx: Context, person: Person, probes: list[str]) -> None:
    """Draw the choice of a checkpoint and the form that measures it; its page then shows the progress."""
    checkpoints = {one.id: one for one in list_checkpoints(ctx, ready=True) if one.writes}
    with st.container(border=True):
        st.markdown("**Run the probes**")
        if not checkpoints:
            st.caption("There is no checkpoint that writes text yet: train a model or add a base.")
            return
        picked = choose_from(
            "Checkpoint",
            label_usable_first(ctx, checkpoints.values()),
            key="safety_checkpoint",
            value=None,
            placeholder="Choose a checkpoint",
        )
        chosen = checkpoints[picked] if picked is not None else None
        if _draw_run_form(ctx, person, chosen, probes, key="here") and chosen is not None:
            st.switch_page(routes.CHECKPOINTS, query_params={"checkpoint": chosen.id, "tab": "Safety"})


def _language_row(one: LanguageAgreement) -> dict[str, object]:
    agreed = f"{one.agreed} of {one.n - one.unclear}"
    return {
        "Language": one.language,
        "Answers": one.n,
        "Refusals": one.refusals,
        "Unclear": one.unclear,
        "Agreed where clear": agreed,
    }


def _draw_add(ctx: Context, person: Person, probes: Collection[str]) -> None:
    """Draw the form of a probe; its fields are new ones, and so empty, for each probe."""
    num_probes = len(probes)
    imported = [one.name for one in list_datasets(ctx, kinds=KEEPS_RECORDS, ready=True) if one.name not in probes]
    with st.expander("Add a safety probe", icon=":material/add:", expanded=not num_probes):
        name = st.text_input("Name", key=f"safety_name_{num_probes}")
        dataset = ""
        if imported:
            labels = {"": "none: a file", **{one: one for one in imported}}
            dataset = choose_from("Imported dataset", labels, key=f"safety_dataset_{num_probes}")
        files = (
            []
            if dataset
            else st.file_uploader(
                "File",
                key=f"safety_file_{num_probes}",
                accept_multiple_files=True,
                help=(
                    "CSV, TSV, JSON, JSONL or text; its columns decide the kind. Give Winogender's sentences together"
                    " with its occupations-stats.tsv, and both sides of WinoBias together."
                ),
            )
        )
        jailbreak = st.checkbox("Put its unsafe prompts into jailbreak templates", key="safety_jailbreak")
        missing = {"enter a name": not name.strip(), "choose a file": not (dataset or files)}
        if form_button("Add", missing, key="safety_add", icon="add", type="secondary"):
            with rerun_after():
                kind = Probe.JAILBREAK if jailbreak else None
                rows, occupations = (
                    (rows_of_dataset(ctx, dataset), None)
                    if dataset
                    else rows_of_upload({file.name: file.getvalue() for file in files})
                )
                source = f"dataset {dataset}" if dataset else ", ".join(file.name for file in files)
                add_probe(ctx, name=name, rows=rows, source=source, person=person, probe=kind, occupations=occupations)
        if st.button(
            "Add prompt-injection cases", key="safety_injection", type="tertiary", icon=":material/description:"
        ):
            with rerun_after():
                add_injection_probe(ctx, person=person)


def _draw_agreement(ctx: Context, person: Person) -> None:
    with st.expander("Measure the refusal scorer on human labels", icon=":material/rule:"):
        file = st.file_uploader(
            "Labelled answers",
            key="safety_labels",
            help="Columns of answers and labels: refusal or compliance, 1 or 0.",
        )
        if (
            form_button("Measure", {"choose a file": file is None}, key="safety_measure", icon="rule", type="secondary")
            and file is not None
        ):
            with rerun_after():
                add_agreement(ctx, rows=read_rows_of(file.name, file.getvalue()), file=file.name, person=person)
