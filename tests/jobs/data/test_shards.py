"""Imports in shards, by datatrove and real processes: the rows of one process, whatever is stopped or killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.reports.report import ReportQuestion
from backend.domain.data.token_folders import FILES, MANIFEST
from backend.domain.data.versions.changes import DropRows
from backend.domain.jobs.events import Event, ProgressEvent
from backend.domain.jobs.results import ImportResult
from backend.errors import InvalidInput, JobFailed, Unavailable
from jobs.batches.pretrain import TEXT
from jobs.batches.token_files import TokenWriter
from jobs.batches.token_making import TokenSource, row_pieces
from jobs.data.deriving import derive
from jobs.data.filters import RowFilters
from jobs.data.reports.run import run as report
from jobs.data.run import run
from jobs.data.shard_runs import error_file, log_folder
from jobs.data.shard_tasks import ReadShard, shard_options
from jobs.data.sharding import ShardPlan, shard_bounds
from jobs.data.token_shards import make_tokens_of
from jobs.modeling.dataset_files import iter_rows, split_file
from tests.support.data.corpora import write_corpus
from tests.support.data.data_reporter import RememberingReporter
from tests.support.jobs import MemoryReporter, make_spec
from tests.support.training_rooms import Rooms

FILTERS = {"languages": ("en",), "min_characters": 20, "drop_faulty": True}


class _Interfering(RememberingReporter):
    """Acts once, when the first shards are finished."""

    def __init__(self, act: Callable[[], object], *, stops: bool = False) -> None:
        super().__init__()
        self._act, self._stops, self._is_due = act, stops, True

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, ProgressEvent) and event.unit == "shard" and 0 < event.done < event.total and self._is_due:
            self._is_due = False
            self._act()
            if self._stops:
                self._stop_after = 0


def readers() -> list[psutil.Process]:
    """Return the processes that read shards, oldest first; not those that have ended, which have no command line."""
    running = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "shard_tasks" in " ".join(child.cmdline()):
                running.append(child)
    return sorted(running, key=psutil.Process.create_time)


def run_import(root: Path, reporter: RememberingReporter, **options: Any) -> ImportResult:
    payload = {"kind": "text", "source": "corpus", "val_fraction": 0.1, "max_rejected": 1.0, **options}
    return run(make_spec("import_dataset", payload, root=root), reporter)


def rows_of(result: ImportResult, root: Path) -> dict[str, list[dict[str, Any]]]:
    folder, splits = root / result.folder, ("train", "val")
    return {split: list(iter_rows(folder, split=split)) if split_file(folder, split) else [] for split in splits}  # type: ignore[arg-type]


def drop_reported(root: Path, folder: str) -> ImportResult:
    """Report on a version, and derive it without the duplicates that the report names."""
    payload = {
        "dataset": folder,
        "dataset_kind": "text",
        "question": ReportQuestion(context=64).model_dump(),
        "out": "report",
    }
    report(make_spec("data_report", payload, root=root, job="report"), RememberingReporter())
    listed = json.loads((root / "report" / "rows.json").read_text())
    assert set(listed["leakage"]["train"]) - set(listed["duplicates"]["train"])
    train = {*listed["duplicates"]["train"], *listed["leakage"]["train"]}
    change = DropRows(train=tuple(sorted(train)), val=tuple(listed["duplicates"]["val"]))
    return derive(root / folder, change=change, out_root=root / "datasets", reporter=RememberingReporter())


def test_a_corpus_in_shards_stopped_and_killed_has_the_rows_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.data.shard_runs.POLL_S", 0.005)  # a machine at rest reads a shard in milliseconds
    write_corpus(tmp_path / "corpus")
    alone = run_import(tmp_path, RememberingReporter(), **FILTERS)
    fewer = drop_reported(tmp_path, alone.folder)
    assert (fewer.dropped_rows or 0) > 50
    both = run_import(tmp_path, RememberingReporter(), **FILTERS, drop_near_duplicates=True)
    assert rows_of(both, tmp_path) == rows_of(fewer, tmp_path)

    sharded = {**FILTERS, "drop_near_duplicates": True, "shards": 5, "workers": 2, "out_root": "sharded"}
    with pytest.raises(JobFailed, match="stopped on request"):
        run_import(tmp_path, _Interfering(lambda: None, stops=True), **sharded)
    assert not readers()
    (unfinished,) = (tmp_path / "sharded").glob(".importing-*")
    before = {shard.name: shard.stat().st_mtime_ns for shard in unfinished.glob("shard-0*")}
    assert 0 < len(before) < 5
    (log_folder(unfinished) / "completions" / ".1").touch()  # of a process that was killed while it counted

    times: dict[str, int] = {}

    def act() -> None:
        times.update({shard.name: shard.stat().st_mtime_ns for shard in unfinished.glob("shard-0*")})
        readers()[-1].kill()

    reporter = _Interfering(act)
    result = run_import(tmp_path, reporter, **sharded)
    assert result.filtered_rows["like a held-out row"] > 0
    assert result.filtered_rows["like another"] + result.filtered_rows["like a held-out row"] == fewer.dropped_rows
    assert {"not in English", "with faulty characters", "shorter than 20 characters"} < set(result.filtered_rows)
    assert {name: times[name] for name in before} == before, "finished shards are not read again"
    assert any(re.match(r"[1-4] of \d shards were finished by an earlier attempt", line) for line in reporter.lines)
    assert any("ended with status -9" in line for line in reporter.lines)
    assert rows_of(result, tmp_path) == rows_of(fewer, tmp_path)
    assert result.model_copy(update={"folder": both.folder, "resumed": False}) == both, "counts, reasons and hash too"
    assert not unfinished.exists()


def test_no_training_row_is_like_a_held_out_one_and_the_held_out_rows_stay(tmp_path: Path) -> None:
    """Near duplicates were left out in each split alone, so that a held-out row was also trained on."""
    random = Random(1)
    words = [f"{random.getrandbits(40):x}" for _ in range(400)]
    lines = [" ".join([f"engine-{number}", *random.sample(words, 12)]) for number in range(60)]
    source = tmp_path / "corpus"
    source.mkdir()
    (source / "lines.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for line in lines for text in (line, f"{line}!", f"{line} Yes"))
    )
    kept, fewer = (
        run_import(tmp_path, RememberingReporter(), val_fraction=0.2, drop_near_duplicates=drops)
        for drops in (False, True)
    )

    def texts(result: ImportResult, split: str) -> list[str]:
        return [row["text"] for row in rows_of(result, tmp_path)[split]]

    def engines(result: ImportResult, split: str) -> set[str]:
        return {text.split()[0] for text in texts(result, split)}

    assert engines(kept, "train") & engines(kept, "val")
    assert engines(fewer, "train") & engines(fewer, "val") == set()
    assert engines(fewer, "val") == engines(kept, "val")
    assert len(texts(fewer, "train")) + len(texts(fewer, "val")) == 60
    assert fewer.filtered_rows["like a held-out row"] == len(engines(kept, "train") & engines(kept, "val"))
    (source / "lines.jsonl").write_text(
        "".join(json.dumps({"text": f"{lines[0]}{'!' * n}"}) + "\n" for n in range(300))
    )
    with pytest.raises(InvalidInput, match="Every training row is like a held-out one"):
        run_import(tmp_path, RememberingReporter(), val_fraction=0.3, drop_near_duplicates=True)


def test_few_rows_in_shards_are_split_as_one_process_splits_them(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", files=3, rows=100)
    alone = run_import(tmp_path, RememberingReporter(), drop_near_duplicates=True)
    result = run_import(
        tmp_path, RememberingReporter(), drop_near_duplicates=True, shards=3, workers=1, out_root="sharded"
    )
    assert rows_of(result, tmp_path) == rows_of(alone, tmp_path)
    assert (result.content_hash, result.rejected) == (alone.content_hash, alone.rejected)


def test_an_error_of_a_shard_is_the_error_of_the_import(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", files=2, rows=20)
    (tmp_path / "corpus" / "1.jsonl.gz").unlink()
    with pytest.raises(InvalidInput, match=r"rows that can't be used\. 0\.jsonl|row 11"):
        run_import(tmp_path, RememberingReporter(), shards=1, keep_good=False)


def test_an_error_of_a_shard_is_never_half_written(tmp_path: Path) -> None:
    plan = ShardPlan(
        source=str(write_corpus(tmp_path / "corpus", files=1, rows=2)),
        files_key="of other files",
        kind=DatasetKind.TEXT,
        mapping={"text": "text"},
        encoding=None,
        val_fraction=0,
        seed=0,
        by_first_message=False,
        keep_good=True,
        filters=RowFilters(),
        compares=False,
        bounds=(0, 1),
    )
    plan.save(tmp_path)
    file = error_file(tmp_path, 0)
    file.write_text("as it was")
    with file.open() as reader:
        with pytest.raises(JobFailed, match="source changed"):
            ReadShard(tmp_path)(None, 0, 1)
        assert reader.read() == "as it was", "it is replaced, not overwritten in place"
    assert "source changed" in json.loads(file.read_text())["cause"]
    assert list(tmp_path.glob("error-*")) == [file]


def test_a_machine_reads_no_more_shards_at_a_time_than_it_has_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", files=3, rows=10)
    monkeypatch.setattr("jobs.data.shard_runs.count_usable_cores", lambda: 1)
    counts: list[int] = []

    class Counting(RememberingReporter):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, ProgressEvent) and event.unit == "shard":
                counts.append(len(readers()))

    run_import(tmp_path, Counting(), shards=3, workers=1000)
    assert max(counts) == 1


SQUEUE = """#!/bin/sh
# Answers nothing, as for an empty queue, but not at once after a submission.
[ -e {folder}/silent ] || exit 0
rm {folder}/silent
echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
exit 1
"""
SBATCH = """#!/bin/sh
# Refuses with the first line that is left, or runs the tasks, as a cluster that is free does.
for script in "$@"; do :; done
read -r refusal <{folder}/refusals && sed -i 1d {folder}/refusals && echo "sbatch: error: $refusal" >&2 && exit 1
SLURM_ARRAY_TASK_ID=0 RUN_OFFSET=0 SLURM_NODELIST=n1 sh "$script" >{folder}/task.log 2>&1
touch {folder}/silent
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
"""


@pytest.fixture
def refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands as scripts; the file of what sbatch refuses with."""
    commands = tmp_path / "commands"
    commands.mkdir()
    hosts, nothing = "#!/bin/sh\necho n1\n", "#!/bin/sh\n"
    scripts = {"squeue": SQUEUE, "sbatch": SBATCH, "srun": SRUN, "scontrol": hosts, "scancel": nothing}
    for name, text in scripts.items():
        (commands / name).write_text(text.replace("{folder}", str(commands)))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setattr("jobs.data.shard_runs.ASK_S", 0.0)
    monkeypatch.setattr("jobs.data.shard_runs.AGAIN_S", 0.0)
    return commands / "refusals"


