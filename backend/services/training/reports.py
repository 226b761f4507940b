"""Gather a run's report: config, data, environment, cost, curves, evaluations, samples, lineage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sqlalchemy import select

from backend.db.tables import Checkpoint, Job, Measurement, MetricName, Run
from backend.domain.training.differences import list_differences
from backend.domain.training.objectives import label_of
from backend.domain.training.report import Measured, RunReport, run_report_html, write_body, write_markdown
from backend.domain.training.report_curves import MetricTrace
from backend.domain.wording import format_bytes, format_count, format_duration, format_usd, percent
from backend.errors import NotFound
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints, list_lineage
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.lineage import card_lines
from backend.services.metrics.points import downsample, read_points, run_metric_names
from backend.services.serving.prices import current_prices
from backend.services.training.diagnosis import diagnose_run
from backend.services.training.figures import RunFigures, figures_of_runs
from backend.services.training.views import (
    RunDetail,
    RunView,
    get_run,
    how_to_repeat,
    list_sample_steps,
    list_samples,
    read_configs,
    run_detail,
)

CURVES = (
    "train_loss",
    "val_loss",
    "val_bpb",
    "learning_rate",
    "grad_norm",
    "tok_per_sec",
    "rewards/accuracies",
    "rewards/margins",
    "val_rewards/accuracies",
    "reward/mean",
    "kl",
    "mfu",
    "memory_bytes",
    "device_use",
    "power_w",
)
CURVE_POINTS = 400
LAST_VALUES = {
    "train_loss": ".4f",
    "val_loss": ".4f",
    "val_bpb": ".4f",
    "rewards/accuracies": ".3f",
    "rewards/margins": ".3f",
    "val_rewards/accuracies": ".3f",
    "accuracy": ".3f",
    "val_accuracy": ".3f",
    "reward/mean": ".3f",
    "val_reward/mean": ".3f",
    "kl": ".4f",
}
"""Metrics whose last value a report states, formatted as in the chart's legend. Speed and memory are `RunFigures`."""
LOSSES = ("train_loss", "val_loss")
"""Not stated for a policy: its training loss is near 0 whatever it earns, and its validation loss is -reward."""


def run_report_text(ctx: Context, name_or_id: str, *, form: str = "md", public: bool = False) -> str:
    """Return a run's report as Markdown (`md`, a model card) or as one HTML file (`html`). Raises NotFound.

    A `public` report leaves out notes, cost and the machine's name.
    """
    report = build_report(ctx, name_or_id)
    if public:
        own = ("machine", "attempts")
        report = replace(
            report, notes="", cost=(), environment=tuple(pair for pair in report.environment if pair[0] not in own)
        )
    return run_report_html(report) if form == "html" else write_markdown(report)


def report_body(ctx: Context, name_or_id: str, *, escape: Callable[[str], str]) -> str:
    """Return a run's report as Markdown for a page that has the run's name as its title. Raises NotFound.

    `escape` escapes a text for verbatim display in Markdown.
    """
    return write_body(build_report(ctx, name_or_id), escape=escape, level=4)


def build_report(ctx: Context, name_or_id: str) -> RunReport:
    """Gather the content of a report. Raises NotFound, and InvalidInput for a run that was imported as curves."""
    detail = run_detail(ctx, name_or_id)
    run, repetition = detail.run, how_to_repeat(ctx, detail)
    made = list_checkpoints(ctx, run_id=run.id)
    newest = max(made, key=lambda c: c.step or 0, default=None)
    version = _version(ctx, run)
    curves = _curves(ctx, run.id)
    parent = _parent(ctx, run)
    steps = list_sample_steps(ctx, run.id)
    return RunReport(
        name=run.name,
        objective=run.objective,
        objective_words=label_of(run.objective),
        status=run.line,
        summary=_summary(detail, newest, figures_of_runs(ctx, [run.id])[run.id], repetition.resumes),
        data=_data(version),
        environment=_environment(ctx, run, newest),
        cost=_cost(ctx, detail),
        repetition=repetition,
        parent=parent.name if parent else None,
        differences=_differences(ctx, parent, run) if parent else (),
        curves=tuple(curves),
        scores=_scores(ctx, made),
        samples=tuple(
            (sample.prompt, sample.completion) for sample in (list_samples(ctx, run.id, step=steps[0]) if steps else [])
        ),
        sample_step=steps[0] if steps else None,
        lineage=_lineage(ctx, newest),
        checkpoints=tuple((checkpoint.name, _known(checkpoint)) for checkpoint in made),
        notes=run.notes,
        licence=version.facts.card.licence if version else "",
        findings=tuple(finding.sentence for finding in diagnose_run(ctx, run.id)),
        base_model=_hub_base(ctx, made),
        dataset=_hub_dataset(version),
    )


