"""Raters: signed-in users, the person on loopback, and holders of a link to one campaign. Only the hash of a link is
stored. A ballot's token is signed, and checked against the rater's row at every request.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import segno
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Rater, User, Vote
from backend.domain.attributes import view_of
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.views import SKIPPED, find_campaign, is_newest
from backend.services.battles.vote_log import VoteLog, read_vote_log
from backend.services.context import Context, Person, require_builder
from backend.services.people.sessions import Attempts
from backend.services.people.signatures import sign, unsign

LOCAL_RATER = "local"
MAX_LINK_DAYS = 365
MAX_LINKS_AT_ONCE = 100
BROWSER_COOKIE = "roundhouse_ballot"
"""Cookie by which the first browser of a single-use link is recognised."""
CALLED = re.compile(r"rater[\s_.#-]*0*([1-9]\d{0,3})", re.IGNORECASE)
"""A name that reads like the label of an exported rater."""

_attempts = Attempts()


@dataclass(frozen=True)
class RaterView:
    """A rater. `campaign_id` is set for the holder of a link, who may vote in that campaign alone."""

    id: str
    name: str
    campaign_id: str | None
    expires_at: datetime | None


@dataclass(frozen=True)
class RaterLink:
    """A new link; its secret is shown only once."""

    url: str
    rater: RaterView


@dataclass(frozen=True)
class RaterRow:
    """A rater with counts of votes on the board and of skipped battles. `number` is part of the `label`: from 1, the
    oldest rater first.
    """

    rater: RaterView
    number: int
    is_link: bool
    single_use: bool
    num_votes: int
    num_skipped: int

    @property
    def label(self) -> str:
        """The rater in exported votes, which name no one."""
        return f"rater {self.number}"


def rater_for(ctx: Context, person: Person) -> RaterView:
    """Return a person's rater, created on first use."""
    rater_id = LOCAL_RATER if person.id is None else None
    with ctx.db.read() as session:
        existing = _rater_of(session, person)
        if existing is not None:
            return view_of_rater(existing)
    try:
        with ctx.db.write() as session:
            if person.id is not None and session.get(User, person.id) is None:
                raise NotFound("There is no such account.")
            row = Rater(name=person.name, user_id=person.id, created_at=ctx.now())
            if rater_id:
                row.id = rater_id
            session.add(row)
            session.flush()
            return view_of_rater(row)
    except IntegrityError:  # a second tab made the row in the same moment
        with ctx.db.read() as session:
            existing = _rater_of(session, person)
            if existing is None:
                raise
            return view_of_rater(existing)


def find_rater(ctx: Context, person: Person) -> RaterView:
    """Return a person's rater without storing one: a person who never voted gets a rater without votes."""
    with ctx.db.read() as session:
        row = _rater_of(session, person)
        return (
            view_of_rater(row)
            if row is not None
            else RaterView(id="", name=person.name, campaign_id=None, expires_at=None)
        )


def create_rater_link(
    ctx: Context, campaign_id: str, *, name: str, days: int = 14, single_use: bool = False, person: Person
) -> RaterLink:
    """Create one link, as `create_rater_links` does."""
    (link,) = create_rater_links(ctx, campaign_id, names=[name], days=days, single_use=single_use, person=person)
    return link


def create_rater_links(
    ctx: Context, campaign_id: str, *, names: Sequence[str], days: int = 14, single_use: bool = False, person: Person
) -> list[RaterLink]:
    """Create links that open the ballot of one campaign until they expire, all or none. A name may be a pseudonym; no
    account is created.

    A single-use link is bound to the first browser that opens its ballot. Raises Conflict if a rater of the campaign
    has one of the names, in any case: in lists and files two would look like one.
    """
    require_builder(person)
    names = [clean_name(name, what="A rater", limit=80) for name in names]
    if len(names) > MAX_LINKS_AT_ONCE:
        raise InvalidInput(f"{len(names):,} links are too many at once.", remedy=f"Create {MAX_LINKS_AT_ONCE} at most.")
    counts = Counter(name.casefold() for name in names)
    if twice := [name for name in names if counts[name.casefold()] > 1]:
        raise InvalidInput(f"“{twice[0]}” stands twice among the names.", remedy="Give each rater one.", field="rater")
    _check_days(days)
    links = []
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        for name in names:
            _refuse_taken(session, campaign.id, name)
            secret = secrets.token_urlsafe(24)
            row = Rater(
                name=name,
                campaign_id=campaign.id,
                link_hash=_hash(secret),
                created_by=person.id,
                single_use=single_use,
                expires_at=ctx.now() + timedelta(days=days),
                created_at=ctx.now(),
            )
            session.add(row)
            session.flush()
            links.append(RaterLink(_address(ctx, secret, single_use=single_use), view_of_rater(row)))
    return links