def test_slurm_that_is_busy_or_silent_for_a_moment_ends_no_import(tmp_path: Path, refusals: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1, rows=40)
    busy, silent = "Resource temporarily unavailable", "Socket timed out on send/recv operation"
    refusals.write_text(f"{busy}\n{silent}\n")
    reporter = RememberingReporter()
    result = run_import(tmp_path, reporter, shards=1, executor="slurm:cpu")
    assert result.rows == 40
    said = [event.message for event in reporter.all if isinstance(event, ProgressEvent) and event.unit == "shard"]
    assert [message for message, _ in groupby(filter(None, said))] == [
        f"Slurm refused for now (sbatch): {busy}",
        f"Slurm does not answer: {silent}.",
        "Slurm does not answer: slurm_load_jobs error: Unable to contact slurm controller (connect failure).",
    ]


def test_an_import_is_stopped_while_slurm_hangs(tmp_path: Path, refusals: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1, rows=3)
    (refusals.parent / "sbatch").write_text("#!/bin/sh\nexec sleep 600\n")
    reporter = RememberingReporter(stop_after=20)
    with pytest.raises(JobFailed, match="stopped on request"):
        run_import(tmp_path, reporter, shards=1, executor="slurm:cpu")


def test_an_order_that_slurm_will_never_take_ends_the_import_with_its_words(tmp_path: Path, refusals: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1, rows=3)
    refusals.write_text("invalid partition specified: cpu\n")
    with pytest.raises(InvalidInput, match=r"Slurm refused \(sbatch\): invalid partition specified: cpu") as caught:
        run_import(tmp_path, RememberingReporter(), shards=1, executor="slurm:cpu")
    assert "ROUNDHOUSE_SLURM_OPTIONS" in str(caught.value.remedy)