def _summary(
    detail: RunDetail, newest: CheckpointView | None, figures: RunFigures, resumes: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    run, config = detail.run, detail.config
    samples = config.objective.samples
    method = {"full": "full", "lora": "LoRA", "qlora": f"QLoRA ({config.lora.bits}-bit base)"}[config.method]
    network = (
        f"{newest.family}, {format_count(newest.parameters)} parameters"
        if newest and newest.parameters
        else (detail.architecture or "")
    )
    last = [
        f"{name} {run.last[name]:{form}}"
        for name, form in LAST_VALUES.items()
        if name in run.last and not (samples and name in LOSSES)
    ]
    pairs = [
        ("model", network),
        ("base", run.base or "none: random initialization"),
        ("method", method),
        ("tokenizer", detail.tokenizer or ""),
        ("steps", f"{run.last_step:,} of {run.max_steps:,}"),
        ("resumed", ", then ".join(resumes)),
        ("tokens", _tokens(run)),
        ("best validation loss", "" if run.best_val_loss is None or samples else f"{run.best_val_loss:.4f}"),
        ("last values", ", ".join(last)),
        ("tokens per second", figures.speed),
        ("memory", figures.memory),
        ("seed", str(config.seed)),
    ]
    return tuple((label, value) for label, value in pairs if value)


def _tokens(run: RunView) -> str:
    if run.tokens is None or run.tokens_per_step is None:
        return ""
    return f"{format_count(run.tokens)}, {run.tokens_per_step:,.0f} per step"


def _version(ctx: Context, run: RunView) -> VersionView | None:
    try:
        return resolve_version(ctx, run.dataset, ready=False) if run.dataset else None
    except NotFound:
        return None


def _data(version: VersionView | None) -> tuple[tuple[str, str], ...]:
    if version is None:
        return ()
    pairs = (
        ("dataset", f"{version.label}, kind {version.kind}"),
        ("rows", f"{version.train_rows:,} train, {version.val_rows:,} validation"),
        ("content hash", version.content_hash or ""),
        ("source", version.source),
        ("licence", version.facts.card.licence or "not stated"),
    )
    return tuple((label, value) for label, value in pairs if value)


def _environment(ctx: Context, run: RunView, newest: CheckpointView | None) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    with ctx.db.read() as session:
        query = select(Measurement).where(Measurement.run_id == run.id).order_by(Measurement.created_at.desc()).limit(1)
        measured = session.scalar(query)
        if measured is not None:
            pairs += [("device", measured.device), ("machine", measured.host)]
        job = session.get(Job, run.job_id) if run.job_id else None
        if job is not None and job.attempt > 1:
            pairs.append(("attempts", f"{job.attempt}, resumed after a lost worker"))
    card = ctx.artifacts.path(f"{newest.folder}/roundhouse.json") if newest and newest.folder else None
    if card is not None and card.is_file():
        versions = json.loads(card.read_text()).get("versions", {})
        pairs += [(str(name), str(version)) for name, version in sorted(versions.items())]
    return tuple((label, value) for label, value in pairs if value)


def _cost(ctx: Context, detail: RunDetail) -> tuple[tuple[str, str], ...]:
    run, pairs = detail.run, []
    count = detail.config.devices.count
    if (seconds := run.seconds(ctx.now())) is not None:
        pairs.append(("wall time", format_duration(seconds) + (f" on {count} devices" if count > 1 else "")))
        price = current_prices(ctx).default
        if price is not None:
            hours, rate = seconds / 3600 * count, format_usd(price, is_price=True)
            pairs.append(("cost", f"{format_usd(hours * price)}: {hours:,.2f} device-hours at {rate}"))
    joules, share = energy_of(ctx, run.id)
    if joules is not None:
        energy = f"{joules / 3.6e6:.3g} kWh of the first device, read during {percent(share)} of the run"
        pairs.append(("energy", energy))
    return tuple(pairs)


def energy_of(ctx: Context, run_id: str) -> tuple[float | None, float]:
    """Return the energy (joules) that a run's device drew, by the trapezoidal rule over its power readings, and the
    share of time covered.

    The energy is None where power was never read. Gaps of over a minute, such as before a resume, are left out.
    """
    with ctx.db.read() as session:
        name_id = session.scalar(select(MetricName.id).where(MetricName.name == "power_w"))
        points = read_points(session, run_id, name_id) if name_id is not None else None
    if points is None or len(points) < 2:
        return None, 0.0
    order = np.argsort(points.times)
    times, watts = points.times[order], points.values[order]
    gaps = np.diff(times)
    read = gaps <= 60
    joules = float(np.sum((watts[1:] + watts[:-1])[read] / 2 * gaps[read]))
    return joules, float(gaps[read].sum() / max(times[-1] - times[0], 1e-9))


def _curves(ctx: Context, run_id: str) -> list[MetricTrace]:
    traces = []
    with ctx.db.read() as session:
        names = {name: name_id for name_id, name in run_metric_names(session, run_id)}
        for name in CURVES:
            if name in names:
                points = read_points(session, run_id, names[name])
                shown = points.at(downsample(points.steps, points.values, CURVE_POINTS))
                traces.append(MetricTrace(name, tuple(shown.steps.tolist()), tuple(shown.values.tolist())))
    return traces


def _parent(ctx: Context, run: RunView) -> RunView | None:
    """Return the run whose config this one was copied from, or else the run that made its base."""
    with ctx.db.read() as session:
        row = session.get_one(Run, run.id)
        base = session.get(Checkpoint, row.base_id) if row.base_id else None
        parent_id = row.parent_id or (base.run_id if base else None)
    try:
        return get_run(ctx, parent_id) if parent_id else None
    except NotFound:
        return None


def _differences(ctx: Context, parent: RunView, run: RunView) -> tuple[tuple[str, str, str], ...]:
    differences = list_differences(read_configs(ctx, [parent.id, run.id]))
    return tuple((each.label, each.texts[0], each.texts[1]) for each in differences)


def _scores(ctx: Context, made: list[CheckpointView]) -> tuple[Measured, ...]:
    rows = []
    for checkpoint in made:
        for evaluation in list_evaluations(ctx, checkpoint_id=checkpoint.id):
            if (score := evaluation.main_score) is not None:
                at = f" (step {checkpoint.step:,})" if checkpoint.step else ""
                name = f"{evaluation.benchmark}{at}"
                rows.append(Measured(name, score.metric, score.value, score.low, score.high))
    return tuple(rows)


def _lineage(ctx: Context, newest: CheckpointView | None) -> tuple[str, ...]:
    if newest is None:
        return ()
    ancestors = tuple(
        ancestor.name + (f", trained on {ancestor.dataset}" if ancestor.dataset else _from_the_hub(ancestor))
        for ancestor in list_lineage(ctx, newest.id)
    )
    return (*ancestors, *card_lines(ctx, newest.id))


def _from_the_hub(base: CheckpointView) -> str:
    """Return a base's Hub id and revision as text; a local path is left out, as others can't fetch it."""
    hub_id = _hub_id(base.source) if base.facts.revision else None
    return f", {hub_id} at {base.facts.revision}" if hub_id else ""


def _hub_base(ctx: Context, made: list[CheckpointView]) -> str | None:
    """Return the Hub id of a run's base: the Hub rejects cards with other values."""
    ancestors = list_lineage(ctx, made[0].id)[:-1] if made else []
    return next((hub_id for one in reversed(ancestors) if one.facts.revision and (hub_id := _hub_id(one.source))), None)


def _hub_dataset(version: VersionView | None) -> str:
    fetched = version is not None and (version.facts.commit or version.facts.revision)
    return (_hub_id(version.source) or "") if version is not None and fetched else ""


def _hub_id(source: str) -> str | None:
    match = re.fullmatch(r"(?:hub:)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@\S+)?", source.strip())
    return match[1] if match else None


def _known(checkpoint: CheckpointView) -> str:
    numbers: dict[str, Any] = checkpoint.metrics
    words = [
        f"{name} {numbers[name]:.4f}" for name in ("val_loss", "train_loss") if isinstance(numbers.get(name), float)
    ]
    words.append("deleted" if checkpoint.deleted_at else format_bytes(checkpoint.bytes))
    return ", ".join(words)