def _refuse_taken(session: Session, campaign_id: str, name: str) -> None:
    voting = select(Battle.rater_id).where(Battle.campaign_id == campaign_id)
    for other in session.scalars(select(Rater).where((Rater.campaign_id == campaign_id) | Rater.id.in_(voting))):
        if other.name.casefold() == name.casefold():
            raise Conflict(
                f"A rater of this campaign is already named “{other.name}”.",
                remedy="Use another name, or reissue that rater's link."
                if other.link_hash is not None
                else "Use another name.",
                field="rater",
            )


def reissue_rater_link(ctx: Context, rater_id: str, *, days: int = 14, person: Person) -> RaterLink:
    """Replace a link, also one that has expired or was revoked: the rater keeps name and votes, the old link and what
    it opened end.

    A single-use link is bound to the first browser that opens the new one. Raises NotAllowed, NotFound and
    InvalidInput.
    """
    require_builder(person)
    _check_days(days)
    secret = secrets.token_urlsafe(24)
    with ctx.db.write() as session:
        row = _find_link(session, rater_id)
        row.link_hash, row.browser_hash, row.created_by = _hash(secret), None, person.id
        row.expires_at = ctx.now() + timedelta(days=days)
        return RaterLink(_address(ctx, secret, single_use=row.single_use), view_of_rater(row))


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_LINK_DAYS:
        raise InvalidInput(f"A link can't hold for {days} days.", remedy=f"Choose 1 to {MAX_LINK_DAYS}.", field="days")


def _address(ctx: Context, secret: str, *, single_use: bool) -> str:
    return f"{ctx.pages_url.rstrip('/')}{'/ballot/open' if single_use else '/ballot'}?link={secret}"


def _find_link(session: Session, rater_id: str) -> Rater:
    row = session.get(Rater, rater_id)
    if row is None or row.link_hash is None:
        raise NotFound("There is no such link.")
    return row


def link_qr_svg(url: str) -> str:
    """Return a link as a QR code, an SVG image made here."""
    return str(
        segno.make(url, error="m", micro=False).svg_inline(scale=4, border=2, omitsize=True, dark="#000", light="#fff")
    )


def rater_from_link(ctx: Context, secret: str, *, browser: str = "", address: str = "") -> RaterView:
    """Return the rater of a link. `browser` is the visitor's cookie, to which a single-use link is bound at its first
    use.

    Raises NotAllowed, with the same message for a wrong, an expired and a revoked one, and if the account that made it
    is disabled; for a single-use link in another browser; and after too many wrong links from one `address`. A valid
    link is never locked.
    """
    query = select(Rater).outerjoin(User, User.id == Rater.created_by).where(User.disabled_at.is_(None))
    with ctx.db.read() as session:
        row = session.scalar(query.where(Rater.link_hash == _hash(secret)))
        if row is None or row.expires_at is None or row.expires_at <= ctx.now():
            if address:
                _attempts.begin(name=f"link {_hash(secret)[:16]}", address=address)
            raise NotAllowed(
                "This ballot link is not valid any more.", remedy="Ask the person who sent it for a new one."
            )
    if row.single_use:
        _bind(ctx, row.id, browser)
    return view_of_rater(row)


def _bind(ctx: Context, rater_id: str, browser: str) -> None:
    """Bind a single-use link to its first browser. Raises NotAllowed in another one, and in one without the cookie."""
    if not browser:
        raise NotAllowed(
            "This link opens in one browser alone, which is recognised by a cookie.",
            remedy="Open the link as it was sent.",
        )
    unbound = (
        update(Rater)
        .where(Rater.id == rater_id, Rater.browser_hash.is_(None))
        .values(browser_hash=browser_hash(browser))
    )
    with ctx.db.read() as session:
        bound_to = session.get_one(Rater, rater_id).browser_hash
    if bound_to is None:
        with ctx.db.write() as session:
            session.execute(unbound)
            bound_to = session.scalar(select(Rater.browser_hash).where(Rater.id == rater_id))
    if bound_to != browser_hash(browser):
        raise NotAllowed(
            "This link was opened in another browser already.", remedy="Ask the person who sent it for a new one."
        )


def revoke_rater_link(ctx: Context, rater_id: str, *, person: Person) -> None:
    """Revoke a link. Votes cast through it are kept."""
    require_builder(person)
    with ctx.db.write() as session:
        _find_link(session, rater_id).expires_at = ctx.now()


def list_raters(ctx: Context, campaign_id: str) -> list[RaterRow]:
    """Return the raters who voted or skipped in a campaign or hold a link to it, most votes first."""
    with ctx.db.read() as session:
        result = read_raters(session, campaign_id)
    return sorted(result, key=lambda row: (-row.num_votes, row.rater.name))


def read_raters(session: Session, campaign_id: str) -> list[RaterRow]:
    """Return what `list_raters` does, by number."""
    log, skipped = read_vote_log(session, campaign_id), _count_skipped(session, campaign_id)
    rows = session.scalars(
        select(Rater)
        .where(Rater.id.in_({*log.columns.raters, *skipped}) | (Rater.campaign_id == campaign_id))
        .order_by(Rater.created_at, Rater.id)
    )
    raters = rows.all()
    numbers = _numbers([row.name for row in raters])
    return [
        _row(row, log, number=number, num_skipped=skipped.get(row.id, 0))
        for row, number in zip(raters, numbers, strict=True)
    ]


