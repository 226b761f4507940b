"""Table of the current replicas: machine, address, load, and the memory and processors of their processes."""

from __future__ import annotations

from collections.abc import Sequence

from backend.domain.wording import percent
from backend.services.context import Person
from backend.services.serving.monitoring.gauges import ReplicaGauges
from pages.components.tables import draw_table
from pages.components.words import size

FORMATS = {"Running": ",.0f", "Queue": ",.0f", "Tokens/s": ",.0f", "Cores": ".2f"}


def draw_replica_table(
    replicas: Sequence[ReplicaGauges], *, key: str, alt: str, person: Person, with_machine: bool = True
) -> None:
    """Draw a row per replica; columns that no replica fills are left out, and addresses for all but admins."""
    rows = [
        {
            "Endpoint": replica.endpoint,
            "Revision": replica.revision if replica.role == "stable" else f"{replica.revision}, {replica.role}",
            "Replica": replica.number,
            "Machine": replica.host or "none yet",
            "Address": replica.url,
            "State": "ready" if replica.is_ready else replica.status,
            "Device": replica.device,
            "Running": replica.load.running,
            "Queue": replica.load.waiting,
            "Tokens/s": replica.load.tokens_per_second,
            "KV cache": None if replica.load.cache_ratio is None else percent(replica.load.cache_ratio),
            "Cores": replica.load.cpu_cores,
            "Memory": None if replica.load.memory_bytes is None else size(replica.load.memory_bytes),
            "GPU memory": None if replica.load.gpu_memory_bytes is None else size(replica.load.gpu_memory_bytes),
        }
        for replica in replicas
    ]
    hidden = {name for name in ("Device", "GPU memory") if all(row[name] is None for row in rows)}
    hidden |= set() if with_machine else {"Machine"}
    hidden |= set() if person.is_admin else {"Address"}
    shown = [name for name in rows[0] if name not in hidden] if rows else []
    draw_table([{name: row[name] for name in shown} for row in rows], key=key, alt=alt, formats=FORMATS)
