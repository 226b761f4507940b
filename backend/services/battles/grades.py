"""Board of a campaign whose raters grade single answers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from backend.db.tables import AnswerRating, CampaignPrompt, Completion
from backend.domain.battles.answer_ratings import Grade, GradedContestant, Scale, grade_contestants
from backend.services.battles.quality import excluded_raters
from backend.services.battles.views import contestant_names, find_campaign
from backend.services.context import Context


@dataclass(frozen=True)
class GradeBoard:
    """Contestants by their grades, best first; those without a grade are missing. `num_excluded` grades of excluded
    raters are left out.
    """

    scale: Scale
    contestants: tuple[GradedContestant, ...]
    num_ratings: int
    num_excluded: int


def grade_board(ctx: Context, campaign_id: str) -> GradeBoard:
    """Rate the contestants of a campaign by the newest grade of each rater on each answer. Raises NotFound."""
    with ctx.db.read() as session:
        config = find_campaign(session, campaign_id).config
        names, excluded = contestant_names(session, campaign_id), excluded_raters(session, campaign_id)
        columns = (AnswerRating.completion_id, AnswerRating.rater_id, AnswerRating.value)
        rows = session.execute(
            select(*columns, Completion.contestant_id, CampaignPrompt.content_hash)
            .join(Completion, Completion.id == AnswerRating.completion_id)
            .join(CampaignPrompt, CampaignPrompt.id == Completion.prompt_id)
            .where(AnswerRating.campaign_id == campaign_id, Completion.contestant_id.in_(names))
            .order_by(AnswerRating.revision)
        )
        newest = {
            (answer, rater): Grade(names[author], prompt, rater, value) for answer, rater, value, author, prompt in rows
        }
    grades = [grade for (_, rater), grade in newest.items() if rater not in excluded]
    scale: Scale = "stars" if config.rating == "stars" else "thumbs"
    return GradeBoard(scale, tuple(grade_contestants(grades, scale=scale)), len(grades), len(newest) - len(grades))
