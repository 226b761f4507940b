"""Scalars of TensorBoard's event files, read from bytes with bounds on everything, since files are untrusted.

An event file is a row of records: length (8 bytes), its checksum (4), the bytes of an `Event` message, their checksum
(4); see tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto. Only fields that hold a scalar are
parsed, so that neither TensorBoard nor a protobuf runtime is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from backend.errors import InvalidInput

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


def looks_like_events(data: bytes) -> bool:
    """Return whether the checksum of the first record's length matches."""
    return len(data) >= 12 and _length_is_sound(data, 0)


def read_scalars(data: bytes) -> Iterator[Scalar]:
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
