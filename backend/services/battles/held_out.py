"""Prompts that a rematch may use: those that no run in its ancestry trained on, and those locked for it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, CampaignPrompt, DatasetVersion, Run
from backend.domain.battles.campaign import content_hash
from backend.domain.battles.preferences.pairs import choose_locked
from backend.domain.battles.preferences.rules import PreferenceRules
from backend.domain.data.versions.provenance import VotesProvenance
from backend.errors import InvalidInput
from backend.services.battles.preference_votes import CampaignVotes
from backend.services.battles.prompts import DrawnPrompt, read_held_out_prompts, sample_prompts
from backend.services.battles.views import CampaignView
from backend.services.context import Context
from backend.services.data.datasets import resolve_version

MIN_PROMPTS_LEFT = 8
"""Prompts that a rematch should have at least: with fewer even one that one side wins has no verdict."""


def locked_prompts(
    ctx: Context, campaign: CampaignView, votes: CampaignVotes, rules: PreferenceRules
) -> frozenset[str]:
    """Return the ids of prompts that a campaign's training rows leave out: locked by the rules, or in its rematches."""
    prompts = {prompt.id: prompt.content_hash for prompt in votes.prompts.values()}
    with ctx.db.read() as session:
        in_rematches = _prompts_of_rematches(session, campaign.id)
    already = {prompt for prompt, digest in prompts.items() if digest in in_rematches}
    lacking = 0
    if rules.locked_share is None:
        unseen = unseen_prompts(ctx, campaign, learned=frozenset(prompts.values()))
        lacking = min(campaign.config.num_prompts, MIN_PROMPTS_LEFT) - len(unseen)
    return choose_locked(prompts, rules, lacking=lacking, already=already)


def draw_rematch_prompts(ctx: Context, campaign: CampaignView, *, learned: frozenset[str]) -> list[DrawnPrompt]:
    """Return the prompts of a rematch: the campaign's own and its dataset's without those in `learned` or learned by
    ancestors.

    Raises InvalidInput when none is left.
    """
    unseen = unseen_prompts(ctx, campaign, learned=learned)
    if not unseen:
        raise InvalidInput(
            "Every prompt of this campaign and its dataset would be trained on, so none is left for the rematch.",
            remedy="Lock a share of the prompts, or add prompts to the dataset.",
            field="locked_share",
        )
    return sample_prompts(unseen, num=campaign.config.num_prompts, seed=campaign.config.seed)


def unseen_prompts(ctx: Context, campaign: CampaignView, *, learned: frozenset[str]) -> list[DrawnPrompt]:
    """Return the prompts of a campaign and its dataset neither in `learned` (content hashes) nor in its ancestors'."""
    with ctx.db.read() as session:
        rows = session.scalars(
            select(CampaignPrompt)
            .where(CampaignPrompt.campaign_id == campaign.id, CampaignPrompt.purpose == "vote")
            .order_by(CampaignPrompt.position)
        )
        candidates = {row.content_hash: DrawnPrompt(list(row.messages), row.category) for row in rows}
        learned |= _learned_before(session, campaign.id)
    if campaign.dataset is not None:
        contestants = [contestant.checkpoint_id for contestant in campaign.contestants if contestant.checkpoint_id]
        for prompt in read_held_out_prompts(
            ctx, resolve_version(ctx, campaign.dataset), config=campaign.config, checkpoint_ids=contestants
        ):
            candidates.setdefault(content_hash(prompt.messages), prompt)
    return [prompt for digest, prompt in candidates.items() if digest not in learned]


def _prompts_of_rematches(session: Session, campaign_id: str) -> set[str]:
    query = select(CampaignPrompt.content_hash).join(Campaign, Campaign.id == CampaignPrompt.campaign_id)
    return set(session.scalars(query.where(Campaign.parent_id == campaign_id)))


def _learned_before(session: Session, campaign_id: str) -> set[str]:
    """Return the prompts in the training rows of the runs that made a rematch's and its ancestors' new contestants."""
    trained: set[str] = set()
    current: Campaign | None = session.get(Campaign, campaign_id)
    while current is not None:
        provenance = session.scalar(
            select(DatasetVersion.provenance)
            .join(Run, Run.dataset_version_id == DatasetVersion.id)
            .where(Run.id == (current.run_id or ""))
        )
        if isinstance(provenance, VotesProvenance):
            trained |= {row["prompt_id"] for row in provenance.rows}
        current = session.get(Campaign, current.parent_id) if current.parent_id else None
    return set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.id.in_(trained))))
