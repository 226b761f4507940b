"""Curves from other programs' logs: `trainer_state.json`, CSV, lines of JSON, TensorBoard's event files. From bytes to
points, no I/O.

Logs are untrusted: size, number of points and names are bounded, and values that are not numbers are left out and
counted.

An event file is a row of records: length (8 bytes), its checksum (4), the bytes of an `Event` message, their checksum
(4); see tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto. Only fields that hold a scalar
are parsed, so that neither TensorBoard nor a protobuf runtime is needed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from backend.domain.json_values import Row
from backend.domain.wording import clean_text, shorten
from backend.errors import InvalidInput

MAX_BYTES = 64 * 2**20
MAX_POINTS = 1_000_000
MAX_METRICS, MAX_NAME, MAX_NOTES = 200, 60, 20
MAX_STEP = 2**31 - 1
MAX_VALUE, LATEST_S = 1e300, 1e12
"""Larger values and times are treated as not finite: their differences and sums overflow."""
STEP_NAMES = ("step", "global_step", "_step", "steps", "iteration", "iter", "trainer/global_step")
TIME_NAMES = ("time", "wall_time", "wall time", "_timestamp", "timestamp", "walltime")
TOKEN_NAMES = ("num_input_tokens_seen", "num_tokens", "tokens", "train/num_input_tokens_seen", "train/num_tokens")
NO_METRIC = re.compile(r"(^|[/_])(epoch|runtime|total_flos|(samples|steps|tokens)_per_second)$")
OURS = {
    "loss": "train_loss",
    "train/loss": "train_loss",
    "training_loss": "train_loss",
    "train/train_loss": "train_loss",
    "eval_loss": "val_loss",
    "eval/loss": "val_loss",
    "val/loss": "val_loss",
    "valid_loss": "val_loss",
    "validation_loss": "val_loss",
    "lr": "learning_rate",
    "train/lr": "learning_rate",
    "lr-adamw": "learning_rate",
    "gradient_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
}
"""Names of our metrics in other programs."""


@dataclass
class ParsedLog:
    """Curves of one run of another program.

    `points`: by metric, by step, (value, Unix seconds or None). `not_finite`: by metric the first step whose value was
    no number. `sources`: by metric its last name in the log.
    """

    format: str
    name: str = ""
    points: dict[str, dict[int, tuple[float, float | None]]] = field(default_factory=dict)
    not_finite: dict[str, int] = field(default_factory=dict)
    tokens_per_step: float | None = None
    flops_per_step: float | None = None
    notes: list[str] = field(default_factory=list)
    num_points: int = 0
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def last_step(self) -> int:
        """The largest step of any metric."""
        return max((max(series) for series in self.points.values()), default=0)

    @property
    def has_time(self) -> bool:
        """Return whether every point has a time."""
        return all(time is not None for series in self.points.values() for _, time in series.values())

    def add(self, metric: str, step: int, value: object, time: float | None) -> None:
        """Add one value if it is a number. Raises InvalidInput above the bounds."""
        name = our_name(metric)
        number = _number(value)
        if name is None or number is None:
            return
        if not 0 <= step <= MAX_STEP:
            raise InvalidInput(f"The step {step} of {name} is not between 0 and {MAX_STEP:,}.")
        if not abs(number) <= MAX_VALUE:
            self.not_finite.setdefault(name, step)
            return
        if name not in self.points and len(self.points) >= MAX_METRICS:
            raise InvalidInput(f"The log has more than {MAX_METRICS} metrics.", remedy="Export fewer of them.")
        self.num_points += 1
        if self.num_points > MAX_POINTS:
            raise InvalidInput(
                f"The log has more than {MAX_POINTS:,} points.", remedy="Export fewer metrics, or every tenth step."
            )
        series = self.points.setdefault(name, {})
        before = self.sources.get(name, metric)
        if before != metric and step in series:
            self._tell(
                f"“{clean_text(before)[:MAX_NAME]}” and “{clean_text(metric)[:MAX_NAME]}” are both {name}; later values"
                " count."
            )
        self.sources[name] = metric
        series[step] = (number, time if time is not None and abs(time) <= LATEST_S else None)

    def _tell(self, note: str) -> None:
        """Add a note once."""
        if note not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(note)


def read_logs(data: bytes, *, filename: str) -> list[ParsedLog]:
    """Return the runs in a log file, whose format is detected by its content.

    Raises InvalidInput for a file that is too large, is no log, or holds no points.
    """
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            f"{filename} is larger than {MAX_BYTES / 2**20:.0f} MB.",
            remedy="Export fewer metrics, or every tenth step.",
        )
    if _looks_like_events(data):
        logs = [_read_events(data)]
    elif data.lstrip()[:1] in (b"{", b"["):
        logs = [_read_json(data)]
    else:
        logs = _read_csv(data, stem=PurePath(filename).stem)
    logs = [log for log in logs if log.points or log.not_finite]
    if not logs:
        raise InvalidInput(
            f"{filename} holds no points of a curve.",
            remedy=(
                "Choose a trainer_state.json, a CSV with a column `step`, lines of JSON, or an event file of"
                " TensorBoard."
            ),
        )
    return logs


def our_name(metric: str) -> str | None:
    """Return our name of a metric; None for values that are not curves (an epoch, a runtime)."""
    text = clean_text(metric)
    if not text or NO_METRIC.search(text):
        return None
    known = OURS.get(text.lower())
    if known is not None:
        return known
    text = re.sub(r"^train/", "", text)
    text = re.sub(r"^(eval|val)[_/]", "val_", text)
    return shorten(text, MAX_NAME)


def _read_json(data: bytes) -> ParsedLog:
    """Read `trainer_state.json` of transformers, a list of objects, or an object a line."""
    text = data.decode("utf-8-sig", "replace")
    try:
        try:
            content: Any = json.loads(text)
        except json.JSONDecodeError:
            content = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The file begins like JSON but is not valid JSON.", remedy="Choose a whole file.") from error
    is_state = isinstance(content, dict) and isinstance(content.get("log_history"), list)
    log = ParsedLog("trainer_state.json" if is_state else "JSON")
    rows = content["log_history"] if is_state else content if isinstance(content, list) else [content]
    _take_rows(log, (row for row in rows if isinstance(row, dict) and "train_runtime" not in row))
    flops, steps = (_number(content.get(key)) for key in ("total_flos", "global_step")) if is_state else (None, None)
    if flops and steps and abs(flops) <= MAX_VALUE and steps > 0:
        log.flops_per_step = flops / steps
    return log


def _take_rows(log: ParsedLog, rows: Iterable[Row]) -> None:
    """Read rows that hold a step and any number of metrics. The latest token count determines the tokens per step."""
    for row in rows:
        lowered = {str(key).strip().lower(): value for key, value in row.items()}
        step, time = _first(lowered, STEP_NAMES), _first(lowered, TIME_NAMES)
        if step is None or step != int(step):
            continue
        tokens = _first(lowered, TOKEN_NAMES)
        if tokens and step > 0:
            log.tokens_per_step = tokens / step
        for key, value in row.items():
            if str(key).strip().lower() not in (*STEP_NAMES, *TIME_NAMES, *TOKEN_NAMES):
                log.add(str(key), int(step), value, time)


def _first(row: Mapping[str, object], names: Iterable[str]) -> float | None:
    for name in names:
        number = _number(row.get(name))
        if number is not None and abs(number) <= MAX_VALUE:
            return number
    return None


def _number(value: object) -> float | None:
    """Return a number, also parsed from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _read_csv(data: bytes, *, stem: str) -> list[ParsedLog]:
    """Read a table with a column `step`: one column a metric, columns `metric` and `value` with one line a point, or
    columns of several runs as Weights & Biases exports them.
    """
    text = data.decode("utf-8-sig", "replace")
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        lowered = [cell.lower() for cell in header]
        if not any(lowered):
            return []
        if not set(lowered) & set(STEP_NAMES):
            raise InvalidInput(
                "The table has no column `step`.",
                remedy=f"Its columns are {_printable(', '.join(header))}. Name one of them `step`.",
            )
        if columns := _wandb_columns(header):
            return _by_run(reader, columns, header=lowered)
        rows = (dict(zip(header, row, strict=False)) for row in reader if row)
        if {"metric", "step", "value"} <= set(lowered):
            return _tidy({key.lower(): value for key, value in row.items()} for row in rows)
        if lowered == ["wall time", "step", "value"]:  # a download from TensorBoard's page: one metric a file
            rows = ({stem if key.lower() == "value" else key: value for key, value in row.items()} for row in rows)
        log = ParsedLog("CSV")
        _take_rows(log, rows)
    except csv.Error as error:
        raise InvalidInput(f"The table can't be read: {error}.") from error
    return [log]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _tidy(rows: Iterator[dict[str, str]]) -> list[ParsedLog]:
    """Read one line a point; a column `run` keeps several runs apart."""
    logs: dict[str, ParsedLog] = {}
    for row in rows:
        step = _first(row, ("step",))
        if step is None or step != int(step):
            continue
        log = logs.setdefault(row.get("run") or "", ParsedLog("CSV", name=row.get("name") or row.get("run") or ""))
        log.add(row.get("metric") or "", int(step), row.get("value"), _first(row, TIME_NAMES))
    return list(logs.values())


