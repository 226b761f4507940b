"""Tokens are made once for all that need the same, may be read while they are made, and are never half or wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.domain.data.token_folders import LOCK, MANIFEST
from backend.errors import JobFailed
from backend.infra.files.locks import try_lock
from jobs.batches import pretrain, sft, token_making
from jobs.batches.base import BatchSizes, PartwiseOrder, StepBatches
from jobs.batches.pretrain import TEXT, PretrainBatches
from jobs.batches.prompts import PROMPTS
from jobs.batches.sft import CHAT, PackedBatches, SftBatches, StoredExamples, encode_row, load_examples
from jobs.batches.token_files import StoredTokens, TokenWriter, id_type, read_token_manifest
from jobs.batches.token_maker import MakerSpec
from jobs.batches.token_making import Maker, SplitFolder, TokenSource, make_tokens, row_pieces
from jobs.training.objectives import base
from jobs.training.run import run
from tests.support.jobs import MemoryReporter
from tests.support.training_rooms import Recorder, Rooms, chat_rows, make_stories, source_of, write_dataset

SIZES = BatchSizes(micro_batch=2, items_per_step=4, val_items=2, seed=4)


def folders(rooms: Rooms) -> set[str]:
    return {path.name for path in (rooms.root / "tokens").iterdir() if path.is_dir()}


def made(recorder: MemoryReporter) -> list[str]:
    return [line for line in recorder.lines if line.startswith("Tokenised")]


@pytest.mark.parametrize("objective", ["pretrain", "sft", "dpo", "kto", "grpo"])
def test_the_second_run_makes_no_tokens_and_trains_on_the_same(rooms: Rooms, objective: str) -> None:
    values: dict[str, Any] = {"max_steps": 3}
    if objective == "grpo":
        values["grpo"] = {"group_size": 2, "max_new_tokens": 4, "rewards": [{"kind": "length", "target": 4}]}
    first, second = Recorder(), Recorder()
    run(rooms.training(objective, run=f"{objective}-1", job=f"{objective}-1", **values), first)
    before = folders(rooms)
    run(rooms.training(objective, run=f"{objective}-2", job=f"{objective}-2", **values), second)
    assert made(first)
    assert not made(second)
    assert folders(rooms) == before
    assert first.series("train_loss") == second.series("train_loss")
    assert first.of("rows_encoded") == second.of("rows_encoded")
    job_files = {path.suffix for path in (rooms.root / "jobs" / f"{objective}-2").rglob("*")}
    assert not job_files & {".uint16", ".uint32"}


def test_runs_of_another_context_share_tokens_and_another_template_does_not(rooms: Rooms) -> None:
    shared, changed = source_of(rooms.root / "chats", rooms.tokenizer), Rooms(rooms.root / "again").tokenizer
    place = shared.split_folder(CHAT, "train")
    assert shared.split_folder(CHAT, "train").path == place.path
    assert {shared.split_folder(CHAT, "val").path, shared.split_folder(TEXT, "train").path}.isdisjoint({place.path})
    changed.chat_template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    other = source_of(rooms.root / "chats", changed)
    assert other.split_folder(CHAT, "train").path != place.path
    assert other.split_folder(TEXT, "train").path == shared.split_folder(TEXT, "train").path, (
        "running text has no template"
    )
    changed.add_tokens(["Mira"])
    assert (
        source_of(rooms.root / "chats", changed).split_folder(TEXT, "train").path
        != shared.split_folder(TEXT, "train").path
    )
    run_logs(rooms, "long", context=48)
    assert not made(run_logs(rooms, "short", context=24))


def run_logs(rooms: Rooms, name: str, **values: Any) -> Recorder:
    recorder = Recorder()
    run(rooms.training("sft", run=name, job=name, max_steps=2, **values), recorder)
    return recorder


def test_stored_conversations_are_those_of_the_renderer_at_every_context(rooms: Rooms, tmp_path: Path) -> None:
    rows = [*chat_rows(30), {"messages": [{"role": "user", "content": "no answer"}]}]
    folder = write_dataset(tmp_path / "d", train=rows)
    for context in (24, 32, 64):
        reporter = MemoryReporter()
        stored = load_examples(source_of(folder, rooms.tokenizer, reporter), "train", context=context)
        direct = [example for row in rows for example in encode_row(rooms.tokenizer, row, context=context)]
        teaching = [example for example in direct if example.teaches]
        read = [stored[index] for index in range(len(stored))]
        assert [(one.ids.tolist(), one.targets.tolist()) for one in read] == [
            (one.ids.tolist(), one.targets.tolist()) for one in teaching
        ]
        (counts,) = reporter.of("rows_encoded")
        assert counts["zero_label_rows"] == sum(
            not any(e.teaches for e in encode_row(rooms.tokenizer, row, context=context)) for row in rows
        )
        assert counts["truncated"] == sum(
            any(len(e.untruncated) > context for e in encode_row(rooms.tokenizer, row, context=context)) for row in rows
        )


def large(tmp_path: Path, count: int, *, group: int = 300) -> Path:
    """Write texts in many row groups, each text with its number."""
    folder = tmp_path / "large"
    folder.mkdir()
    texts = [f"{number} {text}" for number, text in enumerate(make_stories(count, seed=3))]
    pq.write_table(pa.table({"text": texts}), folder / "train.parquet", row_group_size=group)
    return folder


def test_pieces_hold_every_row_once_and_mix_the_whole_file(tmp_path: Path) -> None:
    file = large(tmp_path, 20_000, group=512) / "train.parquet"
    numbers = [number for numbers, rows in row_pieces(file, mixed=True) for number in numbers]
    assert sorted(numbers) == list(range(20_000))
    assert numbers == [number for numbers, rows in row_pieces(file, mixed=True) for number in numbers]
    assert all(
        int(str(row["text"]).split()[0]) == number
        for numbers, rows in row_pieces(file, mixed=True)
        for number, row in zip(numbers, rows, strict=True)
    )
    beginning = np.array(numbers[:4096])
    assert 0.3 < (beginning < 10_000).mean() < 0.7, "the first part is like the whole, in a file that is sorted too"
    follows = np.mean([after == before + 1 for before, after in pairwise(numbers)])
    assert follows > 0.99, "texts that follow each other stay together"
    assert [number for numbers, rows in row_pieces(file, mixed=False) for number in numbers] == list(range(20_000))


class SlowMaker:
    """Adds a piece each time that a reader waits: what a reader sees while another process makes tokens."""

    def __init__(self, source: TokenSource, place: SplitFolder) -> None:
        writer = TokenWriter(
            place.path, place.identity, dtype=id_type(len(source.tokenizer), has_marks=place.form.has_marks)
        )
        writer.flush()
        self.writer, self.waits = writer, 0
        self._pieces = row_pieces(source.dataset / f"{place.split}.parquet", mixed=place.split == "train")
        self._source, self._form = source, place.form

    def keep(self) -> None:
        self.waits += 1
        piece = next(self._pieces, None)
        if piece is not None:
            self.writer.add(piece[0], self._form.encode(self._source.tokenizer, piece[1]))
        self.writer.flush(is_complete=piece is None)
        if piece is None:
            self.writer.close()


def steps_of(batches: StepBatches, count: int) -> list[Any]:
    return [
        [(micro.inputs.tolist(), micro.targets.tolist()) for micro in batches.at_step(step)]
        for step in range(1, count + 1)
    ]


@pytest.mark.parametrize("kind", ["text", "packed", "padded"])
def test_a_run_begins_on_the_first_part_and_sees_the_same_data_as_with_all_tokens(
    rooms: Rooms, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "PART_TOKENS", 4096)
    monkeypatch.setattr(sft, "PART_ITEMS", 500)
    monkeypatch.setattr("jobs.batches.token_files.POLL_S", 0.0)
    form = TEXT if kind == "text" else CHAT
    folder = tmp_path / "d"
    folder.mkdir()
    rows = [{"text": text} for text in make_stories(3000)] if kind == "text" else chat_rows(3000)
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet", row_group_size=400)

    def batches_of(tokens: StoredTokens) -> StepBatches:
        if kind == "text":
            return PretrainBatches(tokens, None, context=32, sizes=SIZES)
        stored = StoredExamples(tokens, context=48)
        return (
            PackedBatches(stored, [], context=48, sizes=SIZES)
            if kind == "packed"
            else SftBatches(stored, [], pad_id=0, sizes=SIZES)
        )

    whole = TokenSource(folder, rooms.tokenizer, tmp_path / "whole", MemoryReporter()).open(form, "train")
    assert whole is not None
    growing_source = TokenSource(folder, rooms.tokenizer, tmp_path / "growing", MemoryReporter())
    place = growing_source.split_folder(form, "train")
    maker = SlowMaker(growing_source, place)
    growing = place.open()
    assert growing is not None
    growing.keep_waiting = maker.keep
    cold, warm = batches_of(growing), batches_of(whole)
    assert steps_of(cold, 3) == steps_of(warm, 3)
    assert 0 < maker.waits < 8
    assert not growing.is_complete, "the first steps did not wait for the rest"
    later = int(warm._order.first_size / 4) + 60  # into the second epoch
    assert steps_of(cold, later)[-80:] == steps_of(warm, later)[-80:]
    assert growing.is_complete
    assert steps_of(batches_of(whole), later)[-1] == batches_step(batches_of(whole), later), (
        "a step depends on its number alone"
    )
    for epoch in (0, 1):
        items = warm._order.take(
            epoch * warm._order.first_size, warm._order.first_size if epoch == 0 else warm._order.size
        )[1]
        assert sorted(items.tolist()) == list(range(len(items))), "every item once an epoch"


def batches_step(batches: StepBatches, step: int) -> list[Any]:
    return [(micro.inputs.tolist(), micro.targets.tolist()) for micro in batches.at_step(step)]


def test_an_order_with_one_part_is_that_of_earlier_versions() -> None:
    from jobs.batches.base import EpochOrder

    old = EpochOrder(37, seed=9)
    new = PartwiseOrder(lambda part: 37 if part == 0 else None, lambda: 37, seed=9)
    for first in (0, 30, 80):
        assert [a.tolist() for a in old.take(first, 20)] == [b.tolist() for b in new.take(first, 20)]
    assert (new.items_in(2.5), new.epochs_in(37 * 2.5)) == (old.items_in(2.5), old.epochs_in(37 * 2.5))


WAITING = """
import runpy, sys
from jobs.batches import token_files
from jobs.batches.token_files import TokenWriter
token_files.FLUSH_BYTES = 1000
flush = TokenWriter.flush
def flush_and_wait(writer, **named):
    flush(writer, **named)
    if writer.rows:
        print("flushed", flush=True)
        sys.stdin.read()
