"""`roundhouse eval safety`: add probes, run them, show drift and card, measure the refusal scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit, interval_data, note
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.gate_config import GateVerdict
from backend.domain.evaluation.safety.drift import Drift
from backend.domain.evaluation.safety.margins import MARGIN
from backend.domain.evaluation.safety.probes import METRICS, PROBE_LABEL, Probe
from backend.domain.evaluation.safety.reports import format_value
from backend.domain.jobs.states import status_word
from backend.services.context import LOCAL
from backend.services.evaluation.endpoints import EvaluatedEndpointView
from backend.services.evaluation.evaluations import ScoreView, get_evaluation
from backend.services.evaluation.safety.cards import (
    SafetyCard,
    add_agreement,
    agreement_line,
    list_agreements,
    list_unjudged,
    safety_card,
)
from backend.services.evaluation.safety.drifts import SafetyDrift, safety_drift
from backend.services.evaluation.safety.probes import (
    ProbeView,
    add_canary_probe,
    add_extraction_probe,
    add_injection_probe,
    add_probe,
    list_probes,
    read_file,
)
from backend.services.evaluation.safety.runs import read_reports, read_toxicity, run_safety
from backend.services.evaluation.safety.toxicity import describe_toxicity, launch_toxicity

app = CommandGroup(no_args_is_help=True, help="Safety probes, drift and card of checkpoints.")
CheckpointOption = Annotated[str, typer.Option(help="Name or id; a run's name means its newest checkpoint.")]
SubjectOption = Annotated[str | None, typer.Option("--checkpoint", help="Name or id; a run's name: its newest one.")]
EndpointOption = Annotated[str | None, typer.Option("--endpoint", help="Its name, or that of a registered API.")]
ProbeOption = Annotated[list[str] | None, typer.Option("--probe", help="Only these probes; may be repeated.")]


@app.command("add")
def add(
    file: Annotated[
        Path,
        typer.Argument(
            help=(
                "XSTest, AdvBench, HarmBench, StrongREJECT, BBQ, Winogender, CrowS-Pairs, ..., or the folder of"
                " WinoBias."
            )
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the probe.")],
    probe: Annotated[Probe | None, typer.Option(help="Kind of probe; its columns decide if left out.")] = None,
    safe: Annotated[bool, typer.Option("--safe", help="Prompts without a label are safe ones.")] = False,
    occupations: Annotated[Path | None, typer.Option(help="Winogender: occupations-stats.tsv.")] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Jailbreaks: a file of templates with {prompt} in them.")
    ] = None,
) -> None:
    """Add a safety probe from a file. With --probe jailbreak the prompts are put into templates."""
    view = add_probe(
        get_context(),
        name=name,
        rows=read_file(file),
        source=file.name,
        person=LOCAL,
        probe=probe,
        unsafe=not safe,
        occupations=read_file(occupations) if occupations else None,
        templates=read_file(templates) if templates else None,
    )
    _emit_probe(view)


@app.command("add-injection")
def add_injection(name: str = "prompt injection", seed: int = 1) -> None:
    """Add prompt-injection cases made here: instructions hidden in documents."""
    _emit_probe(add_injection_probe(get_context(), name=name, seed=seed, person=LOCAL))


@app.command("add-extraction")
def add_extraction(
    checkpoint: CheckpointOption,
    name: Annotated[str, typer.Option(help="Name of the probe.")],
    dataset: Annotated[str | None, typer.Option(help="Dataset; the one of the checkpoint's run if left out.")] = None,
    prefix_tokens: Annotated[int, typer.Option(min=1)] = 32,
    suffix_tokens: Annotated[int, typer.Option(min=1)] = 32,
    limit: Annotated[int, typer.Option(min=1)] = 100,
) -> None:
    """Add a memorisation probe: beginnings of training rows, and whether the network continues them exactly."""
    view = add_extraction_probe(
        get_context(),
        name=name,
        checkpoint=checkpoint,
        dataset=dataset,
        prefix_tokens=prefix_tokens,
        suffix_tokens=suffix_tokens,
        limit=limit,
        person=LOCAL,
    )
    _emit_probe(view)


@app.command("add-canaries")
def add_canaries(
    canary: Annotated[list[str], typer.Argument(help="Planted texts, the secret between two #: 'My code is #48213#'.")],
    name: Annotated[str, typer.Option(help="Name of the probe.")],
    candidates: int = 200,
) -> None:
    """Add a memorisation probe of canaries planted in the training data."""
    _emit_probe(add_canary_probe(get_context(), name=name, canaries=canary, candidates=candidates, person=LOCAL))


@app.command("list")
def list_() -> None:
    """List the safety probes of this installation."""
    probes = list_probes(get_context())
    lines = [f"{p.version.dataset:<28} {PROBE_LABEL[p.probe]:<44} {p.items:>6} items  {p.source}" for p in probes]
    emit({"probes": [_probe_data(p) for p in probes]}, text="\n".join(lines) or "No safety probes yet.")


@app.command("run")
def run(
    checkpoint: SubjectOption = None,
    endpoint: EndpointOption = None,
    probe: ProbeOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each probe, drawn with the seed.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 96,
    seed: int = 1,
    again: Annotated[
        bool, typer.Option("--again", help="Run again even if a finished evaluation has the same settings.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the scores.")] = False,
) -> None:
    """Run the safety probes on a checkpoint or an endpoint."""
    ctx = get_context()
    launched = run_safety(
        ctx,
        checkpoint=checkpoint,
        endpoint=endpoint,
        person=LOCAL,
        probes=probe or (),
        limit=limit,
        max_tokens=max_tokens,
        seed=seed,
        again=again,
    )
    if wait:
        for evaluation in launched:
            if evaluation.job_id and evaluation.is_active:
                wait_for_job(ctx, evaluation.job_id)
        launched = [get_evaluation(ctx, evaluation.id) for evaluation in launched]
    reports = read_reports(ctx, [evaluation.id for evaluation in launched])
    data = [
        {
            "evaluation": e.id,
            "probe": e.benchmark,
            "status": e.status.value,
            "scores": [
                {**attributes_of(s, "metric", "value"), "interval": interval_data(s), **attributes_of(s, "n", "method")}
                for s in e.scores
            ],
            "report": reports[e.id].dump() if e.id in reports else {},
        }
        for e in launched
    ]
    lines = [
        f"{e.benchmark}: {status_word(e.status)}"
        + "".join(_score_line(s) for s in e.scores)
        + "".join(f"\n  {one.sentence}" for one in (list_unjudged(e, reports[e.id]) if e.id in reports else ()))
        for e in launched
    ]
    line = agreement_line(ctx)
    emit({"checkpoint": checkpoint, "evaluations": data, "scorer": line}, text="\n".join([*lines, line]))


@app.command("drift")
def drift(
    checkpoint: CheckpointOption,
    base: Annotated[
        str | None, typer.Option(help="Compare with this one; the base of the fine-tune if left out.")
    ] = None,
    probe: ProbeOption = None,
    margin: Annotated[float, typer.Option(help="Largest change towards unsafe that passes.")] = MARGIN,
    gate: Annotated[bool, typer.Option("--gate", help="Exit with status 1 unless the verdict is PASS.")] = False,
) -> None:
    """Show what a fine-tune changed in safety: paired differences on the same items, and the verdict."""
    ctx = get_context()
    result = safety_drift(ctx, checkpoint=checkpoint, base=base, probes=probe or (), margin=margin)
    emit({**drift_data(result), "scorer": agreement_line(ctx)}, text=drift_text(result))
    if gate and result.verdict is not GateVerdict.PASS:
        note(f"The safety gate says {result.verdict.value}.")
        raise typer.Exit(1)


@app.command("toxicity")
def toxicity(
    evaluation: Annotated[str, typer.Argument(help="Id of an evaluation of generated answers.")],
    classifier: Annotated[
        str, typer.Option(help="Folder of a sequence classifier, or its id on the Hub; none is shipped.")
    ],
    threshold: Annotated[float, typer.Option(help="Probability from which an answer counts as toxic.")] = 0.5,
    label: Annotated[str, typer.Option(help="The label that means toxic; by its name if left out.")] = "",
) -> None:
    """Classify an evaluation's answers, with an audit of harmless sentences that name a group."""
    ctx = get_context()
    job = launch_toxicity(ctx, evaluation, classifier=classifier, threshold=threshold, label=label, person=LOCAL)
    wait_for_job(ctx, job.id)
    report = read_toxicity(ctx, [evaluation])[evaluation]
    score = get_evaluation(ctx, evaluation).score("toxic")
    data = {
        **report.dump(),
        "value": score.value if score else None,
        "interval": interval_data(score),
    }
    shown = format_value("toxic", score.value, score.low, score.high) if score else "no answer could be classified"
    emit(data, text=f"{shown}\n{describe_toxicity(report)}")