def test_without_datatrove_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus", files=1, rows=3)
    monkeypatch.setattr("backend.errors.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="datatrove, which is not installed") as caught:
        run_import(tmp_path, RememberingReporter(), shards=1)
    assert "pip install 'roundhouse[corpora]'" in caught.value.remedy


def test_rows_that_depend_on_other_files_are_not_read_in_shards(tmp_path: Path) -> None:
    messages = [{"message_id": "a", "parent_id": None, "role": "user", "content": "Who mends the gate?"}]
    messages += [{"message_id": "b", "parent_id": "a", "role": "assistant", "content": "The smith."}]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in messages))
    with pytest.raises(InvalidInput, match="table of messages can't be read in shards"):
        run_import(tmp_path, RememberingReporter(), kind="chat", shards=2)


def test_filters_that_leave_nothing_say_what_they_left_out(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1, rows=30)
    with pytest.raises(InvalidInput, match=r"leave no row of 'corpus' to .* Left out: \d+ rows not in Japanese"):
        run_import(tmp_path, RememberingReporter(), languages=("ja",))


def test_bad_rows_are_counted_among_all_that_were_read(tmp_path: Path) -> None:
    """Rows that filters had left out were not counted, and after near duplicates were gone fewer still."""
    rows = [json.dumps({"text": text}) for text in ["Too short."] * 6 + ["It is long enough to be left in."] * 2]
    (tmp_path / "corpus.jsonl").write_text("\n".join([*rows, "{}", "{"]))
    with pytest.raises(InvalidInput, match=r"^2 of 10 rows \(20 %\)"):
        run_import(tmp_path, RememberingReporter(), source="corpus.jsonl", min_characters=20, max_rejected=0.1)


