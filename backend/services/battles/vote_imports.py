"""Import votes cast elsewhere as a closed campaign, with the texts where the file has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Battle, CampaignPrompt, Completion, Contestant, Rater, Vote
from backend.domain.battles.campaign import CampaignConfig, content_hash, text_hash
from backend.domain.battles.pool import pair_of
from backend.domain.battles.vote_files.previews import StorableVotes
from backend.domain.battles.votes import VoteRecord
from backend.domain.json_values import Row
from backend.domain.names import clean_name
from backend.errors import InvalidInput
from backend.services.battles.campaigns import insert_campaign
from backend.services.battles.views import CampaignView, campaign_view
from backend.services.context import Context, Person, require_builder

MAX_VOTES = 200_000
CHUNK = 2000


@retry_races
def import_votes(
    ctx: Context,
    *,
    name: str,
    read: StorableVotes,
    person: Person,
) -> CampaignView:
    """Store the votes of a file (see `vote_files.rows`: CSV, JSON lines or a JSON list, with or without texts) as a
    closed campaign. Raises InvalidInput for no votes or too many, Conflict for a taken name.
    """
    require_builder(person)
    name = clean_name(name, what="A campaign")
    votes = read.votes
    if not votes or len(votes) > MAX_VOTES:
        raise InvalidInput(f"The file has {len(votes):,} votes.", remedy=f"Import 1 to {MAX_VOTES:,}.", field="votes")
    with ctx.db.write() as session:
        campaign = insert_campaign(
            session,
            ctx,
            name=name,
            prompts=[],
            config=CampaignConfig(),
            person=person,
            dataset_version_id=None,
            imported=True,
        )
        campaign.closed_at = ctx.now()
        rows = _Rows(campaign.id, ctx)
        for row in votes:
            rows.add(row.vote, row.texts)
        rows.insert(session)
        return campaign_view(session, campaign)


@dataclass
class _Rows:
    """Rows of the tables, made in the order of the votes. `clusters`: one hash for all turns of a prompt, that of the
    first one's text.
    """

    campaign_id: str
    ctx: Context
    contestants: dict[str, Row] = field(default_factory=dict)
    raters: dict[str, Row] = field(default_factory=dict)
    prompts: dict[tuple[str, str, int], Row] = field(default_factory=dict)
    clusters: dict[str, str] = field(default_factory=dict)
    completions: dict[tuple[str, str, str], Row] = field(default_factory=dict)
    samples: dict[tuple[str, str], int] = field(default_factory=dict)
    repeats: dict[tuple[str, str, str, tuple[str, str]], int] = field(default_factory=dict)
    battles: list[Row] = field(default_factory=list)
    votes: list[Row] = field(default_factory=list)

    def add(self, vote: VoteRecord, texts: Mapping[str, str]) -> None:
        """Add a vote. A rater's second vote on a prompt and pair gets a copy of the prompt, of the same hash."""
        now = self.ctx.now()
        rater = self.raters.setdefault(vote.rater, self._row(name=vote.rater, created_at=now))
        key = (vote.rater, vote.prompt, vote.turn, pair_of(vote.a, vote.b))
        self.repeats[key] = number = self.repeats.get(key, -1) + 1
        prompt = self._prompt(vote, texts, number)
        sides = [
            self._completion(prompt["id"], self._contestant(name)["id"], texts.get(f"answer_{side}", ""))
            for name, side in ((vote.a, "a"), (vote.b, "b"))
        ]
        pair = pair_of(sides[0]["contestant_id"], sides[1]["contestant_id"])
        battle = self._row(
            prompt_id=prompt["id"],
            completion_a_id=sides[0]["id"],
            completion_b_id=sides[1]["id"],
            rater_id=rater["id"],
            pair=f"{pair[0]}:{pair[1]}",
            purpose="identical" if vote.identical else "vote",
            sampling_probability=vote.probability or 1.0,
            served_at=now,
            expires_at=now,
        )
        self.battles.append(battle)
        self.votes.append(
            {
                "id": new_id(),
                "battle_id": battle["id"],
                "rater_id": rater["id"],
                "revision": 1,
                "label": vote.winner,
                "created_at": now,
            }
        )

    def insert(self, session: Session) -> None:
        """Insert everything, in chunks."""
        tables: Sequence[tuple[Any, list[Row]]] = (
            (Contestant, list(self.contestants.values())),
            (Rater, list(self.raters.values())),
            (CampaignPrompt, list(self.prompts.values())),
            (Completion, list(self.completions.values())),
            (Battle, self.battles),
            (Vote, self.votes),
        )
        for table, rows in tables:
            for at in range(0, len(rows), CHUNK):
                session.execute(insert(table), rows[at : at + CHUNK])

    def _contestant(self, name: str) -> Row:
        return self.contestants.setdefault(name, self._row(kind="file", label=name, created_at=self.ctx.now()))

    def _prompt(self, vote: VoteRecord, texts: Mapping[str, str], number: int) -> Row:
        key = (vote.prompt, vote.turn, number)
        if key not in self.prompts:
            words = texts.get("prompt_text") or vote.prompt + (f", turn {vote.turn}" if vote.turn else "")
            role = "user" if "prompt_text" in texts else "id"
            cluster = self.clusters.setdefault(
                vote.prompt, content_hash([{"role": role, "content": texts.get("prompt_text") or vote.prompt}])
            )
            self.prompts[key] = self._row(
                position=len(self.prompts),
                messages=[{"role": "user", "content": words}],
                content_hash=cluster,
                turn=vote.turn,
                category=vote.category,
            )
        return self.prompts[key]

    def _completion(self, prompt_id: str, contestant_id: str, text: str) -> Row:
        text = text.replace("\x00", "")
        key = (prompt_id, contestant_id, text_hash(text))
        if key not in self.completions:
            sample = self.samples.get((prompt_id, contestant_id), -1) + 1
            self.samples[prompt_id, contestant_id] = sample
            self.completions[key] = {
                "id": new_id(),
                "prompt_id": prompt_id,
                "contestant_id": contestant_id,
                "sample": sample,
                "text": text,
                "text_hash": key[2],
                "facts": {"from": "import"},
                "created_at": self.ctx.now(),
            }
        return self.completions[key]

    def _row(self, **values: Any) -> Row:
        return {"id": new_id(), "campaign_id": self.campaign_id, **values}