def _wandb_columns(header: list[str]) -> dict[int, tuple[str, str, int]]:
    """Return (run, metric, number) of the columns of a chart's export by Weights & Biases, which names them `run -
    metric` and puts `__MIN` and `__MAX` beside each; empty for another table. Runs of one name have columns of one
    name; `number` counts them from 0.
    """
    columns: dict[int, tuple[str, str, int]] = {}
    for place, name in enumerate(header):
        if " - " in name and {f"{name}__MIN", f"{name}__MAX"} <= set(header):
            run, _, metric = name.rpartition(" - ")
            if metric.lower() not in (*STEP_NAMES, *TIME_NAMES):
                columns[place] = run, metric, header[:place].count(name)
    return columns


def _by_run(
    rows: Iterable[list[str]], columns: Mapping[int, tuple[str, str, int]], *, header: list[str]
) -> list[ParsedLog]:
    """Read a line a step, with columns of several runs."""
    logs = {(run, number): ParsedLog("Weights & Biases", name=run) for run, _, number in columns.values()}
    for row in rows:
        cells = dict(zip(header, row, strict=False))
        step, time = _first(cells, STEP_NAMES), _first(cells, TIME_NAMES)
        if step is None or step != int(step):
            continue
        for place, (run, metric, number) in columns.items():
            if place < len(row):
                logs[run, number].add(metric, int(step), row[place], time)
    return list(logs.values())


