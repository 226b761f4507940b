"""The report's job on datasets with planted faults: each is counted, named, and offered to be dropped; what is sound is
left alone.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import string
import tempfile
import tracemalloc
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.data.reports.near_duplicates import THRESHOLD, jaccard, normalise_words
from backend.domain.data.reports.report import DataReport, ReportQuestion, ReportSample, Severity, list_findings
from backend.errors import JobFailed
from jobs.batches.base import BatchSizes, EpochOrder
from jobs.batches.preference import ReferencedPair, collate_pairs, load_pairs
from jobs.batches.sft import PackedBatches, encode_row, padded_length
from jobs.data.reports import duplicates as report_duplicates
from jobs.data.reports import row_arrays, tally
from jobs.data.reports.duplicates import DuplicateFinder, SimilarRows, rows_to_drop
from jobs.data.reports.row_arrays import RowArray, first_of_each
from jobs.data.reports.rows import VersionRows
from jobs.data.reports.run import run
from tests.support.data.data_reporter import RememberingReporter
from tests.support.jobs import make_spec
from tests.support.networks.chat_styles import tokenizer_of
from tests.support.training_rooms import source_of, write_dataset

LETTERS = random.Random(3)
WORDS = sorted({"".join(LETTERS.choices(string.ascii_lowercase, k=LETTERS.randrange(3, 9))) for _ in range(2000)})
LONG = (
    "A miller's cart leaves the yard at noon and rolls six miles an hour toward a fair that's forty miles away. When"
    " does it arrive?"
)
SHORT = "Which bird of the village sings before the sun is up?"
TINY = "Who mended it?"
ITEMS = [
    {"question": LONG, "answers": ["twenty to seven"]},
    {"question": SHORT, "choices": ["the owl", "the wren"], "answer": 1},
    {"question": TINY, "choices": ["the smith of Harrow", "nobody"], "answer": 0},
    {
        "question": "Nothing of this question about seventeen silver spoons in a drawer stands in any row at all.",
        "answers": ["no"],
    },
]


def unlike(count: int, *, seed: int) -> list[str]:
    """Texts of random words, none like another."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=25)) for _ in range(count)]