TokenWriter.flush = flush_and_wait
runpy.run_module("jobs.batches.token_maker", run_name="__main__")
"""
"""A maker that waits to be killed once its first rows are on the disk."""


def command_of(source: TokenSource, folder: Path, tokenizer: Path) -> list[str]:
    return MakerSpec(os.getpid(), str(source.dataset), str(tokenizer), str(source.root), "text").write(folder)._command


def wait_until(holds: Any, *, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_maker_imports_no_network() -> None:
    """It took twice as long to start, and a run waits for its first tokens."""
    said = "import sys, jobs.batches.token_maker; print({'peft', 'transformers.modeling_utils'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, check=True).stdout == b"set()\n"


def test_a_killed_maker_leaves_nothing_half_and_the_next_continues_it(rooms: Rooms, tmp_path: Path) -> None:
    folder = large(tmp_path, 4_000, group=400)
    tokenizer = rooms.root / "tokenizer"
    sources = [TokenSource(folder, rooms.tokenizer, tmp_path / name, MemoryReporter()) for name in ("whole", "killed")]
    undisturbed, killed = (source.split_folder(TEXT, "train") for source in sources)
    program, _, _, *spec = command_of(sources[1], tmp_path / "spec", tokenizer)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([program, "-c", WAITING, *spec], **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == b"flushed\n"
        child.kill()
    left = read_token_manifest(killed.path)
    assert left is not None
    assert left.counts["rows"] > 0
    assert not left.is_complete
    with (killed.path / "ids").open("ab") as file:
        file.write(b"half a token")  # what a kill between two writes leaves
    assert make_tokens(sources[0], undisturbed)
    both = [subprocess.Popen(command_of(sources[1], tmp_path / f"spec-{number}", tokenizer)) for number in (1, 2)]
    assert [each.wait(250) for each in both] == [0, 0], "the second one leaves, or finds the tokens made"
    wait_until(lambda: (known := killed.open()) is not None and known.is_complete)
    for name in ("ids", "ends", "rows", "values"):
        sizes = [read_token_manifest(place.path).bytes[name] for place in (undisturbed, killed)]  # type: ignore[union-attr]
        assert sizes[0] == sizes[1]
        assert (undisturbed.path / name).read_bytes() == (killed.path / name).read_bytes()[: sizes[1]]
    assert rooms.tokenizer.decode(killed.open().segments_of(0)[0])  # type: ignore[union-attr]


def test_a_run_trains_while_a_process_of_its_own_makes_the_tokens(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "OWN_PROCESS_BYTES", 0)
    write_dataset(
        rooms.root / "streamed",
        train=[{"text": text} for text in make_stories(700, seed=8)],
        val=[{"text": text} for text in make_stories(9)],
    )
    cold, warm = Recorder(), Recorder()
    for name, recorder in (("cold", cold), ("warm", warm)):
        run(rooms.training("pretrain", run=name, job=name, dataset="streamed"), recorder)
    # The process may complete a split before the run asks for it, which then has nothing to log.
    told = [
        any("Making the tokens" in one.message for one in each.all if one.type == "progress") for each in (cold, warm)
    ]
    assert (told, made(warm)) == ([True, False], [])
    assert cold.series("train_loss") == warm.series("train_loss")
    assert cold.series("val_loss") == warm.series("val_loss")


def test_what_the_makers_process_refuses_ends_the_run_with_its_reason(rooms: Rooms, tmp_path: Path) -> None:
    source = TokenSource(rooms.root / "texts", rooms.tokenizer, tmp_path / "tokens", MemoryReporter())
    maker = MakerSpec(
        os.getpid(), str(rooms.root / "texts"), str(tmp_path / "no tokenizer"), str(source.root), "text"
    ).write(tmp_path / "a")
    with pytest.raises(JobFailed, match="There is no tokenizer folder"):
        source.open(TEXT, "train", maker=maker)


def test_a_makers_process_that_dies_is_started_three_times(rooms: Rooms, tmp_path: Path) -> None:
    source = TokenSource(rooms.root / "texts", rooms.tokenizer, tmp_path / "tokens", MemoryReporter())
    with pytest.raises(JobFailed, match="died three times"):
        source.open(
            TEXT, "train", maker=Maker(["sh", "-c", f"echo >> {tmp_path / 'starts'}; kill -9 $$"], tmp_path / "error")
        )
    assert (tmp_path / "starts").read_text().count("\n") == 3


def test_others_wait_while_one_process_makes_tokens(rooms: Rooms, tmp_path: Path) -> None:
    source = TokenSource(rooms.root / "texts", rooms.tokenizer, tmp_path / "tokens", MemoryReporter())
    place = source.split_folder(TEXT, "train")
    place.path.mkdir(parents=True)
    with try_lock(place.path / LOCK):
        assert not make_tokens(source, place)
        assert place.open() is None
    assert make_tokens(source, place)


def read_step(source: TokenSource) -> None:
    tokens = source.open(TEXT, "train")
    assert tokens is not None
    PretrainBatches(tokens, None, context=16, sizes=SIZES).at_step(1)


def test_damage_is_noticed_and_the_tokens_are_made_again(rooms: Rooms, tmp_path: Path) -> None:
    source = source_of(
        write_dataset(tmp_path / "d", train=[{"text": text} for text in make_stories(200)]), rooms.tokenizer
    )
    place = source.split_folder(TEXT, "train")
    tokens = source.open(TEXT, "train")
    assert tokens is not None
    right = tokens.ids.tolist()
    draw = random.Random(1)
    for name in ("ids", "ends", "rows"):
        data = bytearray((place.path / name).read_bytes())
        data[draw.randrange(len(data))] ^= 4
        (place.path / name).write_bytes(data)
        with pytest.raises(JobFailed, match=f"damaged: {name}"):
            read_step(source)
        repaired = source.open(TEXT, "train")
        assert repaired is not None
        assert repaired.ids.tolist() == right
    (place.path / "ids").write_bytes(b"short")
    assert read_token_manifest(place.path) is None
    assert source.open(TEXT, "train").ids.tolist() == right  # type: ignore[union-attr]
    for text in (
        "{",
        "[]",
        json.dumps({"identity": {}, "dtype": "uint16", "bytes": {"../x": 1}}),
        json.dumps({"dtype": "object"}),
    ):
        (place.path / MANIFEST).write_text(text)
        assert read_token_manifest(place.path) is None


def test_an_upgrade_of_the_encoding_code_never_reads_old_tokens(
    rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(rooms.root / "texts", rooms.tokenizer)
    before = source.split_folder(TEXT, "train").path
    monkeypatch.setattr(token_making, "code_hash", lambda: "newer")
    assert source.split_folder(TEXT, "train").path != before


def test_answers_of_prompts_survive_the_store(rooms: Rooms, tmp_path: Path) -> None:
    from jobs.batches.prompts import load_questions

    rows = [{"prompt": f"How is {name}?", "completion": f"très {name} 漢"} for name in ("Ada", "Tom")]
    source = source_of(write_dataset(tmp_path / "d", train=rows), rooms.tokenizer)
    questions = load_questions(source, "train", context=64, max_new_tokens=4)
    assert [question.answers for question in questions] == [("très Ada 漢",), ("très Tom 漢",)]
    assert PROMPTS.segments == 2


def test_ids_take_the_narrowest_type_that_holds_them_and_their_mark() -> None:
    assert id_type(1 << 15, has_marks=True) is id_type(1 << 16, has_marks=False) is np.uint16
    assert id_type((1 << 15) + 1, has_marks=True) is id_type((1 << 16) + 1, has_marks=False) is np.uint32
