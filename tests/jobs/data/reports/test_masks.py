"""What a dataset's report colours is what the trainer takes a loss on: the report beside the batches that training is
fed.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.batches.base import IGNORE, BatchSizes
from jobs.batches.preference import flatten_pairs, load_pairs, load_rated, pad
from jobs.batches.pretrain import TEXT, PretrainBatches
from jobs.batches.sft import SftBatches, load_examples
from jobs.data.reports.rows import VersionRows
from jobs.data.reports.views import EncodedRow, first_window, make_view, strip_pieces
from jobs.modeling.chat import encode_prompt, teach_template
from tests.support.data.data_reporter import RememberingReporter
from tests.support.networks.chat_styles import (
    ALL,
    ANSWER,
    ASKED,
    CONVERSATIONS,
    LOOK,
    R1,
    Style,
    make_tokenizer,
    tokenizer_of,
)
from tests.support.training_rooms import make_stories, source_of, write_dataset

PAD = -1  # no token, so that padding can be told from text
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nMira."}
SILENT = [ASKED, {"role": "user", "content": "Hello?"}]
TALKS = [
    *CONVERSATIONS.values(),
    [
        ASKED,
        THOUGHT,
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "<think>\nyes\n</think>\n\nYes."},
    ],
    SILENT,
    [{"role": "user", "content": "Tell me all of it. " * 12}, ANSWER],
]
Sequence = tuple[tuple[int, ...], tuple[int, ...]]
"""What the network reads, and what each position is to predict (-100: nothing)."""


def chat_rows() -> list[dict[str, Any]]:
    return [
        {"messages": talk, **({"tools": json.dumps([LOOK])} if name == "tools" else {})} for name, talk in _named(TALKS)
    ]


def _named(talks: list[list[dict[str, Any]]]) -> list[tuple[str, list[dict[str, Any]]]]:
    return list(zip([*CONVERSATIONS, "thought", "silent", "long"], talks, strict=True))


def see(folder: Path, kind: str, *, tokenizer: Any, context: int) -> list[EncodedRow]:
    """What a report makes of a dataset's rows."""
    view = make_view(kind, tokenizer=tokenizer, context=context)
    return [seen for batch in VersionRows(folder).batches() for seen in view.encode(batch.rows)]


