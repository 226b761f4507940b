"""A job's folders between this machine and the store of artifacts: what its child reads is brought before it starts,
what it writes is sent beside its work and awaited at its end. Without a store there is nothing to do. Of a
split whose first rows alone are read, the beginning is brought.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import OperationalError

from backend.domain.jobs.artifact_folders import checkpoints_of, folder_noun, folder_of, folders_in
from backend.domain.jobs.events import CheckpointEvent, CheckpointRemovedEvent, Event, ProgressEvent
from backend.domain.jobs.payloads import ProbePayload, TrainPayload
from backend.domain.jobs.records import JobResult, Payload
from backend.domain.jobs.split_heads import BEGINNING, HEAD
from backend.domain.jobs.states import JobKind, StopRequest
from backend.domain.jobs.token_streams import stream_folder
from backend.errors import JobFailed, Unavailable
from backend.infra.store.folders import ALL, REMEDY, DamagedFolder, FileSelection, FolderStore, NoRoom, UncopiedFile
from backend.infra.store.outbox import Entry, Outbox
from backend.services.checkpoints.files import checkpoint_folders
from backend.services.context import Context
from backend.services.jobs.claims import Claim, renew, stop_request
from jobs.token_streams import TokenStreams

log = logging.getLogger(__name__)
T = TypeVar("T")

TRAIN = "train.parquet"
TICK_S = 0.1
PAUSE_S = 2.0
ABSENT_S = 300.0
"""How long a job waits for a folder that another machine may still be sending."""
FULL_S = 1800.0
"""How long a job waits for room on the disk of its machine: longer than copies that were used just now stay."""


RESUMED = frozenset({JobKind.TRAIN, JobKind.EVALUATE, JobKind.GENERATE, JobKind.JUDGE})
"""Kinds that continue from what an earlier attempt left in the job's folder."""


class Interrupted(Exception):
    """The worker is being stopped."""


class _GivenUp(Exception):
    """The work is no longer waited for."""