def instruct(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def reported(
    folder: Path,
    kind: str,
    *,
    benchmark: Path | None = None,
    tokenizer: Any = None,
    reporter: Any = None,
    bytes_per_token: float | None = None,
    **question: int,
) -> tuple[DataReport, list[ReportSample], dict[str, dict[str, list[int]]]]:
    """Run the job on a dataset's folder and read what it wrote."""
    root = folder.parent
    if tokenizer is not None:
        tokenizer.save_pretrained(root / "tokenizer")
    payload = {
        "dataset": folder.name,
        "dataset_kind": kind,
        "tokenizer": "tokenizer" if tokenizer is not None else None,
        "bytes_per_token": bytes_per_token,
        "out": "report",
        "question": ReportQuestion(**question).model_dump(),
        "benchmarks": [{"name": "village", "folder": benchmark.name}] if benchmark else [],
    }
    spec = make_spec("data_report", payload, root=root)
    run(spec, reporter or RememberingReporter())
    texts = {name: (root / "report" / f"{name}.json").read_text() for name in ("report", "samples", "rows")}
    samples = [ReportSample.model_validate(sample) for sample in json.loads(texts["samples"])]
    return DataReport.model_validate_json(texts["report"]), samples, json.loads(texts["rows"])


def plant_faults(questions: list[str], answers: list[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return train and val rows with one fault of each kind, at known rows."""
    train = [instruct(*pair) for pair in zip(questions, answers, strict=True)]
    val = [instruct(*pair) for pair in zip(unlike(8, seed=3), unlike(8, seed=4), strict=True)]
    train[10] = dict(train[4])  # the same
    train[11] = instruct(questions[5].upper() + "!!", answers[5].replace(" ", "  ", 3))  # the same words
    train[12] = instruct(questions[6], " ".join([*answers[6].split()[:-1], "otherwise"]))  # one word in fifty
    val[1] = dict(train[20])
    val[2] = instruct(questions[21].title(), answers[21] + " indeed")
    val[3] = instruct(questions[22], val[3]["completion"])  # the same question, another answer
    train[30] = instruct("Homework:", f"Question one. {LONG.upper().replace('’', '')}  Thanks!")
    train[31] = instruct(
        "Tell me…", "He read: the yard, AT NOON -- and rolls six miles an hour toward a fair thats… the rest was torn."
    )
    train[32] = instruct("Quiz", f"They asked me ({SHORT.lower()}), and I knew.")
    train[33] = instruct(TINY, "I could not say.")
    train[34] = instruct("Gossip", "Somebody asked who mended it, and all of them looked at the floor for a while.")
    train[40] = instruct(questions[40], "  \n ")
    train[41] = instruct("word " * 400, "too late")
    train[42] = instruct(questions[42], "CafÃ© and <b>bold</b> and \x07bell")
    train[43] = instruct("Say <|end|> and <|assistant|> aloud", "no")
    return train, val


def test_special_tokens_around_short_texts_are_none_of_the_tokenizers_fit(tmp_path: Path) -> None:
    """Of a row of two letters half the tokens are <bos> and <eos>."""
    rows = [{"text": "ab"} for _ in range(20)]
    tokenizer = tokenizer_of("chatml")
    report, *_ = reported(write_dataset(tmp_path / "d", train=rows), "text", tokenizer=tokenizer, context=32)
    own = 40 / (report.train.tokens - 20 * report.added_per_row)
    assert report.added_per_row > 0
    (finding,) = [
        one for one in list_findings(report.model_copy(update={"own_bytes_per_token": own})) if one.topic == "tokenizer"
    ]
    assert finding.grade is Severity.FINE


@pytest.mark.parametrize(("own", "fits"), [(1.6, True), (1.8, False), (None, True)])
def test_a_tokenizer_made_for_other_text_is_named(tmp_path: Path, own: float | None, fits: bool) -> None:
    """Plain bytes hold one byte a token: 1.6 of its own are within the limit, 1.8 are not."""
    rows = [{"text": text} for text in unlike(20, seed=5)]
    report, *_ = reported(write_dataset(tmp_path / "d", train=rows), "text", bytes_per_token=own, context=32)
    assert report.train.text_bytes == sum(len(row["text"]) for row in rows)
    (finding,) = [finding for finding in list_findings(report) if finding.topic == "tokenizer"]
    assert (finding.grade is Severity.FINE) is fits
    if not fits:
        assert finding.text.endswith("1.8 times as many tokens.")
        assert "Train a tokenizer" in finding.remedy


def test_every_planted_fault_is_counted_named_and_can_be_dropped(tmp_path: Path) -> None:
    train, val = plant_faults(unlike(60, seed=1), unlike(60, seed=2))
    folder = write_dataset(tmp_path / "d", train=train, val=val)
    bench = write_dataset(tmp_path / "village", train=ITEMS[:2], val=ITEMS[2:])
    report, samples, rows = reported(folder, "instruction", benchmark=bench, context=1024, micro_batch=8)

    overlaps = {(item.row, item.item, item.kind) for item in report.contamination}
    assert overlaps == {(31, 1, "run"), (32, 1, "run"), (33, 2, "question"), (34, 3, "question")}
    assert {item.benchmark for item in report.contamination} == {"village"}
    assert (report.contaminated_rows, report.contaminated_items) == (4, 3)
    assert [(bench.items, bench.found) for bench in report.benchmarks] == [(4, 3)]
    assert rows["contamination"] == {"train": [30, 31, 32, 33], "val": []}

    same = report.duplicates
    assert (same.exact, same.near, same.limited) == (1, 2, False)
    assert rows["exact_duplicates"] == {"train": [10], "val": []}
    assert rows["duplicates"] == {"train": [10, 11, 12], "val": []}
    pairs = {
        tuple(row.row for row in cluster.rows): cluster.similarity[1]
        for cluster in same.near_clusters
        if cluster.rows[1].split == "train"
    }
    assert pairs.keys() == {(6, 12), (7, 13)}
    assert pairs[6, 12] == 1.0
    assert THRESHOLD < pairs[7, 13] < 1

    leak = report.leakage
    assert (leak.exact, leak.near, leak.same_prompt) == (1, 1, 1)
    assert {(one.val.row, one.train.row) for one in leak.rows} == {(2, 21), (3, 22)}
    assert rows["leakage"] == {"train": [20, 21], "val": []}

    assert [(row.split, row.row) for row in report.empty] == [("train", 41)]
    assert [(row.row, row.reason) for row in report.zero_label] == [
        (42, "the answer begins behind the first 1,024 tokens")
    ]
    assert (report.train.zero_label_rows, report.train.truncated_rows) == (1, 1)
    assert rows["zero_label"] == {"train": [41], "val": []}
    assert {fault.name: (fault.rows, fault.examples[0].row) for fault in report.faults} == {
        "mojibake": (1, 43),
        "html": (1, 43),
        "control_character": (1, 43),
    }
    assert [row.row for row in report.forged] == [44]
    assert rows["forged"] == {"train": [43], "val": []}
    assert report.droppable == {reason: len(places["train"]) + len(places["val"]) for reason, places in rows.items()}

    texts = {finding.topic: finding.text for finding in list_findings(report) if finding.grade is Severity.LOOK}
    assert "train row 31 has item 1 of village" in texts["benchmarks"]
    assert "1 row of 60 has nothing to train on (1.7 %)" in texts["zero-label rows"]
    assert not [finding for finding in list_findings(report) if finding.grade is Severity.BLOCKS]
    silent = [sample for sample in samples if sample.group == "zero-label"]
    assert [(sample.row, sample.loss_tokens) for sample in silent] == [(42, 0)]


def test_a_clean_dataset_has_no_finding(tmp_path: Path) -> None:
    rows = [instruct(*pair) for pair in zip(unlike(40, seed=5), unlike(40, seed=6), strict=True)]
    folder = write_dataset(tmp_path / "d", train=rows[:32], val=rows[32:])
    bench = write_dataset(tmp_path / "village", train=ITEMS)
    report, samples, droppable = reported(folder, "instruction", benchmark=bench, context=1024, micro_batch=4)
    assert [finding.text for finding in list_findings(report) if finding.grade is not Severity.FINE] == []
    assert not any(places for by_split in droppable.values() for places in by_split.values())
    assert [sample.row for sample in samples if sample.group == "first"] == [1, 2, 3]
    assert len({(sample.split, sample.row) for sample in samples if sample.group == "random"}) == 6


def test_numbers_of_tokens_steps_and_batches_are_the_trainers(tmp_path: Path) -> None:
    draw = random.Random(8)
    rows = [instruct("Say it", " ".join(draw.choices(WORDS, k=draw.randrange(1, 60)))) for _ in range(50)]
    folder, tokenizer = write_dataset(tmp_path / "d", train=rows), tokenizer_of("chatml")
    context = 256
    report, _, _ = reported(
        folder, "instruction", tokenizer=tokenizer, context=context, micro_batch=4, grad_accum_steps=3
    )
    examples = [encode_row(tokenizer, row, context=context)[0] for row in rows]
    whole, truncated = [len(example.untruncated) for example in examples], [len(example.ids) for example in examples]
    train = report.train
    assert (train.rows, train.tokens, train.kept_tokens, train.lost_tokens) == (
        50,
        sum(whole),
        sum(truncated),
        sum(whole) - sum(truncated),
    )
    assert train.truncated_share == sum(size > context for size in whole) / 50
    assert 0 < train.truncated_share < 1
    assert (train.lengths.min, train.lengths.max) == (min(whole), max(whole))
    assert train.lengths.p50 == pytest.approx(median(whole), abs=0.5)
    assert sum(train.lengths.counts) == 50
    for low, high, count in zip(train.lengths.edges[:-1], train.lengths.edges[1:], train.lengths.counts, strict=True):
        assert count == sum(low <= size < high for size in whole)
    sequences = PackedBatches(
        examples, [], context=context, sizes=BatchSizes(micro_batch=4, items_per_step=12, val_items=1, seed=1)
    ).num_sequences
    assert (report.epoch.sequences, report.epoch.tokens, report.epoch.steps) == (
        sequences,
        sum(truncated),
        -(-sequences // 12),
    )
    order = EpochOrder(50, seed=1).take(0, 50)[1].tolist()
    batches = [[truncated[index] for index in order[at : at + 4]] for at in range(0, 50, 4)]
    positions = sum(len(batch) * padded_length(max(batch)) for batch in batches)
    real = sum(size - 1 for size in truncated)
    assert report.packing.padded == pytest.approx(real / positions)
    assert report.packing.packed_sequences == sequences < 50
    assert report.packing.packed == pytest.approx(real / (sequences * context))
    whole = PackedBatches(
        examples, [], context=context, sizes=BatchSizes(micro_batch=1, items_per_step=sequences, val_items=1, seed=1)
    )
    assert report.packing.trainer == real / sum(batch.inputs.numel() for batch in whole.at_step(1)) == 1.0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_the_median_of_an_even_number_of_rows_lies_between_the_two_in_the_middle(sizes: list[int]) -> None:
    lengths, counts = np.unique(sizes, return_counts=True)
    assert tally.summarise_lengths(lengths, counts).p50 == int(median(sizes) + 0.5)


def test_rows_that_a_template_refuses_are_left_out_and_named(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mira."}]
    folder = write_dataset(
        tmp_path / "d", train=[{"messages": talk}, {"messages": [system, *talk]}, {"messages": talk}]
    )
    report, _, rows = reported(folder, "chat", tokenizer=tokenizer_of("gemma"), context=64)
    assert (report.refused_rows, [row.row for row in report.refused]) == (1, [2])
    assert "System role not supported" in report.refusal
    assert (report.epoch.sequences, report.train.zero_label_rows, rows["refused"]["train"]) == (
        1,
        0,
        [1],
    )  # the two share one
    assert not report.is_silent


def test_rows_without_answers_block_training(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=[instruct("long " * 60, "short") for _ in range(5)])
    report, _, _ = reported(folder, "instruction", context=64)
    assert report.is_silent
    first = list_findings(report)[0]
    assert (first.grade, first.text) == (
        Severity.BLOCKS,
        (
            "None of the 5 train rows has anything to train on: the answer begins behind the first 64 tokens. A run on"
            " them is refused."
        ),
    )


def test_text_is_read_as_windows_and_its_languages_are_guessed(tmp_path: Path) -> None:
    english = "The old miller walked down to the river every morning to look at the wheel. "
    german = "Der alte Müller ging jeden Morgen zum Fluss hinunter, um nach dem Rad zu sehen. "
    rows = [{"text": (english if n % 4 else german) * 3 + str(n)} for n in range(16)]
    report, samples, _ = reported(
        write_dataset(tmp_path / "d", train=[*rows, {"text": ""}]), "text", context=64, micro_batch=2
    )
    assert [(language.code, language.rows) for language in report.languages] == [("en", 12), ("de", 4), ("short", 1)]
    total = sum(len(row["text"].encode()) + 2 for row in rows) + 2
    assert report.train.tokens == total
    assert report.epoch.sequences == (total - 1) // 64 - 1
    assert report.epoch.steps == -(-report.epoch.sequences // 2)
    assert next(sample.group for sample in samples) == "window"
    assert report.packing.trainer == 1.0


def test_hostile_rows_do_not_stop_a_report(tmp_path: Path) -> None:
    rows = [
        instruct("![x](http://evil.example/x.png)", "<script>alert(1)</script>"),
        instruct("\u202eevil\u202c", "\x00\x1b[31m"),
        instruct("a" * 200_000, "b" * 200_000),
        instruct("", ""),
        instruct("{{ 7 * 7 }}", "{% raise %}"),
    ]
    report, samples, _ = reported(write_dataset(tmp_path / "d", train=rows), "instruction", context=256)
    assert {fault.name for fault in report.faults} >= {"html", "direction_mark", "control_character"}
    assert report.train.lengths.max > 400_000
    assert max(len(piece.ids) for sample in samples for piece in sample.pieces) <= 2400
    assert max(len(row.text) for row in [*report.zero_label, *report.empty]) < 400
    assert (
        max(map(len, (row.text for cluster in report.duplicates.near_clusters for row in cluster.rows)), default=0)
        < 400
    )


def test_a_report_stops_on_request_and_leaves_no_files(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", train=[instruct(text, text) for text in unlike(20, seed=9)])
    with pytest.raises(JobFailed, match="stopped on request"):
        reported(folder, "instruction", reporter=RememberingReporter(stop_after=0))
    assert not (tmp_path / "job" / "near").exists()
    assert not (tmp_path / "report").exists()


def edited(text: str, draw: random.Random, share: float) -> str:
    return " ".join(draw.choice(WORDS) if draw.random() < share else word for word in text.split())


def sequences(text: str) -> set[str]:
    plain = normalise_words(text)
    return {plain[at : at + 5] for at in range(max(1, len(plain) - 4))}


@dataclass
class Alike:
    """What was found, in memory."""

    same: np.ndarray
    like: np.ndarray
    leaks: list[tuple[int, int, float]]
    pairs_checked: int
    limited: bool


def whole(array: RowArray) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int64), *(values for _, values in array.blocks())])


def find_alike(finder: DuplicateFinder, texts: list[str], *, num_train: int) -> SimilarRows:
    for at in range(0, len(texts), 100):
        finder.add(texts[at : at + 100], texts[at : at + 100])
    return finder.finish(
        num_train=num_train,
        read=lambda rows: ((row, texts[row]) for row in rows.tolist()),
        tick=lambda share: None,
    )


def alike(tmp_path: Path, texts: list[str], *, num_train: int) -> Alike:
    with closing(DuplicateFinder(tmp_path / "near")) as finder:
        similar = find_alike(finder, texts, num_train=num_train)
        trained, similarity = whole(similar.leak_train).astype(int), whole(similar.leak_similarity)
        leaks = [(num_train + row, int(trained[row]) - 1, float(similarity[row])) for row in np.flatnonzero(trained)]
        same, like = whole(similar.same).astype(int), whole(similar.like).astype(int)
        return Alike(same, like, leaks, similar.pairs_checked, similar.limited)


def test_near_duplicates_are_those_of_comparing_every_row_with_every_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[float] = []
    monkeypatch.setattr(
        report_duplicates, "jaccard", lambda one, other: computed.append(jaccard(one, other)) or computed[-1]
    )
    draw = random.Random(11)
    texts = unlike(220, seed=12)
    texts += [edited(draw.choice(texts), draw, share) for share in (0.02, 0.04, 0.06, 0.1, 0.2, 0.4) for _ in range(30)]
    draw.shuffle(texts)
    sets = [sequences(text) for text in texts]
    exact = {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in itertools.combinations(range(len(texts)), 2)
    }
    close = {pair for pair, similarity in exact.items() if similarity >= THRESHOLD}
    clusters = alike(tmp_path, texts, num_train=300)
    assert len(computed) == clusters.pairs_checked > 60
    assert {round(value, 9) for value in computed} <= {round(value, 9) for value in exact.values()}, (
        "no similarity is an estimate"
    )
    joined = {(i, j) for i, j in close if clusters.like[i] == clusters.like[j]}
    assert len(close) > 60
    assert len(joined) >= 0.97 * len(close)
    assert all(clusters.like[i] == clusters.like[j] for i, j in close if exact[i, j] >= 0.9)
    apart = {(i, j) for i, j in exact if clusters.like[i] == clusters.like[j]}
    assert all(exact[pair] >= 0.5 for pair in apart), "joined through others at most"
    leaking = {j for i, j in close if i < 300 <= j}
    assert {held for held, _, _ in clusters.leaks} <= leaking
    assert len(clusters.leaks) >= 0.95 * len(leaking)
    assert all(
        exact[trained, held] == pytest.approx(similarity)
        for held, trained, similarity in clusters.leaks
        if texts[held] != texts[trained]
    )


def test_many_similar_rows_are_one_cluster_at_linear_cost(tmp_path: Path) -> None:
    draw = random.Random(13)
    (text,) = unlike(1, seed=14)
    crowd = [text + f" {draw.choice(WORDS)[:3]}{n}" for n in range(600)]
    clusters = alike(tmp_path, [*unlike(50, seed=15), *crowd], num_train=650)
    assert np.unique(clusters.like[50:]).tolist() == [50]
    assert (clusters.like[:50] == np.arange(50)).all()
    assert clusters.pairs_checked < 20 * 600


def test_a_limit_on_pairs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_duplicates, "MAX_PAIRS", 5)
    (text,) = unlike(1, seed=16)
    assert alike(tmp_path, [f"{text} {n}" for n in range(40)], num_train=40).limited


def test_pairs_are_padded_as_the_trainer_pads_them(tmp_path: Path) -> None:
    draw = random.Random(9)
    says = lambda: [{"role": "assistant", "content": " ".join(draw.choices(WORDS, k=draw.randrange(1, 40)))}]  # noqa: E731
    rows = [
        {"prompt": [{"role": "user", "content": "Say it"}], "chosen": says(), "rejected": says()} for _ in range(20)
    ]
    folder, tokenizer = write_dataset(tmp_path / "d", train=rows), tokenizer_of("chatml")
    report, _, _ = reported(folder, "preference", tokenizer=tokenizer, context=256, micro_batch=4)
    loaded = load_pairs(source_of(folder, tokenizer), "train", context=256)
    pairs = [ReferencedPair(sides) for sides in loaded]
    order = EpochOrder(20, seed=1).take(0, 20)[1].tolist()
    batches = [collate_pairs([pairs[index] for index in order[at : at + 4]], pairs, pad_id=0) for at in range(0, 20, 4)]
    real = sum(len(side.ids) - 1 for pair in pairs for side in pair.sides)
    assert report.packing.trainer == pytest.approx(real / sum(batch.inputs.numel() for batch in batches))


def small_blocks(patch: pytest.MonkeyPatch, *, block: int, together: int) -> None:
    """Read, write and sort rows of every file a few at a time."""
    for name, size in (("BLOCK", block), ("SPREAD", 5), ("SORTED_TOGETHER", together)):
        patch.setattr(row_arrays, name, size)
    patch.setattr(report_duplicates, "CHUNK", 7)


def test_parts_of_a_bands_buckets_give_the_same_pairs_as_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(21)
    texts = unlike(150, seed=22)
    texts += [edited(draw.choice(texts), draw, 0.05) for _ in range(80)] + texts[:10]
    in_one = alike(tmp_path / "whole", texts, num_train=200)
    small_blocks(monkeypatch, block=9, together=16)
    parted = alike(tmp_path / "parted", texts, num_train=200)
    assert parted.like.tolist() == in_one.like.tolist()
    assert parted.leaks == in_one.leaks
    assert len(np.unique(in_one.like)) < 200


@pytest.mark.parametrize("kind", ["instruction", "text", "preference"])
def test_a_report_of_many_small_blocks_is_that_of_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    train, val = plant_faults(unlike(60, seed=1), unlike(60, seed=2))
    train, val = [*train, *train[:9], train[4], train[4]], [*val, val[0], *train[50:53], val[3]]
    if kind == "text":
        train, val = ([{"text": row["prompt"] + row["completion"]} for row in rows] for rows in (train, val))
    if kind == "preference":
        train, val = (
            [
                {
                    "prompt": [{"role": "user", "content": row["prompt"]}],
                    "chosen": [{"role": "assistant", "content": row["completion"]}],
                    "rejected": [{"role": "assistant", "content": row["completion"][:20]}],
                }
                for row in rows
            ]
            for rows in (train, val)
        )
    folder = write_dataset(tmp_path / "d", train=train, val=val)
    bench = write_dataset(tmp_path / "village", train=ITEMS)
    ask = {"benchmark": bench, "context": 512, "micro_batch": 3}
    in_one = reported(folder, kind, **ask)
    small_blocks(monkeypatch, block=8, together=10)
    parted = reported(folder, kind, **ask)
    for report in (in_one[0], parted[0]):
        report.__dict__.update(
            seconds=0, peak_memory_bytes=0, duplicates=report.duplicates.model_copy(update={"seconds": 0})
        )
    assert parted == in_one
    assert in_one[0].duplicates.exact >= 11
    assert in_one[0].leakage.exact >= 4


@given(st.lists(st.integers(0, 5), max_size=60))
def test_the_first_row_with_a_key_is_found_in_parts_and_blocks_of_any_size(keys: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, block=3, together=4)
        with closing(RowArray(Path(folder, "keys"), np.uint64)) as array:
            array.append(np.array(keys, dtype=np.uint64) * np.uint64(11400714819323198485))
            with closing(first_of_each(array, Path(folder, "firsts"))) as result:
                firsts = whole(result).tolist()
    assert firsts == [keys.index(key) if key else row for row, key in enumerate(keys)]


def peak_of(folder: Path, texts: list[str]) -> int:
    """Return the most bytes that finding and describing similar rows holds beside the texts."""
    train, val = ([{"text": text} for text in part] for part in (texts[:-20], texts[-20:]))
    write_dataset(folder / "d", train=train, val=val)
    rows = VersionRows(folder / "d")
    with closing(DuplicateFinder(folder / "near")) as finder:
        for at in range(0, len(texts), 100):
            finder.add(texts[at : at + 100], texts[at : at + 100])
        tracemalloc.start()
        try:
            similar = finder.finish(
                num_train=len(texts) - 20,
                read=lambda chosen: ((row, texts[row]) for row in chosen.tolist()),
                tick=lambda share: None,
            )
            rows_to_drop(similar, rows, {}, folder=folder)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("crowded", [False, True])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crowded: bool) -> None:
    small_blocks(monkeypatch, block=128, together=128)
    monkeypatch.setattr(report_duplicates, "MAX_PAIRS", 300)
    monkeypatch.setattr(row_arrays, "MAX_LISTED", 100)
    texts = [f"{WORDS[n % 7] * 8} of number {n}" for n in range(3000)] if crowded else unlike(3000, seed=31)
    few = peak_of(tmp_path / "few", texts[:500])
    many = peak_of(tmp_path / "many", texts)
    assert many < 1.3 * few + 20_000, (few, many)


def test_padding_of_many_rows_is_that_of_rows_drawn_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(4)
    rows = [instruct("Say it", " ".join(draw.choices(WORDS, k=draw.randrange(1, 60)))) for _ in range(900)]
    folder = write_dataset(tmp_path / "d", train=rows)
    exact, _, _ = reported(folder, "instruction", context=256, micro_batch=4)
    monkeypatch.setattr(tally, "PADDED_ITEMS", 600)
    drawn, _, _ = reported(folder, "instruction", context=256, micro_batch=4)
    error = float(re.search(r"600 drawn at random \(± ([\d.]+) %\)", drawn.packing.method)[1]) / 100
    assert "drawn" not in exact.packing.method
    assert 0 < abs(drawn.packing.padded - exact.packing.padded) < 2 * error < 0.1
    assert drawn.packing.packed_sequences == exact.packing.packed_sequences


@pytest.mark.parametrize(
    "text", ["", "_a__B-c\t\nD", "it's 5 o'clock\x00\x1f!", "".join(map(chr, range(128))) * 2, "  MIXED  Case  "]
)
def test_plain_text_is_normalised_as_any_other(text: str) -> None:
    slow = normalise_words("é" + text)
    assert normalise_words(text) == (slow[1:].strip() if text[:1].isalnum() else slow.removeprefix("é").strip())


def test_faults_of_plain_text_are_found_by_the_same_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.domain.data.reports import text_faults

    for text in ("plain\ntext", "a\tb", "a\rb", "a\x07b", "<b>x</b>", "&amp;", "1 < 2", "fine."):
        direct = [
            name for name in text_faults.FAULTS if (pattern := text_faults._ASCII.get(name)) and pattern.search(text)
        ]
        assert [fault.name for fault in text_faults.find_faults(text)] == direct


def test_the_error_of_a_sampled_share_covers_the_share_of_all_rows() -> None:
    from backend.domain.data.reports.report import sampling_error

    draw = np.random.default_rng(5)
    rows = draw.random(5_000) < 0.5
    shares = np.array([draw.choice(rows, 400, replace=False).mean() for _ in range(2_000)])
    inside = np.abs(shares - rows.mean()) <= sampling_error(400, 5_000)
    assert 0.94 < inside.mean() < 0.965
    assert (sampling_error(50, 50), sampling_error(0, 50)) == (0.0, 0.0)