def test_a_text_is_left_out_for_the_first_reason() -> None:
    filters = RowFilters(languages=("de",), min_characters=10, drop_faulty=True)
    german = "Die Brücke über den Fluss wird nicht vor dem Herbst fertig."
    assert filters.reason(german) == ""
    assert filters.reason("kurz") == "shorter than 10 characters"
    assert filters.reason(german + "\ufffd") == "with faulty characters"
    assert filters.reason("The bridge will not be finished before autumn.") == "not in German"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'xx' is not a language that can be detected"):
        ImportOptions(languages=("xx",))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.integers(1, 20))
def test_shards_are_consecutive_files_of_about_equal_bytes(sizes: list[int], shards: int) -> None:
    bounds = shard_bounds(sizes, shards)
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    assert all(begin < end for begin, end in pairwise(bounds))
    assert len(bounds) - 1 <= shards
    share = sum(sizes) / shards
    for begin, end in pairwise(bounds):
        assert sum(sizes[begin : end - 1]) <= share + 1


def test_options_about_the_size_of_a_run_are_left_out_for_shards() -> None:
    given_options = ("--account=lab", "--qos", "long", "--mem=64G", "--cpus-per-task", "8", "-C", "fast", "--exclusive")
    given_options += ("-c", "8", "-N1", "-G", "2")
    assert shard_options(given_options) == ("--account=lab", "--qos=long", "-C fast", "--exclusive")


def test_tokens_made_in_shards_are_those_of_one_process(tmp_path: Path, rooms: Rooms) -> None:
    write_corpus(tmp_path / "corpus", files=12)
    shutil.copytree(rooms.root / "tokenizer", tmp_path / "tokenizers" / "t")
    result = run_import(tmp_path, RememberingReporter(), shards=5, workers=1, tokenizer="tokenizers/t")
    check_tokens(tmp_path, result.folder, result.tokens, rooms)
    assert not [path for path in (tmp_path / "datasets").iterdir() if path.name.startswith(".importing")]


def test_tokens_in_shards_continue_those_that_a_run_has_begun(tmp_path: Path, rooms: Rooms) -> None:
    write_corpus(tmp_path / "corpus", files=12)
    first = run_import(tmp_path, RememberingReporter())
    begun = one_process(tmp_path / first.folder, tmp_path / "tokens", rooms)
    assert begun.open(TEXT, "val")
    place = begun.split_folder(TEXT, "train")
    writer = TokenWriter(place.path, place.identity, dtype=np.uint16)
    for numbers, rows in row_pieces(tmp_path / first.folder / "train.parquet", mixed=True, last=1):
        writer.add(numbers, TEXT.encode(begun.tokenizer, rows))
    writer.flush()
    writer.close()
    same = Path(shutil.copytree(tmp_path / first.folder, tmp_path / "datasets" / "same"))
    payload = {"kind": "text", "source": "corpus", "shards": 5, "tokenizer": str(rooms.root / "tokenizer")}
    spec = make_spec("import_dataset", payload, root=tmp_path)
    reporter = RememberingReporter()
    tokens = make_tokens_of(spec, same, reporter)
    assert [line for line in reporter.lines if "Making the tokens" in line] == [
        "Making the tokens of the train split in 5 shards."
    ]
    check_tokens(tmp_path, "datasets/same", tokens, rooms)


def check_tokens(root: Path, dataset: str, folders: tuple[str, ...], rooms: Rooms) -> None:
    """Check that the tokens of both splits are those that one process makes, and that a run makes none."""
    assert len(folders) == 2
    alone = one_process(root / dataset, root / "alone", rooms)
    for folder, split in zip(folders, ("train", "val"), strict=True):
        tokens = alone.open(TEXT, split)  # type: ignore[arg-type]
        assert tokens is not None
        assert folder == f"tokens/{tokens.folder.name}"
        for name in (*FILES, MANIFEST):
            assert (root / folder / name).read_bytes() == (tokens.folder / name).read_bytes(), name
    reporter = MemoryReporter()
    assert TokenSource(root / dataset, alone.tokenizer, root / "tokens", reporter).open(TEXT, "train")
    assert not reporter.lines


def one_process(dataset: Path, root: Path, rooms: Rooms) -> TokenSource:
    return TokenSource(dataset, rooms.tokenizer, root, MemoryReporter())
