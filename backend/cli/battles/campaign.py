"""`roundhouse campaign`: blind comparisons from YAML files; links for raters; votes cast elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.battles.vote_columns import ColumnOption, WinnerOption, read_column_option, read_winners
from backend.cli.output import CommandGroup, emit, note, read_text
from backend.db.base import new_id
from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import parse_campaign
from backend.domain.battles.preferences import parse_rules
from backend.domain.battles.vote_files.previews import preview_votes, read_storable_votes
from backend.services.battles.campaigns import close_campaign, start_campaign
from backend.services.battles.preference_sets import VoteObjective, preview_document
from backend.services.battles.raters import create_rater_link, find_link, reissue_rater_link
from backend.services.battles.views import CampaignView, list_campaigns, resolve_campaign
from backend.services.battles.vote_imports import import_votes
from backend.services.battles.vote_training import plan_training, train_on_votes
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL

app = CommandGroup(no_args_is_help=True)
MAX_FILE_BYTES = 256 * 2**20
Name = Annotated[str, typer.Argument(help="Name or id of the campaign.")]


@app.command("create")
def create(file: Annotated[Path, typer.Argument(help="YAML file of the campaign.")]) -> None:
    """Start a campaign; files of completions are read from the folder of the YAML file."""
    campaign_file = parse_campaign(read_text(file))
    sources = {source.file for source in campaign_file.contestants if source.file}
    files = {name: read_text(file.parent / name, max_bytes=MAX_FILE_BYTES) for name in sorted(sources)}
    started = start_campaign(
        get_context(),
        name=campaign_file.name,
        contestants=campaign_file.contestants,
        dataset=campaign_file.dataset,
        config=campaign_file.config,
        person=LOCAL,
        files=files,
    )
    emit(campaign_data(started), text=f"Started {_summary(started)}")


@app.command("list")
def list_() -> None:
    """List campaigns, newest first."""
    campaigns = list_campaigns(get_context())
    text = "\n".join(map(_summary, campaigns)) or "No campaigns yet."
    emit({"campaigns": [campaign_data(item) for item in campaigns]}, text=text)


@app.command("show")
def show(name: Name) -> None:
    """Show contestants, progress and settings of a campaign."""
    shown = resolve_campaign(get_context(), name)
    lines = [_summary(shown)]
    lines += [f"  {item.name} ({item.kind}): {item.completions} completions" for item in shown.contestants]
    emit({**campaign_data(shown), "config": shown.config.model_dump(mode="json")}, text="\n".join(lines))


@app.command("close")
def close(name: Name) -> None:
    """Close a campaign: it takes no more votes."""
    ctx = get_context()
    closed = close_campaign(ctx, resolve_campaign(ctx, name).id, person=LOCAL)
    emit(campaign_data(closed), text=f"Closed {_summary(closed)}")


@app.command("link")
def link(
    name: Name,
    rater: Annotated[str, typer.Option(help="Name or pseudonym of the rater.")],
    days: Annotated[int, typer.Option(help="Days until the link expires.")] = 14,
    single_use: Annotated[
        bool, typer.Option("--single-use", help="The first browser that opens the link is the only one.")
    ] = False,
    reissue: Annotated[
        bool, typer.Option("--reissue", help="Replace the rater's link; votes are kept, the old link ends.")
    ] = False,
) -> None:
    """Create a rater's link to the ballot of a campaign. Only its hash is stored: `--reissue` replaces a lost one."""
    ctx = get_context()
    campaign_id = resolve_campaign(ctx, name).id
    if reissue:
        row = find_link(ctx, campaign_id, rater)
        made, single_use = reissue_rater_link(ctx, row.rater.id, days=days, person=LOCAL), row.single_use
    else:
        made = create_rater_link(ctx, campaign_id, name=rater, days=days, single_use=single_use, person=LOCAL)
    data = {"url": made.url, "rater": made.rater.name, "expires_at": made.rater.expires_at, "single_use": single_use}
    emit(data, text=made.url)
    if words := ctx.who_reaches(made.url):
        note(words)


