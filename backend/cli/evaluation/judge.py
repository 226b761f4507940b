"""`roundhouse eval judge`: grade or compare answers by a judge model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import command, emit
from backend.cli.waiting import wait_for_job
from backend.domain.evaluation.judges import Figure, JudgeConfig, JudgeItem, JudgeSummary
from backend.domain.evaluation.safety.harm import RUBRICS
from backend.domain.json_values import FieldValues
from backend.errors import InvalidInput
from backend.services.battles.views import resolve_campaign
from backend.services.context import LOCAL, Context
from backend.services.evaluation.judgements import (
    Judge,
    campaign_items,
    evaluation_items,
    get_judgement,
    launch_judgement,
    read_judge_file,
    read_verdicts,
)


@command
@model_options(JudgeConfig, defaults={"mode": None, "criteria": "", "canaries": None})
def judge(
    checkpoint: Annotated[str | None, typer.Option(help="The judge: a checkpoint's name or id, or a folder.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The judge: an endpoint of this installation.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The judge: a model of the API at --url or ROUNDHOUSE_JUDGE_URL.")
    ] = None,
    url: Annotated[str, typer.Option(help="OpenAI-compatible API, such as https://host/v1.")] = "",
    file: Annotated[
        Path | None, typer.Option(help='JSONL of {"prompt", "answer", "answer_b"}; "human" holds votes.')
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option(help="Judge the answers of a finished evaluation, by its id.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Pairs with the answers of this evaluation on the same items.")
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="Campaign (name or id), whose voted pairs are compared.")] = None,
    rubric: Annotated[
        Literal["quality", "harm", "refusal"], typer.Option(help="Criteria and labels; those given replace them.")
    ] = "quality",
    *,
    options: FieldValues,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the verdicts.")] = True,
) -> None:
    """Judge answers by a model: scores or a win rate with biases, canaries, cost and agreement with people's votes."""
    ctx = get_context()
    campaign = resolve_campaign(ctx, campaign).id if campaign is not None else None
    items = _read_items(ctx, file, campaign, evaluation, against)
    preset = RUBRICS[rubric]
    config = JudgeConfig(
        **options
        | {
            "mode": options["mode"]
            or ("pairwise" if items and all(one.answer_b is not None for one in items) else "rubric"),
            "criteria": options["criteria"] or preset.criteria,
            "labels": options["labels"] or preset.labels,
            "canaries": preset.canaries if options["canaries"] is None else options["canaries"],
        }
    )
    evaluations = [name for name in (evaluation, against) if name]
    chosen = _choose(checkpoint, endpoint, model, url)
    job = launch_judgement(
        ctx,
        judge=chosen,
        items=items,
        config=config,
        person=LOCAL,
        evaluations=evaluations,
        campaign_id=campaign,
    )
    if not wait:
        emit({"job": job.id, "status": job.status.value}, text=f"Queued as job {job.id}.")
        return
    wait_for_job(ctx, job.id)
    judgement = get_judgement(ctx, job.id)
    summary = judgement.summary
    data = {
        "job": job.id,
        "judge": judgement.judge,
        "mode": judgement.mode,
        **(summary.model_dump(mode="json") if summary else {}),
        "verdicts": read_verdicts(ctx, job.id),
    }
    emit(data, text=_as_text(judgement.judge, summary) if summary else "")


def _read_items(
    ctx: Context, file: Path | None, campaign: str | None, evaluation: str | None, against: str | None
) -> list[JudgeItem]:
    if sum(source is not None for source in (file, campaign, evaluation)) != 1 or (against and evaluation is None):
        raise InvalidInput(
            "Name one source of answers.",
            remedy="Give --file, --campaign, or --evaluation with or without --against.",
            field="file",
        )
    if evaluation is not None:
        return evaluation_items(ctx, evaluation, against=against)
    return campaign_items(ctx, campaign) if campaign is not None else read_judge_file(file or Path())


def _choose(checkpoint: str | None, endpoint: str | None, model: str | None, url: str) -> Judge:
    given = [
        *([Judge("checkpoint", checkpoint)] if checkpoint is not None else []),
        *([Judge("endpoint", endpoint)] if endpoint is not None else []),
        *([Judge("model", model, url)] if model is not None else []),
    ]
    if len(given) != 1:
        raise InvalidInput("Name one judge.", remedy="Give one of --checkpoint, --endpoint and --model.", field="judge")
    return given[0]


def _as_text(judge_name: str, summary: JudgeSummary) -> str:
    lines = [f"{judge_name}: {summary.items} items, {summary.missing} without a verdict"]
    lines += [_line(name, figure) for name, figure in {**summary.scores, **summary.label_shares}.items()]
    for name in ("tie_rate", "inconsistent", "position_bias", "length_bias", "canary", "kappa"):
        if (figure := getattr(summary, name)) is not None:
            lines.append(_line(name.replace("_", " "), figure))
    if summary.trusted is False:
        lines.append("Not trusted: this judge does not tell an empty answer from a real one.")
    price = "" if summary.price is None else f", {summary.price:.4f} USD"
    lines.append(f"{summary.prompt_tokens:,} + {summary.completion_tokens:,} tokens{price}")
    return "\n".join(lines)


def _line(name: str, figure: Figure) -> str:
    shown = "" if figure.interval is None else f"  [{figure.interval[0]:.3f}, {figure.interval[1]:.3f}]"
    return f"  {name:<32} {figure.value:.3f}{shown}  n = {figure.n}"