class FolderExchange:
    """The folders of one attempt at a job."""

    def __init__(self, ctx: Context, claim: Claim[Payload], stopping: threading.Event) -> None:
        self._ctx, self._claim, self._stopping = ctx, claim, stopping
        self._store: FolderStore | None = ctx.artifacts.store
        self._outbox: Outbox | None = ctx.artifacts.outbox
        self._own = [f"jobs/{claim.job_id}"]
        if isinstance(claim.payload, TrainPayload):
            self._own.append(claim.payload.run_folder)
        self._sent: dict[str, Entry] = {}
        self._has_inputs = False
        self._pins, self._bases = ExitStack(), list[str]()
        self._streams: TokenStreams | None = None
        self.message = ""
        """Message while the job waits."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the copies that the job reads and writes while the block runs."""
        if self._store is None:
            yield
            return
        with self._pins:
            self._pins.enter_context(self._store.pinned([*folders_in(self._claim.payload), *self._own]))
            try:
                yield
            finally:
                if self._streams is not None:
                    self._streams.stop()

    def bring_inputs(self) -> StopRequest | None:
        """Bring what the payload names, and what an earlier attempt on another machine has sent. Return a stop request
        that came meanwhile.

        Raises JobFailed for a folder that stays away or a disk that stays full, DamagedFolder, Fenced, Interrupted. A
        store that is down is waited for.
        """
        if self._store is None:
            return None
        how = self.wait_for(self._bring_all)
        self._has_inputs = how is None
        self._pins.enter_context(self._store.pinned(self._bases))
        if self._has_inputs and self._streams is None:
            self._start_streams(self._store)
        return how

    def _start_streams(self, store: FolderStore) -> None:
        """Bring what a run asks for, if splits of its dataset were left in the store."""
        payload, claim = self._claim.payload, self._claim
        if not isinstance(payload, TrainPayload) or payload.dataset is None:
            return
        if store.knows(payload.dataset) and not store.is_here(payload.dataset):
            machine = claim.part.number if claim.part is not None else 0
            folder = self._ctx.artifacts.job_folder(claim.job_id) / stream_folder(claim.attempt, machine)
            self._streams = TokenStreams(self._ctx.artifacts, store, folder, datasets=[payload.dataset])
            self._streams.start()

    def send_checkpoints(self) -> StopRequest | None:
        """Send the run's checkpoints that are here and were not removed since, and wait until other machines can bring
        them. Return a stop request that came meanwhile.

        Raises Fenced, Interrupted.
        """
        payload = self._claim.payload
        if self._store is None or self._outbox is None or not isinstance(payload, TrainPayload):
            return None
        for folder in checkpoint_folders(self._ctx, self._claim.job_id):
            if (self._store.root / folder).is_dir():
                self._send(folder)
        return self.wait_for(self._await_sends)

    def note(self, events: Iterable[Event]) -> None:
        """Send the checkpoints that these events report soon, and delete those that they report as removed. Called in
        the transaction that records the events: none is forgotten, and while the database is away none is sent from
        which another machine would continue without the steps before it.
        """
        if self._store is None:
            return
        for event in events:
            if isinstance(event, CheckpointEvent):
                self._send(event.folder)
            elif isinstance(event, CheckpointRemovedEvent):
                self._sent.pop(event.folder, None)
                self._ctx.artifacts.note_removed(event.folder)

    def send_outputs(self, result: JobResult | None) -> None:
        """Send what a job has left. With a result, wait until the store has it: jobs on other machines may depend on
        it. A stop request ends the wait; what is left is sent later. An attempt that never had its inputs sends
        nothing: its copies may be older than what the store has.

        Raises Fenced, Interrupted.
        """
        if self._store is None or self._outbox is None or not self._has_inputs:
            return
        for folder in [*(folders_in(result) if result is not None else []), *self._own]:
            if any(path.is_file() for path in (self._store.root / folder).glob("*")) or folder not in self._own:
                self._send(folder)
        if result is not None:
            self.wait_for(self._await_sends)

    def withdraw(self) -> None:
        """Send nothing further of an attempt that has lost its job."""
        if self._outbox is not None:
            self._outbox.withdraw(self._sent)

    def _send(self, path: str) -> None:
        if (folder := folder_of(path)) is not None:
            self._sent[folder] = self._ctx.artifacts.send(folder)

    def _bring_all(self, check: Callable[[], None]) -> None:
        assert self._store is not None
        folders, payload = folders_in(self._claim.payload), self._claim.payload
        for folder in folders:
            self._bring(folder, check, needed=True)
            if (base := _base_of(self._store.root, folder)) not in (None, *folders):
                folders.append(str(base))
                self._bases.append(str(base))
        if self._claim.kind in RESUMED:
            for folder in self._own:
                self._bring(folder, check, needed=False)
        if isinstance(payload, ProbePayload) and payload.dataset is not None:
            self._bring_head(payload.dataset, check)
        if isinstance(payload, TrainPayload):
            below = checkpoints_of(payload.run_folder)
            for folder in self._patiently(lambda store: store.list_folders(below), check):
                self._bring(folder, check, needed=False)

    def _bring_head(self, dataset: str, check: Callable[[], None]) -> None:
        """Bring the beginning of a train split that was left in the store."""
        assert self._store is not None
        if not self._store.knows(dataset) or self._store.is_here(dataset, FileSelection(TRAIN)):
            return
        folder = self._ctx.artifacts.job_folder(self._claim.job_id) / HEAD

        def bring(store: FolderStore) -> None:
            if (file := store.remote_file(dataset, TRAIN)) is not None:
                bring_head(file, folder, check=check)

        self._patiently(bring, check)

    def _bring(self, folder: str, check: Callable[[], None], *, needed: bool) -> None:
        assert self._store is not None
        assert self._outbox is not None
        self.message = f"Fetching {folder_noun(folder)} from the store"
        payload, limit_bytes = self._claim.payload, self._store.stream_bytes
        is_dataset = isinstance(payload, TrainPayload | ProbePayload) and folder == payload.dataset
        chosen = FileSelection(limit_bytes=limit_bytes) if is_dataset and limit_bytes > 0 else ALL
        since = time.monotonic()
        while True:
            path = self._store.root / folder
            if self._outbox.waits([folder]) and path.exists():
                return  # made on this machine, and newer than what the store has
            if self._patiently(lambda store: store.bring(folder, selection=chosen, check=check), check) or not needed:
                return
            if path.exists() and not self._store.knows(folder):  # from before there was a store
                self._send(folder)
                return
            if time.monotonic() - since > ABSENT_S:
                raise JobFailed(
                    f"{folder} is not in the store: the machine that made it has not uploaded it.",
                    remedy="Start a worker on that machine, then start this again.",
                )
            self._pause(check)

    def _patiently(self, ask: Callable[[FolderStore], T], check: Callable[[], None]) -> T:
        """Return what the store answers, asking again while it is down. Raises JobFailed if the disk stays full."""
        assert self._store is not None
        full_since: float | None = None
        while True:
            try:
                return ask(self._store)
            except Unavailable as error:
                full_since = (full_since or time.monotonic()) if isinstance(error, NoRoom) else None
                if full_since is not None and time.monotonic() - full_since > FULL_S:
                    raise JobFailed(
                        f"{self._claim.host} has had no room for this job for {FULL_S / 60:.0f} minutes."
                        f" {error.message}",
                        remedy=f"{error.remedy} Then start this again; a run continues from its last checkpoint.",
                    ) from error
                log.warning("job %s waits for the store: %s", self._claim.job_id, error)
                self.message = f"Waiting for the store: {error}"
                self._pause(check)

    def _await_sends(self, check: Callable[[], None]) -> None:
        assert self._outbox is not None
        while self._outbox.waits(self._sent):
            problem = self._outbox.problem
            self.message = f"Waiting for the store: {problem}" if problem else "Sending to the store"
            check()
            time.sleep(TICK_S)

    def _pause(self, check: Callable[[], None]) -> None:
        until = time.monotonic() + PAUSE_S
        while time.monotonic() < until:
            check()
            time.sleep(TICK_S)

    def wait_for(self, work: Callable[[Callable[[], None]], None]) -> StopRequest | None:
        """Do work in a thread while the lease is renewed; give it up for a stop request, which is returned. `message`
        is shown as the job's progress meanwhile.
        """
        given_up, failures = threading.Event(), list[Exception]()

        def check() -> None:
            if given_up.is_set():
                raise _GivenUp

        def do() -> None:
            try:
                work(check)
            except Exception as error:  # raised where it is waited for
                failures.append(error)

        thread = threading.Thread(target=do, daemon=True, name="exchange")
        thread.start()
        renewed_at = time.monotonic()
        try:
            while thread.is_alive():
                thread.join(TICK_S)
                if self._stopping.is_set():
                    raise Interrupted
                try:
                    how, _ = stop_request(self._ctx, self._claim)
                    if how is not None and thread.is_alive():
                        return how
                    if time.monotonic() - renewed_at > self._ctx.policy.lease_s / 4:
                        renewed_at = time.monotonic()
                        self._renew()
                except OperationalError as error:
                    log.warning("database does not answer, retrying: %s", error.orig)
        finally:
            given_up.set()
        if failures:
            raise failures[0]
        return None

    def _renew(self) -> None:
        with self._ctx.db.write() as session:
            progress = ProgressEvent(done=0, total=0, unit="", message=self.message[:200])
            renew(session, self._ctx, self._claim, progress=progress)


