"""`roundhouse alias` and `roundhouse promote`: names for checkpoints that move by recorded decisions."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.services.context import LOCAL
from backend.services.serving.aliases import AliasView, PromotionView, get_alias, list_aliases
from backend.services.serving.promotions import describe_alias, describe_promotion, promote, reject, rollback

app = CommandGroup(no_args_is_help=True)
ReasonOption = Annotated[str, typer.Option(help="Why; required when no evidence supports it.")]
CampaignOption = Annotated[str | None, typer.Option(help="Id of the campaign whose verdict is the evidence.")]


@app.command("set")
def set_(name: str, checkpoint: str, reason: ReasonOption = "") -> None:
    """Move an alias to a checkpoint; a new name makes an alias."""
    moved = promote(get_context(), checkpoint, alias=name, reason=reason, person=LOCAL, asks_evidence=False)
    _emit(moved)


@app.command("list")
def list_() -> None:
    """List aliases and the checkpoints that hold them."""
    views = list_aliases(get_context())
    text = "\n".join(map(_line, views)) or "No aliases yet."
    emit({"aliases": [describe_alias(view) for view in views]}, text=text)


@app.command("history")
def history(name: str) -> None:
    """Show every decision on an alias, newest first."""
    view = get_alias(get_context(), name)
    data = {**describe_alias(view), "history": [describe_promotion(row) for row in view.history]}
    emit(data, text="\n".join(map(_decision, view.history)))


@app.command("rollback")
def rollback_(name: str, reason: ReasonOption = "") -> None:
    """Move an alias back to the checkpoint that held it before."""
    _emit(rollback(get_context(), name, reason=reason, person=LOCAL))


@app.command("promote")
def promote_(
    checkpoint: str,
    alias: Annotated[str, typer.Option(help="NAME@STAGE, such as storyteller@production.")],
    campaign: CampaignOption = None,
    reason: ReasonOption = "",
    refuse: Annotated[bool, typer.Option("--reject", help="Record that it is not promoted; the alias stays.")] = False,
) -> None:
    """Promote a checkpoint to an alias by a campaign's verdict; endpoints that follow the alias are deployed again."""
    decide = reject if refuse else promote
    view = decide(get_context(), checkpoint, alias=alias, campaign_id=campaign, reason=reason, person=LOCAL)
    _emit(view)


def _emit(view: PromotionView) -> None:
    emit(describe_promotion(view), text=_decision(view))


def _line(view: AliasView) -> str:
    followers = f"  serves {', '.join(view.endpoints)}" if view.endpoints else ""
    apart = "".join(f"; {name} serves {served}" for name, served in view.apart.items())
    return f"{view.name:<32} {view.checkpoint or 'no checkpoint'}{followers}{apart}"


def _decision(view: PromotionView) -> str:
    before = f" (before: {view.previous})" if view.previous and view.decision != "reject" else ""
    word = "against the evidence" if view.evidence.speaks_against else "without evidence that decides"
    against = f"\n    {word}: {' '.join(view.against)}" if view.against and view.decision == "promote" else ""
    reason = f": {view.reason}" if view.reason else ""
    end = f"\n    rolled back {view.rolled_back_at:%Y-%m-%d %H:%M}" if view.rolled_back_at else ""
    return (
        f"{view.created_at:%Y-%m-%d %H:%M} {view.decision:<8} {view.alias} {view.checkpoint}{before} by"
        f" {view.by}{reason}{against}{end}"
    )
