"""Authors of the answers that a judge reads, and whether it is one of them: models favour their own answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from backend.services.battles.views import CampaignView
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.judgements import Judge
from backend.services.serving.endpoints import list_endpoints


class Author(NamedTuple):
    """Writer of answers: a checkpoint, or an endpoint of this installation by name; an API elsewhere is neither."""

    checkpoint_id: str | None
    endpoint: str = ""


def campaign_authors(campaign: CampaignView) -> list[Author]:
    """Return the authors of a campaign's completions."""
    return [Author(one.checkpoint_id, one.endpoint) for one in campaign.contestants]


def evaluation_authors(evaluations: Iterable[EvaluationView]) -> list[Author]:
    """Return the authors of the evaluations' answers."""
    return [
        Author(one.checkpoint_id, one.endpoint.name if one.endpoint is not None and one.endpoint.is_own else "")
        for one in evaluations
    ]


def judges_itself(ctx: Context, judge: Judge, authors: Iterable[Author]) -> bool:
    """Return whether a judge is an author: the same endpoint, the same checkpoint, or one that an endpoint serves."""
    if judge.kind == "model":
        return False
    served = {endpoint.name: endpoint.checkpoint_id for endpoint in list_endpoints(ctx)}
    checkpoint_id = judge.name if judge.kind == "checkpoint" else served.get(judge.name)
    return any(
        (judge.kind == "endpoint" and author.endpoint == judge.name)
        or (checkpoint_id and checkpoint_id in (author.checkpoint_id, served.get(author.endpoint)))
        for author in authors
    )