def shown(seen: list[EncodedRow], tokenizer: Any) -> Counter[Sequence]:
    """The coloured tokens of a report's rows, as sequences that a network would be fed."""
    counts: Counter[Sequence] = Counter()
    for row in seen:
        for strip in [] if row.problem or row.refusal else row.strips:
            piece = strip_pieces(strip, tokenizer)[0]  # short rows are one piece
            length = len(piece.ids) if piece.cut_at is None else piece.cut_at
            marks = zip(piece.ids[:length], piece.trained[:length], strict=True)
            targets = [token if trained else IGNORE for token, trained in marks]
            counts[tuple(piece.ids[: length - 1]), tuple(targets[1:])] += 1
    return counts


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("style", ALL)
def test_fine_tuning_is_fed_exactly_what_is_coloured(style: str, cut: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(style)
    teach_template(tokenizer, chats=True)
    context = len(encode_prompt(tokenizer, [ASKED])) + 3 if cut else 4096
    folder, reporter = write_dataset(tmp_path / "d", train=chat_rows()), RememberingReporter()
    seen = see(folder, "chat", tokenizer=tokenizer, context=context)
    examples = load_examples(source_of(folder, tokenizer, reporter), "train", context=context)
    batches = SftBatches(
        examples, [], pad_id=PAD, sizes=BatchSizes(micro_batch=1, items_per_step=1, val_items=1, seed=1)
    )
    fed: Counter[Sequence] = Counter()
    for step in range(1, len(examples) + 1):
        (batch,) = batches.at_step(step)
        size = int((batch.inputs[0] != PAD).sum())
        fed[tuple(batch.inputs[0, :size].tolist()), tuple(batch.targets[0, :size].tolist())] += 1
        assert (batch.targets[0, size:] == IGNORE).all()
    assert shown(seen, tokenizer) == fed
    assert sum(row.loss_tokens for row in seen) == sum(
        int((np.array(targets) != IGNORE).sum()) for _, targets in fed.elements()
    )
    assert sum(bool(row.problem) for row in seen) == sum(
        "have nothing to train on" in line and int(line.split()[0]) for line in reporter.lines
    )
    assert any(strip.cut_at for row in seen for strip in row.strips) == cut


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("style", ALL)
def test_preference_training_is_fed_exactly_what_is_coloured(style: str, cut: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(style)
    teach_template(tokenizer, chats=True)
    context = len(encode_prompt(tokenizer, [ASKED])) + 3 if cut else 4096
    other = {"role": "assistant", "content": "Nobody knows, " * 9}
    rows: list[dict[str, Any]] = [
        {"prompt": talk[:-1], "chosen": [talk[-1]], "rejected": [other]} for talk in TALKS if talk is not SILENT
    ]
    rows.append({"prompt": [ASKED], "chosen": [ANSWER], "rejected": [ANSWER]})
    folder, reporter = write_dataset(tmp_path / "d", train=rows), RememberingReporter()
    pairs = load_pairs(source_of(folder, tokenizer, reporter), "train", context=context)
    fed: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for side in flatten_pairs(pairs):
        batch = pad([side], pad_id=PAD)
        trained = (batch.targets[0] != IGNORE).tolist()[: len(side.ids) - 1]
        assert batch.inputs[0, : len(side.ids) - 1].tolist() == side.ids[:-1]
        assert [token for token in batch.targets[0].tolist() if token != IGNORE] == side.ids[side.start :]
        fed[tuple(side.ids), (0, *map(int, trained))] += 1
    counts: Counter[tuple[tuple[int, ...], ...]] = Counter()
    seen = see(folder, "preference", tokenizer=tokenizer, context=context)
    for row in seen:
        for strip in [] if row.problem or row.refusal else row.strips:
            piece = strip_pieces(strip, tokenizer)[0]
            length = len(piece.ids) if piece.cut_at is None else piece.cut_at
            counts[tuple(piece.ids[:length]), tuple(map(int, piece.trained[:length]))] += 1
    assert counts == fed
    assert sum(row.problem == "both answers are the same" for row in seen) == 1
    assert sum(row.problem.startswith("the prompt fills") for row in seen) == sum(
        "prompt that fills" in line and int(line.split()[0]) for line in reporter.lines
    )
    assert fed


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_training_on_rated_answers_is_fed_exactly_what_is_coloured(cut: bool, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("own")
    teach_template(tokenizer, chats=True)
    context = len(encode_prompt(tokenizer, [ASKED])) + 3 if cut else 4096
    rows: list[dict[str, Any]] = [
        {"prompt": talk[:-1], "completion": [talk[-1]], "label": index % 2 == 0}
        for index, talk in enumerate(TALKS)
        if talk is not SILENT
    ]
    rows.append({"prompt": [{"role": "user", "content": "Who?"}], "completion": [ANSWER], "label": False})
    folder, reporter = write_dataset(tmp_path / "d", train=rows), RememberingReporter()
    rated = load_rated(source_of(folder, tokenizer, reporter), "train", context=context, seed=1)
    fed = Counter((tuple(one.answered.ids), one.answered.start, one.desirable) for one in rated)
    seen = see(folder, "kto", tokenizer=tokenizer, context=context)
    strips = [row.strips[0] for row in seen if not row.problem]
    assert fed == Counter(
        (tuple(strip.ids[: strip.cut_at]), strip.trained.index(True), strip.label == "good answer") for strip in strips
    )
    assert all(not any(strip.trained[strip.cut_at :]) for strip in strips if strip.cut_at is not None)
    assert {strip.label for strip in strips} == {"good answer", "bad answer"}
    assert sum(row.loss_tokens for row in seen) == sum(len(one.answered.ids) - one.answered.start for one in rated)
    assert sum(row.problem.startswith("the prompt fills") for row in seen) == len(rows) - len(rated)
    assert any(row.problem for row in seen) == cut


def test_a_template_that_no_answer_can_follow_leaves_no_trained_token(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(Style(R1, ("<|User|>", "<|Assistant|>"), bos="<s>"))
    seen = see(write_dataset(tmp_path, train=[{"messages": [ASKED, ANSWER]}]), "chat", tokenizer=tokenizer, context=512)
    assert [row.problem for row in seen] == ["no answer is rendered as the template would generate it"]
    assert shown(seen, tokenizer) == Counter()


def test_pretraining_is_fed_exactly_what_is_coloured(tmp_path: Path) -> None:
    rows = [{"text": text} for text in make_stories(40)]
    folder, context = write_dataset(tmp_path / "d", train=rows), 32
    tokenizer = tokenizer_of("own")
    seen = see(folder, "text", tokenizer=tokenizer, context=context)
    tokens = source_of(folder, tokenizer).open(TEXT, "train")
    assert tokens is not None
    assert [token for row in seen for token in row.strips[0].ids] == tokens.ids.tolist()
    assert all(all(row.strips[0].trained) for row in seen), "of running text every token is trained on"
    window = first_window([token for row in seen for token in row.strips[0].ids], context=context, tokenizer=tokenizer)
    assert window is not None
    batches = PretrainBatches(
        tokens, None, context=context, sizes=BatchSizes(micro_batch=1, items_per_step=1, val_items=1, seed=1)
    )
    starts = {tuple(batches.at_step(step)[0].inputs[0].tolist()) for step in range(1, batches.num_windows + 1)}
    (piece,) = window.pieces
    assert tuple(piece.ids[:-1]) in starts
    assert piece.trained == [False, *[True] * context]
    assert window.loss_tokens == context


def test_a_long_row_shows_its_beginning_and_where_training_begins() -> None:
    tokenizer = tokenizer_of("own")
    teach_template(tokenizer, chats=True)
    row = {"messages": [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "yes " * 900}]}
    (seen,) = make_view("chat", tokenizer=tokenizer, context=6000).encode([row])
    first, second = strip_pieces(seen.strips[0], tokenizer)
    assert not any(first.trained)
    begin = len(first.ids) + first.left_out
    assert second.ids == seen.strips[0].ids[begin : begin + len(second.ids)]
    assert second.trained == seen.strips[0].trained[begin : begin + len(second.ids)]
    assert second.trained.index(True) < 400
    assert second.cut_at == 6000 - begin
    assert len(first.ids) + first.left_out + len(second.ids) + second.left_out == seen.num_tokens