def _read_events(data: bytes) -> ParsedLog:
    log = ParsedLog("TensorBoard")
    try:
        for scalar in _read_scalars(data):
            if scalar.tag.lower() in TOKEN_NAMES and scalar.step > 0 and math.isfinite(scalar.value):
                log.tokens_per_step = scalar.value / scalar.step
            else:
                log.add(scalar.tag, scalar.step, scalar.value, scalar.time if math.isfinite(scalar.time) else None)
    except InvalidInput as error:
        if "damaged" not in error.message or not log.points:
            raise
        log.notes.append(f"{error.message} What came before was read.")
    return log


MAX_RECORD_BYTES = 64 * 2**20
POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
DT_FLOAT, DT_DOUBLE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Scalar:
    """One value of an event file. `time` in Unix seconds."""

    tag: str
    step: int
    time: float
    value: float


def _looks_like_events(data: bytes) -> bool:
    """Return whether the checksum of the first record's length matches."""
    return len(data) >= 12 and _length_is_sound(data, 0)


def _read_scalars(data: bytes) -> Iterator[Scalar]:
    """Yield the scalars of an event file in its order; a record that is still being written at the end is left out.

    Raises InvalidInput where the file is damaged, after everything before that was yielded.
    """
    place, view = 0, memoryview(data)
    while place + 12 <= len(data):
        if not _length_is_sound(data, place):
            raise InvalidInput(f"The event file is damaged at byte {place:,}.")
        length = int.from_bytes(data[place : place + 8], "little")
        if length > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"The event file has a record of {length:,} bytes at byte {place:,}; scalars need a hundred."
            )
        start = place + 12
        if start + length > len(data):
            return
        try:
            yield from _scalars_of(view[start : start + length])
        except (ValueError, IndexError, struct.error) as error:
            raise InvalidInput(f"The event file is damaged at byte {start:,}.") from error
        place = start + length + 4


def _scalars_of(event: memoryview) -> Iterator[Scalar]:
    step, time, summaries = 0, 0.0, []
    for number, kind, value in _fields(event):
        if number == 1 and kind == FIXED64:
            time = struct.unpack("<d", value)[0]
        elif number == 2 and kind == VARINT:
            step = value
        elif number == 5 and kind == BYTES:
            summaries.append(value)
    for summary in summaries:
        for number, kind, value in _fields(summary):
            if number == 1 and kind == BYTES:
                scalar = _value_of(value)
                if scalar is not None:
                    yield Scalar(scalar[0], step, time, scalar[1])


def _value_of(message: memoryview) -> tuple[str, float] | None:
    tag, scalar = "", None
    for number, kind, value in _fields(message):
        if number == 1 and kind == BYTES:
            tag = bytes(value[:400]).decode("utf-8", "replace")
        elif number == 2 and kind == FIXED32:
            scalar = struct.unpack("<f", value)[0]
        elif number == 8 and kind == BYTES:
            scalar = _tensor_of(value)
    return None if scalar is None or not tag else (tag, float(scalar))


def _tensor_of(message: memoryview) -> float | None:
    """Return the number of a tensor that holds exactly one, as float or double."""
    dtype, content = 0, b""
    for number, kind, value in _fields(message):
        if number == 1 and kind == VARINT:
            dtype = value
        elif number in (4, 5, 6) and kind in (BYTES, FIXED32, FIXED64) and len(value) <= 8:
            content = bytes(value)
    layout = {DT_FLOAT: "<f", DT_DOUBLE: "<d"}.get(dtype)
    if layout is None or len(content) != struct.calcsize(layout):
        return None
    return float(struct.unpack(layout, content)[0])


def _fields(message: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield (field number, wire type, value) of a protobuf message. Raises ValueError for what is none."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(message, place)
            yield number, kind, value
            continue
        length = 8 if kind == FIXED64 else 4 if kind == FIXED32 else -1
        if kind == BYTES:
            length, place = _varint(message, place)
        if length < 0 or place + length > end:
            raise ValueError("no message")
        yield number, kind, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value - (1 << 64) if value >> 63 & 1 else value), place
    raise ValueError("a number without end")


def _length_is_sound(data: bytes, place: int) -> bool:
    checksum = 0xFFFFFFFF
    for byte in data[place : place + 8]:
        checksum = TABLE[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    checksum ^= 0xFFFFFFFF
    masked = (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return masked == int.from_bytes(data[place + 8 : place + 12], "little")


def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = (row >> 1) ^ (POLYNOMIAL if row & 1 else 0)
        rows.append(row)
    return tuple(rows)


TABLE = _table()
