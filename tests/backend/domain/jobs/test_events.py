"""Events: every line a child writes is read as what was written, whatever its values; anything else is left out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.jobs import events
from backend.domain.jobs.events import EVENTS, AnyEvent, Event, MetricsEvent, event_of, read_event, write_event
from backend.domain.serving.precision import PrecisionCheck

ROOT = Path(__file__).resolve().parents[4]
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(min_value=-(2**53), max_value=2**53)
PLAIN = st.one_of(st.none(), st.booleans(), WHOLE, NUMBER, TEXT)
JSON = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3), max_leaves=6
)

SHARE = st.floats(0, 1)
CHECK = st.builds(
    PrecisionCheck, perplexity_ratio=st.floats(0.01, 1e6), greedy_agreement=SHARE, num_tokens=WHOLE, num_layers=WHOLE
)


def anything(event: type[Event]) -> st.SearchStrategy[Event]:
    """Events of a class with any values that its fields take."""
    known: dict[Any, st.SearchStrategy[Any]] = {
        int: WHOLE,
        float: NUMBER,
        str: TEXT,
        bool: st.booleans(),
        events.Values: st.dictionaries(TEXT, st.none() | NUMBER, max_size=3),
        dict[str, int | None]: st.dictionaries(TEXT, st.none() | WHOLE, max_size=3),
        dict[str, Any]: st.dictionaries(TEXT, JSON, max_size=3),
        PrecisionCheck: CHECK,
    }

    def strategy(annotation: Any) -> st.SearchStrategy[Any]:
        if annotation in known:
            return known[annotation]
        if type(None) in get_args(annotation):
            (inner,) = (part for part in get_args(annotation) if part is not type(None))
            return st.none() | strategy(inner)
        return st.sampled_from(get_args(annotation))

    fields = {
        name: strategy(field.annotation) for name, field in event.model_fields.items() if name not in ("type", "time")
    }
    return st.builds(event, **fields)


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@given(data=st.data(), time=st.floats(0, 2e9))
def test_an_event_is_read_as_it_was_written(event: type[Event], data: st.DataObject, time: float) -> None:
    written = data.draw(anything(event))
    assert read_event(write_event(written, time=time)) == written.model_copy(update={"time": time})


def test_every_event_class_is_known_by_its_type() -> None:
    classes = {
        value
        for value in vars(events).values()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    }
    assert set(EVENTS.values()) == classes == set(get_args(AnyEvent))
    assert all(event.model_fields["type"].default == name for name, event in EVENTS.items())


def test_rooms_emit_only_events() -> None:
    """A name without a class would be written and never read."""
    loose = [str(path) for path in (ROOT / "jobs").rglob("*.py") if ".event(" in path.read_text(encoding="utf-8")]
    assert loose == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[1]",
        b"7",
        b'{"type":"metrics","step":1',
        b'{"type":"of another version"}',
        b'{"type":"metrics","step":"one","values":{}}',
    ],
)
def test_a_line_that_is_no_event_is_left_out(line: bytes) -> None:
    assert read_event(line) is None


def test_a_line_of_the_previous_version_is_read() -> None:
    line = b'{"type":"checkpoint","step":10,"folder":"runs/r/step-10","metrics":{"val_loss":NaN},"final":true,"bytes":5,"time":3.5}'  # noqa: E501
    event = read_event(line)
    assert isinstance(event, events.CheckpointEvent)
    assert (event.step, event.final, event.time, event.metrics) == (10, True, 3.5, {"val_loss": None})


def test_a_number_that_is_not_finite_is_read_as_none() -> None:
    event = read_event(write_event(MetricsEvent(step=1, values={"a": math.nan, "b": math.inf, "c": 1.0}), time=0.0))
    assert isinstance(event, MetricsEvent)
    assert event.values == {"a": None, "b": None, "c": 1.0}


def test_a_lone_surrogate_does_not_end_a_job() -> None:
    event = read_event(write_event(events.LogEvent(text="caf\udce9"), time=0.0))
    assert isinstance(event, events.LogEvent)
    assert event.text == "caf?"


def test_an_invalid_event_is_named() -> None:
    with pytest.raises(ValueError, match="'nothing' is not an event"):
        event_of({"type": "nothing"})
