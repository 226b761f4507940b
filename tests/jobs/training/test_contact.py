"""Machines of a run notice each other while no step is taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from jobs.reporter import FileReporter
from jobs.runner import is_cut_off
from jobs.training import distributed
from jobs.training.distributed import Contact
from tests.support.installation import wait_until

LEASE_S = 1.0
POLICY: Any = SimpleNamespace(policy=SimpleNamespace(lease_s=LEASE_S))


@contextmanager
def in_contact(store: TCPStore, machine: int, folder: Path) -> Iterator[None]:
    """A machine's part: the first one serves the store, the other one joins it."""
    folder.mkdir(exist_ok=True)

    def open_store() -> TCPStore:
        patience = timedelta(seconds=5)
        return store if machine == 0 else TCPStore("127.0.0.1", store.port, is_master=False, timeout=patience)

    running = Contact(open_store, machine, 2, FileReporter(folder / "events.jsonl", folder / "control"))
    running.start()
    try:
        yield
    finally:
        running.end()


def test_a_step_that_takes_long_is_not_taken_for_silence_while_the_machines_reach_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "BEAT_S", 0.1)
    first, other = tmp_path / "first", tmp_path / "other"
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with in_contact(store, 0, first):
        with in_contact(store, 1, other):
            until = time.monotonic() + 3 * LEASE_S
            while time.monotonic() < until:
                assert not is_cut_off(POLICY, first, silent_s=9)
                assert not is_cut_off(POLICY, other, silent_s=9)
                time.sleep(0.1)
        wait_until(lambda: is_cut_off(POLICY, first, silent_s=9), what="the first machine's silence")
        assert not is_cut_off(POLICY, first, silent_s=0.5), "the database was reached a moment ago"
    wait_until(lambda: is_cut_off(POLICY, other, silent_s=9), what="the other machine's silence")
