"""Logs: the lines that a job's process wrote."""

from __future__ import annotations

from sqlalchemy import select

from backend.db.tables import LogLine
from backend.services.context import Context


def read_log(ctx: Context, job_id: str, *, last: int = 200) -> list[str]:
    """Return the last lines of a job's log, oldest first. Where an attempt begins, a line says so."""
    with ctx.db.read() as session:
        query = select(LogLine.attempt, LogLine.text).where(LogLine.job_id == job_id).order_by(LogLine.id.desc()).limit(last)
        rows = list(reversed(session.execute(query).tuples().all()))
    lines: list[str] = []
    attempt: int | None = None
    for number, text in rows:
        if attempt is not None and number != attempt:
            lines.append(f"--- attempt {number} ---")
        attempt = number
        lines.append(text)
    return lines
