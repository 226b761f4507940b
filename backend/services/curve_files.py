"""Points of runs as a CSV file: every one that is stored, written while it is read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from sqlalchemy import select

from backend.db.tables import Run
from backend.services.context import Context
from backend.services.metric_blocks import metric_names, read_points

COLUMNS = ("run", "name", "metric", "step", "time", "value")
ROWS_AT_ONCE = 5000
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def stream_csv(ctx: Context, run_ids: Sequence[str]) -> Iterator[str]:
    """Yield a CSV with one line a point: run id, run name, metric, step, time (Unix seconds), value with all its digits.

    Names that a spreadsheet would take for a formula get an apostrophe in front.
    """
    yield ",".join(COLUMNS) + "\r\n"
    for run_id in run_ids:
        with ctx.db.read() as session:
            name = session.scalar(select(Run.name).where(Run.id == run_id))
            metrics = metric_names(session, run_id)
        if name is None:
            continue
        for metric_id, metric in metrics:
            with ctx.db.read() as session:  # one metric a transaction: the reader may be slow
                points = read_points(session, run_id, metric_id)
            head = _cells(run_id, _harmless(name), _harmless(metric))
            for low in range(0, len(points), ROWS_AT_ONCE):
                part = slice(low, low + ROWS_AT_ONCE)
                columns = zip(points.steps[part].tolist(), points.times[part].tolist(), points.values[part].tolist(), strict=True)
                yield "".join(f"{head},{step},{moment!r},{value!r}\r\n" for step, moment, value in columns)


def _cells(*texts: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return line.getvalue()


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
