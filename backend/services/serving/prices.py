"""Prices of device-hours: those that an admin set on the page, before those of the environment. Requests cost the
price of their replica's hours, where the stored one is none or an earlier one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from backend.db.engine import retry_races
from backend.db.tables import DevicePrice, DeviceUse, Replica, Usage, User
from backend.domain.estimates.prices import DeviceKind, DevicePrices
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_admin

MAX_HOUR_USD = 100_000.0
MAX_NAME = 80


@dataclass(frozen=True)
class PriceLine:
    """A price that an admin set. `name` is empty for every other device."""

    name: str
    hour_usd: float
    author: str
    set_at: datetime


def current_prices(ctx: Context, session: Session | None = None) -> DevicePrices:
    """Return the current prices; `session` is the caller's, where it has one open."""
    if session is None:
        with ctx.db.read() as own:
            return current_prices(ctx, own)
    stored = dict(session.execute(select(DevicePrice.name, DevicePrice.hour_usd)).all())
    default = stored.pop("", ctx.policy.prices.default)
    replaced = {name.lower() for name in stored}
    others = {name: price for name, price in ctx.policy.prices.named.items() if name.lower() not in replaced}
    return DevicePrices(default=default, named=others | stored)


def prices_version(ctx: Context) -> str:
    """Return a hash of the current prices, which is the same in every process."""
    prices = current_prices(ctx)
    return hashlib.sha256(repr((prices.default, sorted(prices.named.items()))).encode()).hexdigest()[:12]


def list_prices(ctx: Context) -> list[PriceLine]:
    """Return the prices that admins set, by name."""
    query = select(DevicePrice, User.name).outerjoin(User, User.id == DevicePrice.set_by).order_by(DevicePrice.name)
    with ctx.db.read() as session:
        return [PriceLine(row.name, row.hour_usd, author or "", row.set_at) for row, author in session.execute(query)]


@retry_races
def set_price(ctx: Context, name: str, hour_usd: float | None, *, person: Person) -> None:
    """Set the price of an hour of the devices whose name holds `name`, of a kind (`gpu`, `cpu`), or with an empty name
    of every other device. Attempts that run keep the price of their start. Raises NotAllowed for others than admins,
    InvalidInput.
    """
    require_admin(person)
    name = " ".join(name.split())
    if len(name) > MAX_NAME or not name.isprintable() or set(name) & set("=,"):
        raise InvalidInput(
            f"{name[:MAX_NAME]!r} is not part of a device's name.",
            remedy=f"Give up to {MAX_NAME} characters without = and commas, such as H100, or gpu or cpu.",
            field="name",
        )
    if hour_usd is None or not math.isfinite(hour_usd) or not 0 <= hour_usd <= MAX_HOUR_USD:
        raise InvalidInput(
            "The price of an hour is missing." if hour_usd is None else f"{hour_usd:g} is not a price of an hour.",
            remedy=f"Give US dollars from 0 to {MAX_HOUR_USD:,.0f}.",
            field="hour_usd",
        )
    with ctx.db.write() as session:
        row = _stored_prices(session).get(name.lower())
        if row is None:
            row = DevicePrice(name=name)
            session.add(row)
        row.hour_usd, row.set_by, row.set_at = hour_usd, person.id, ctx.now()


def remove_price(ctx: Context, name: str, *, person: Person) -> None:
    """Remove a price, so that the environment's applies again. Raises NotAllowed, NotFound."""
    require_admin(person)
    with ctx.db.write() as session:
        stored = _stored_prices(session)
        row = stored.get(" ".join(name.split()).lower())
        if row is None:
            known = ", ".join(one.name or "other devices" for one in stored.values())
            raise NotFound(
                f"No price is set for {name[:MAX_NAME] or 'other devices'!r}.",
                remedy=f"Prices are set for: {known}." if known else "None is set; the environment's prices apply.",
            )
        session.delete(row)


def _stored_prices(session: Session) -> dict[str, DevicePrice]:
    return {row.name.lower(): row for row in session.scalars(select(DevicePrice).order_by(DevicePrice.name))}


def use_hour_usd(prices: DevicePrices, use: DeviceUse) -> float | None:
    """Return the price of an hour of a job's devices: that of its start, or else today's. None without."""
    kind: DeviceKind = "cpu" if use.kind == "cpu" else "gpu"
    price = prices.hour_usd(use.device_name, kind) if use.hour_usd is None else use.hour_usd
    return None if price is None else price * use.num_devices


def replica_prices(ctx: Context) -> dict[str, float]:
    """Return dollars an hour by replica, for those that hold a device with a price."""
    with ctx.db.read() as session:
        today = current_prices(ctx, session)
        rows = session.execute(
            select(Replica.id, DeviceUse)
            .join(DeviceUse, DeviceUse.job_id == Replica.job_id)
            .where(DeviceUse.ended_at.is_(None))
        ).all()
    prices = {replica_id: use_hour_usd(today, use) for replica_id, use in rows}
    return {replica_id: price for replica_id, price in prices.items() if price is not None}


Column = ColumnElement[Any] | InstrumentedAttribute[Any]


def price_differences(
    session: Session, ctx: Context, *conditions: ColumnElement[bool], by: Sequence[Column]
) -> Iterator[tuple[Any, ...]]:
    """Yield the dollars that requests cost beyond those stored with them, then the values of the columns of `by`, for
    each group that may have a difference.

    Requests count at the price of their replica's hours: those that were stored without a price, and, where the hours
    had none when they began and count at today's, all of them. Else they would cost nothing, and their share of the
    hours would be idle. All device time of a request counts as that of the replica that answered it.
    """
    earlier = aliased(DeviceUse)
    is_of_earlier = exists().where(
        earlier.job_id == DeviceUse.job_id,
        earlier.started_at < DeviceUse.started_at,
        earlier.ended_at > Usage.created_at,
    )
    query = (
        select(DeviceUse.id, func.sum(Usage.device_s), func.sum(func.coalesce(Usage.cost_usd, 0.0)), *by)
        .join(Replica, Replica.job_id == DeviceUse.job_id)
        .join(Usage, Usage.replica_id == Replica.id)
        .where(
            *conditions,
            # a request that waited for its replica came before the hours that answered it
            or_(Usage.created_at >= DeviceUse.started_at, ~is_of_earlier),
            or_(DeviceUse.ended_at.is_(None), Usage.created_at < DeviceUse.ended_at),
            or_(Usage.cost_usd.is_(None), DeviceUse.hour_usd.is_(None)),
            Usage.device_s > 0,
        )
        .group_by(DeviceUse.id, *by)
    )
    if not (groups := session.execute(query).all()):
        return
    uses = session.scalars(select(DeviceUse).where(DeviceUse.id.in_({use_id for use_id, *_ in groups})))
    today = current_prices(ctx, session)
    prices = {use.id: use_hour_usd(today, use) or 0.0 for use in uses}
    for use_id, seconds, stored, *group in groups:
        yield (seconds * prices[use_id] / 3600 - stored, *group)


def request_costs(session: Session, ctx: Context, request_ids: Sequence[str]) -> dict[str, float]:
    """Return what requests cost, by id; those that have no price are left out."""
    is_one = Usage.id.in_(request_ids)
    stored = session.execute(select(Usage.id, Usage.cost_usd).where(is_one))
    costs = {request_id: usd for request_id, usd in stored if usd is not None}
    for usd, request_id in price_differences(session, ctx, is_one, by=(Usage.id,)):
        if usd or request_id in costs:
            costs[request_id] = costs.get(request_id, 0.0) + usd
    return costs
