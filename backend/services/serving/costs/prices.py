"""Prices of the devices that replicas run on."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import DeviceUse, Replica
from backend.services.context import Context


def replica_prices(ctx: Context) -> dict[str, float]:
    """Return dollars an hour by replica, for those that hold a device with a price."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Replica.id, DeviceUse.kind, DeviceUse.device_name, DeviceUse.num_devices, DeviceUse.hour_usd)
            .join(DeviceUse, DeviceUse.job_id == Replica.job_id)
            .where(DeviceUse.ended_at.is_(None))
        ).all()
    prices: dict[str, float] = {}
    for replica_id, kind, name, count, hour_usd in rows:
        price = ctx.policy.prices.hour_usd(name, "cpu" if kind == "cpu" else "gpu") if hour_usd is None else hour_usd
        if price is not None:
            prices[replica_id] = price * count
    return prices
