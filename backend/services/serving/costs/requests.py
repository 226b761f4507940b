"""Costs of requests: at the price of their replica's hours, where the stored one is none or an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from backend.db.tables import DeviceUse, Replica, Usage
from backend.services.context import Context
from backend.services.serving.costs.prices import current_prices, use_hour_usd

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
    query = (
        select(DeviceUse.id, func.sum(Usage.device_s), func.sum(func.coalesce(Usage.cost_usd, 0.0)), *by)
        .join(Replica, Replica.job_id == DeviceUse.job_id)
        .join(Usage, Usage.replica_id == Replica.id)
        .where(
            *conditions,
            Usage.created_at >= DeviceUse.started_at,
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