def _numbers(names: Sequence[str]) -> list[int]:
    """Number raters in order. One who is called like a number, as `Rater-2`, has that one, so that no one else's votes
    are taken for theirs.
    """
    called: dict[int, str] = {}
    for name in names:
        if match := CALLED.fullmatch(name.strip()):
            called.setdefault(int(match[1]), name)
    of_name = {name: number for number, name in called.items()}
    free = (number for number in itertools.count(1) if number not in called)
    return [of_name.pop(name) if name in of_name else next(free) for name in names]


def find_link(ctx: Context, campaign_id: str, name: str) -> RaterRow:
    """Return the holder of a campaign's link by name. Raises NotFound, and Conflict where several have the name."""
    rows = [row for row in list_raters(ctx, campaign_id) if row.is_link and row.rater.name == name.strip()]
    if not rows:
        raise NotFound(f"No rater “{name}” holds a link to this campaign.", field="rater")
    if len(rows) > 1:
        raise Conflict(
            f"{len(rows)} raters with a link are named “{name}”.",
            remedy="Reissue it on the campaign's Raters tab.",
            field="rater",
        )
    return rows[0]


def _count_skipped(session: Session, campaign_id: str) -> dict[str, int]:
    """Return how many battles of a campaign each rater skipped, by the rater's id."""
    query = select(Vote.rater_id, func.count()).join(Battle, Battle.id == Vote.battle_id)
    here = (Battle.campaign_id == campaign_id, Vote.label == SKIPPED, is_newest())
    return dict(session.execute(query.where(*here).group_by(Vote.rater_id)).all())


def _row(row: Rater, log: VoteLog, *, number: int, num_skipped: int) -> RaterRow:
    raters = log.columns.raters
    own = log.of_purpose(("vote",)) & (log.columns.rater == (raters.index(row.id) if row.id in raters else -1))
    return RaterRow(
        rater=view_of_rater(row),
        number=number,
        is_link=row.link_hash is not None,
        single_use=row.single_use,
        num_votes=int(own.sum()),
        num_skipped=num_skipped,
    )


def _rater_of(session: Session, person: Person) -> Rater | None:
    if person.id is None:
        return session.get(Rater, LOCAL_RATER)
    return session.scalar(select(Rater).where(Rater.user_id == person.id))


def view_of_rater(row: Rater) -> RaterView:
    """Copy a row into a view that outlives its session."""
    return view_of(RaterView, row)


def browser_hash(cookie: str) -> str:
    """Return what is stored of a browser's cookie."""
    return _hash(cookie)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


PURPOSE = "ballot"
TOKEN_AGE_S = 12 * 3600


@dataclass(frozen=True)
class Voter:
    """A rater who may vote in one campaign now."""

    campaign_id: str
    rater: RaterView


def ballot_token(ctx: Context, campaign_id: str, rater: RaterView) -> str:
    """Return the signed statement that this rater was admitted to this campaign; it holds for twelve hours, and until
    the rater's account is signed out or the link is reissued. Send it as `Authorization: Bearer`.
    """
    with ctx.db.read() as session:
        epoch = _epoch(session, session.get_one(Rater, rater.id))
    return sign(ctx, {"campaign": campaign_id, "rater": rater.id, "epoch": epoch}, purpose=PURPOSE)


def voter_of_token(ctx: Context, token: str, *, browser: str = "") -> Voter:
    """Return whom a token admits. Raises NotAllowed if it is forged or too old, if the link behind it has expired, was
    revoked or belongs to another browser (`browser` is its cookie), if the rater's account was signed out or the link
    reissued since, and if the account of the rater or of the link's maker is disabled.
    """
    data = unsign(ctx, token, purpose=PURPOSE, max_age_s=TOKEN_AGE_S)
    with ctx.db.read() as session:
        row = session.get(Rater, data.get("rater", ""))
        if row is None or data.get("epoch") != _epoch(session, row) or not _may_vote(session, ctx, row, browser):
            raise NotAllowed("This ballot is not valid any more.", remedy="Open your link again, or ask for a new one.")
        return Voter(data.get("campaign", ""), view_of_rater(row))


def _epoch(session: Session, row: Rater) -> str:
    """Return what changes when a rater's tokens end: the account's sessions, or the secret of the link."""
    user = session.get(User, row.user_id) if row.user_id else None
    return (row.link_hash or "")[:16] if user is None else str(user.session_epoch)


def _may_vote(session: Session, ctx: Context, row: Rater, browser: str) -> bool:
    if row.id == LOCAL_RATER:
        return not ctx.sign_in
    for user_id in (row.user_id, row.created_by):
        user = session.get(User, user_id) if user_id else None
        if user is not None and user.disabled_at is not None:
            return False
    if row.link_hash is None:
        return row.user_id is not None  # the raters of imported votes have neither
    if row.single_use and row.browser_hash != browser_hash(browser):
        return False
    return row.expires_at is not None and row.expires_at > ctx.now()