def _base_of(root: Path, folder: str) -> str | None:
    """Return the folder of the base that an adapter's folder names."""
    if not (root / folder / "adapter_config.json").is_file():
        return None
    try:
        base = json.loads((root / folder / "roundhouse.json").read_text()).get("base_path")
    except (OSError, ValueError, AttributeError):
        return None
    return folder_of(os.path.normpath(f"{folder}/{base}")) if isinstance(base, str) else None


HEAD_BYTES = 128 * 2**20
"""More than what a probe reads of rows, with the row group in which it stops."""
LONGEST_DIRECTORY = 2**30
REQUEST_BYTES = 2**22
FOOTER_BYTES = 8
"""At the end of a Parquet file: the length of the directory of row groups before them, in four bytes, and a mark."""


def bring_head(file: UncopiedFile, folder: Path, *, check: Callable[[], None], num_bytes: int = HEAD_BYTES) -> None:
    """Write the beginning of a Parquet file in the store, and its directory, to a folder. Nothing is read of it
    here but the directory's length: the job, which has no keys, reads the rest.

    `check` is called between requests and may raise. Raises Unavailable, DamagedFolder.
    """
    size, target = file.file.size, folder / Path(file.file.path).name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    beginning = min(size, num_bytes)
    length = int.from_bytes(file.read(max(0, size - FOOTER_BYTES), size)[:4], "little")
    if length > LONGEST_DIRECTORY:
        raise DamagedFolder(f"{file.folder}/{file.file.path} in the store is not a Parquet file.", remedy=REMEDY)
    tail = max(beginning, size - FOOTER_BYTES - length)
    with target.open("wb") as output:
        for first, last in ((0, beginning), (tail, size)):
            for begin in range(first, last, REQUEST_BYTES):
                check()
                os.pwrite(output.fileno(), file.read(begin, min(begin + REQUEST_BYTES, last)), begin)
        os.ftruncate(output.fileno(), size)
    (folder / BEGINNING).write_text(str(beginning))