@app.command("train")
def train(
    name: Name,
    objective: Annotated[
        VoteObjective, typer.Option(help="dpo: pairs; sft: rewritten answers; kto: graded answers.")
    ] = "dpo",
    rules: Annotated[Path | None, typer.Option(help="YAML file of the rules that turn votes into rows.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file of the run's config, in place of the suggested one.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Contestant to continue from; the leader by default.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show rows, warnings and the suggested config; launch nothing.")
    ] = False,
) -> None:
    """Train on the votes of a campaign, and open the rematch of the new checkpoint."""
    ctx = get_context()
    campaign_id = resolve_campaign(ctx, name).id
    chosen = parse_rules(read_text(rules)) if rules else None
    base_id = resolve_checkpoint(ctx, base).id if base else None
    if preview:
        plan = plan_training(ctx, campaign_id, rules=chosen, objective=objective, base_id=base_id)
        config = plan.config.to_yaml()
        document = {
            **preview_document(plan.preview),
            "base": plan.base.name,
            "config": config,
            "reasons": dict(plan.reasons),
        }
        warnings = "".join(f"\nWarning: {warning.text}" for warning in plan.preview.warnings)
        emit(document, text=f"{plan.num_rows} rows, from {plan.base.name}{warnings}\n\n{config}")
        return
    launched = train_on_votes(
        ctx,
        campaign_id,
        person=LOCAL,
        idempotency_key=new_id(),
        rules=chosen,
        objective=objective,
        base_id=base_id,
        config_yaml=read_text(recipe) if recipe else None,
    )
    data = {"run": launched.run, "dataset": launched.dataset, "rows": launched.num_rows, "base": launched.base}
    text = (
        f"Launched {launched.run} on {launched.num_rows} rows of {launched.dataset}; rematch: {launched.rematch.name}"
    )
    emit({**data, "rematch": launched.rematch.name}, text=text)


@app.command("import-votes")
def import_(
    votes: Annotated[
        Path,
        typer.Argument(help="CSV or JSON lines: prompt,rater,a,b,winner and optionally prompt_text,answer_a,answer_b."),
    ],
    name: Annotated[str, typer.Option(help="Name of the campaign.")],
    column: ColumnOption = None,
    winner: WinnerOption = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show what would be imported; store nothing.")] = False,
) -> None:
    """Import votes cast elsewhere as a closed campaign."""
    text = read_text(votes, max_bytes=MAX_FILE_BYTES)
    read = read_storable_votes(text, mapping=read_column_option(column), labels=read_winners(winner))
    shown = preview_votes(read)
    notes = [f"Note: {note}" for note in shown.notes]
    if preview:
        emit(
            {
                "votes": shown.num_votes,
                "prompts": shown.num_prompts,
                "raters": shown.num_raters,
                "labels": shown.labels,
            },
            text="\n".join([shown.summary, *notes]),
        )
        return
    imported = import_votes(get_context(), name=name, read=read, person=LOCAL)
    emit(campaign_data(imported), text="\n".join([f"Imported {_summary(imported)}", *notes]))


def campaign_data(item: CampaignView) -> dict[str, object]:
    """Return a campaign as the command line's JSON."""
    return {
        "campaign": item.name,
        **attributes_of(item, "id", "dataset"),
        "open": item.is_open,
        "prompts": item.num_prompts,
        "votes": item.num_votes,
        "raters": item.num_raters,
        **attributes_of(item, "completions", "expected_completions"),
        "contestants": [
            {"name": each.name, "kind": each.kind, "completions": each.completions} for each in item.contestants
        ],
        **attributes_of(item, "created_at", "closed_at"),
    }


def _summary(item: CampaignView) -> str:
    state = "open" if item.is_open else "closed"
    return (
        f"{item.name} ({item.id}): {state}, {len(item.contestants)} contestants, {item.num_prompts} prompts,"
        f" {item.num_votes} votes"
    )