@app.command("card")
def card(checkpoint: SubjectOption = None, endpoint: EndpointOption = None, base: str | None = None) -> None:
    """Print the safety card of a checkpoint or an endpoint."""
    result = safety_card(get_context(), checkpoint, endpoint=endpoint, base=base)
    emit(card_data(result), text=result.markdown)


@app.command("agreement")
def agreement(
    file: Annotated[
        Path | None, typer.Option(help="Answers with human labels (refusal or compliance); measured and stored.")
    ] = None,
) -> None:
    """Measure the refusal scorer on human labels; without --file show what was measured here."""
    ctx = get_context()
    if file is not None:
        add_agreement(ctx, rows=read_file(file), file=file.name, person=LOCAL)
    measured = list_agreements(ctx)
    emit(
        {"agreements": [one.dump() for one in measured], "scorer": agreement_line(ctx)},
        text="\n".join(one.sentence for one in measured) or agreement_line(ctx),
    )


def _emit_probe(view: ProbeView) -> None:
    emit(_probe_data(view), text=f"{view.version.label}: {PROBE_LABEL[view.probe]}, {view.items} items")


def _probe_data(view: ProbeView) -> dict[str, object]:
    return {
        "probe": view.version.dataset,
        "version": view.version.label,
        "kind": view.probe.value,
        "items": view.items,
        "source": view.source,
    }


