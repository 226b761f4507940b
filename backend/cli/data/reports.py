"""`roundhouse data report`: a dataset as the trainer will read it, before a run."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit, note
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.data.reports.report import DataFinding, list_findings
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.data.reports import DataReportView, EpochTime, epoch_time, get_data_report, request_data_report


@command
def report(
    name: Annotated[str, typer.Argument(help="A dataset, or NAME@VERSION.")],
    base: Annotated[
        str | None, typer.Option(help="The checkpoint to start from: its tokenizer, chat template and context.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer instead of a base.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens per sequence; as the newest run, or as the base reads.")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Sequences in one forward pass.")] = None,
    grad_accum_steps: Annotated[int | None, typer.Option(help="Forward passes per step.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Compute the report again even if it is stored.")] = False,
) -> None:
    """Report on a dataset before training: tokens, truncation, rows without loss, duplicates, leakage, contamination,
    languages, packing.

    Without --base and --tokenizer the newest base (of text the newest tokenizer) is taken, and plain bytes where there
    is none.
    """
    if base and tokenizer:
        raise InvalidInput("--base and --tokenizer can't both be given.", remedy="Name one of them.", field="base")
    ctx = get_context()
    view = request_data_report(
        ctx,
        name,
        person=LOCAL,
        source=f"checkpoint:{base}" if base else tokenizer,
        context=context,
        micro_batch=micro_batch,
        grad_accum_steps=grad_accum_steps,
        again=again,
    )
    if view.report is None and view.job_id is not None:
        wait_for_job(ctx, view.job_id)
        view = get_data_report(ctx, view.id)
    else:
        note("This report is stored; --again computes it again.")
    emit(report_data(view, epoch_time(ctx, view)), text=report_text(view, epoch_time(ctx, view)))


def report_data(view: DataReportView, time: EpochTime | None) -> dict[str, object]:
    """Return a report as the command line's JSON. Rows, tokens and lengths are those of the train split."""
    report = view.report
    assert report is not None
    fields = report.model_dump(mode="json")
    train = fields["splits"].get("train", {})
    return {
        "dataset": view.version,
        **attributes_of(report, "kind", "trainer", "tokenizer"),
        **fields["question"],
        "findings": [finding_data(finding) for finding in list_findings(report)],
        **attributes_of(report.train, "rows", "tokens", "loss_tokens"),
        "tokens_per_epoch": report.epoch.tokens,
        "steps_per_epoch": report.epoch.steps,
        "epoch_seconds": time.seconds if time else None,
        "measured": {"tokens_per_s": time.tokens_per_s, "run": time.run} if time else None,
        **attributes_of(report.train, "truncated_share", "truncated_rows", "lost_tokens", "zero_label_rows"),
        "zero_label": fields["zero_label"],
        "empty_rows": sum(split.empty_rows for split in report.splits.values()),
        **attributes_of(report, "refused_rows", "forged_rows"),
        "duplicates": fields["duplicates"],
        "leakage": fields["leakage"],
        "contamination": fields["contamination"],
        "contaminated_rows": report.contaminated_rows,
        "benchmarks": fields["benchmarks"],
        "languages": fields["languages"],
        "encoding_faults": fields["faults"],
        "packing_efficiency": fields["packing"],
        "lengths": train.pop("lengths", {}),
        "splits": fields["splits"],
        **attributes_of(report, "seconds", "peak_memory_bytes"),
    }


def finding_data(finding: DataFinding) -> dict[str, object]:
    """Return one finding."""
    return {"grade": str(finding.grade), "topic": finding.topic, "text": finding.text, "remedy": finding.remedy}


def report_text(view: DataReportView, time: EpochTime | None) -> str:
    """Return a report in lines."""
    report = view.report
    assert report is not None
    lines = [f"{view.version} ({report.kind}) through {report.tokenizer}, context {report.question.context:,}:"]
    lines += [f"  [{finding.grade}] {finding.text} {finding.remedy}".rstrip() for finding in list_findings(report)]
    if report.epoch.steps:
        spent = (
            f", {time.seconds:,.0f} s at {time.tokens_per_s:,.0f} tokens/s as in the run “{time.run}”"
            if time
            else ", no measurement yet"
        )
        lines.append(f"  An epoch reads {report.epoch.tokens:,} tokens in {report.epoch.steps:,} steps{spent}.")
    return "\n".join(lines)
