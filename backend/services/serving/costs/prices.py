"""Prices of the devices that replicas run on."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import DeviceUse, Replica
from backend.domain.estimates.prices import DeviceKind
from backend.services.context import Context


def use_hour_usd(ctx: Context, use: DeviceUse) -> float | None:
    """Return the price of an hour of a job's devices: that of its start, or today's where it had none. None without a
    price.
    """
    kind: DeviceKind = "cpu" if use.kind == "cpu" else "gpu"
    price = ctx.policy.prices.hour_usd(use.device_name, kind) if use.hour_usd is None else use.hour_usd
    return None if price is None else price * use.num_devices


def replica_prices(ctx: Context) -> dict[str, float]:
    """Return dollars an hour by replica, for those that hold a device with a price."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Replica.id, DeviceUse)
            .join(DeviceUse, DeviceUse.job_id == Replica.job_id)
            .where(DeviceUse.ended_at.is_(None))
        ).all()
    prices = {replica_id: use_hour_usd(ctx, use) for replica_id, use in rows}
    return {replica_id: price for replica_id, price in prices.items() if price is not None}