def drift_data(result: SafetyDrift) -> dict[str, object]:
    """Return a drift as JSON."""
    return {
        "base": result.base.name,
        "checkpoint": result.checkpoint.name,
        "verdict": result.verdict.value,
        "margin": result.margin,
        "sentences": result.sentences,
        "changes": [_change_data(change) for change in result.changes],
        "unmeasured": list(result.unmeasured),
    }


def _change_data(change: Drift) -> dict[str, object]:
    gap = change.difference
    return {
        **attributes_of(change, "probe", "metric", "before", "after"),
        "difference": gap.value if gap else None,
        "interval": interval_data(gap),
        "method": gap.method if gap else "",
        "n": change.n,
        "items": change.total,
        "missing": {"before": change.missing_before, "after": change.missing_after},
        "verdict": change.verdict.value,
        "reason": change.reason,
        "sentence": change.sentence(),
    }


def drift_text(result: SafetyDrift) -> str:
    """Return a drift as lines for a terminal."""
    lines = [
        f"{result.verdict.value}: {result.base.name} -> {result.checkpoint.name}, margin {100 * result.margin:g} points"
    ]
    lines += [
        f"  {change.verdict.value:<12} {change.probe}: {change.sentence()} ({change.reason})"
        for change in result.changes
    ]
    lines += [f"  not measured on both: {name}" for name in result.unmeasured]
    return "\n".join(lines)


def card_data(result: SafetyCard) -> dict[str, object]:
    """Return a safety card as JSON."""
    return {
        "checkpoint": None if isinstance(result.subject, EvaluatedEndpointView) else result.subject.name,
        "endpoint": result.subject.name if isinstance(result.subject, EvaluatedEndpointView) else None,
        "scores": [
            {
                "probe": s.probe.value,
                **attributes_of(s, "benchmark", "metric", "value"),
                "interval": interval_data(s),
                **attributes_of(s, "n", "missing", "method"),
            }
            for s in result.scores
        ],
        "unjudged": [attributes_of(one, "probe", "benchmark", "metric", "missing") for one in result.unjudged],
        "scorer": result.agreement,
        "drift": drift_data(result.drift) if result.drift else None,
        "markdown": result.markdown,
    }


def _score_line(score: ScoreView) -> str:
    label = METRICS[score.metric].label if score.metric in METRICS else score.metric
    value = f"{score.value:.4g}"
    shown = format_value(score.metric, score.value, score.low, score.high) if score.metric in METRICS else value
    return f"\n  {label:<36} {shown}  n = {score.n}, {score.method}"
