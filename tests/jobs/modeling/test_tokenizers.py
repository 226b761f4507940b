"""Trained tokenizers, loaded by AutoTokenizer, and the job that trains them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from backend.domain.checkpoints.chat_templates import CHAT_TEMPLATE, SPECIAL_TOKENS
from backend.domain.data.rows.display import row_text
from backend.errors import InvalidInput, JobFailed, NotFound
from jobs.modeling.dataset_files import TextSample
from jobs.modeling.entries.tokenizer import choose_alphabet, only_frequent, run, run_watched, short_runs
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import (
    byte_tokenizer,
    count_token_bytes,
    encode_texts,
    piece_form,
    train_bpe,
    train_unigram,
)
from tests.support.installation import PROJECT
from tests.support.training_rooms import Recorder, Rooms, make_stories, write_dataset

STORIES = make_stories(100)


@cache
def bpe() -> PreTrainedTokenizerFast:
    return train_bpe(STORIES, vocab_size=320)


@cache
def unigram() -> PreTrainedTokenizerFast:
    return train_unigram(STORIES, vocab_size=400)


@pytest.fixture(scope="module", params=[bpe, byte_tokenizer, unigram], ids=["bpe", "byte", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A tokenizer of each kind."""
    make: Callable[[], PreTrainedTokenizerFast] = request.param
    return make()


HOSTILE = {
    "emoji": "👩\u200d👩\u200d👧 😀 🏳️\u200d🌈",
    "nul": "a\x00b\x00",
    "crlf": "one\r\ntwo\r\n\r\n",
    "leading-spaces": "    four spaces\n\t\ttabs  ",
    "arabic": "سأل الطحان لماذا لم يعد الماء يجري؟",
    "chinese": "磨坊主问为什么水不再流了。",
    "space-mark": "\u2581under\u2581 \u2581",
    "byte-token": "<0x41><0xFF> <0x0A>",
    "special-token": "<|bos|>hello<|end|><|pad|>",
    "combining": "e\u0301 é \ufeff\u200b\u2028\u00a0",
    "last-plane": "\U0010ffff\ue000",
    "empty": "",
    "spaces": "   ",
    "long-word": "x" * 5000,
}


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_every_text_survives_the_round_trip_and_its_bytes_are_counted(tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = encode_texts(tokenizer, [text])[0]
    assert tokenizer.decode(ids) == text
    assert count_token_bytes(tokenizer)[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_survives_the_round_trip_without_unknown_tokens(tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = encode_texts(tokenizer, [text])[0]
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(range(6))
    form = piece_form(tokenizer)
    assert b"".join(form.bytes_of(piece) for piece in tokenizer.convert_ids_to_tokens(ids)) == text.encode()


def test_auto_tokenizer_loads_what_was_saved(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(6))
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded("Mira").input_ids == [0, *encode_texts(tokenizer, ["Mira"])[0]]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    beside_a_network = load_tokenizer(tmp_path)
    texts = [*HOSTILE.values(), *STORIES[:5]]
    assert encode_texts(beside_a_network, texts) == encode_texts(tokenizer, texts)
    assert [beside_a_network.decode(ids) for ids in encode_texts(tokenizer, texts)] == texts


def test_bpe_is_shorter_than_bytes_and_has_the_requested_size() -> None:
    assert len(bpe()) == 320
    assert len(byte_tokenizer()) == 262
    assert sum(map(len, encode_texts(bpe(), STORIES))) * 2 < sum(map(len, encode_texts(byte_tokenizer(), STORIES)))
    assert train_bpe(STORIES, vocab_size=320).get_vocab() == bpe().get_vocab()


def test_text_that_spells_a_special_token_is_read_as_text() -> None:
    ids = encode_texts(bpe(), ["a<|end|>b"])[0]
    assert not set(ids) & set(range(6))
    assert count_token_bytes(bpe(), vocab_size=500).shape == (500,)
    assert (count_token_bytes(bpe())[:6] == 0).all()
    assert np.count_nonzero(count_token_bytes(bpe())) == 314


def test_texts_are_encoded_as_the_library_encodes_them_after_any_call_before(tokenizer) -> None:  # type: ignore[no-untyped-def]
    texts = ["Mira mends nets.", "", "x<|end|>y " * 40, "é" * 30]
    expected = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokenizer(texts, truncation=True, max_length=5, padding=True)
    assert encode_texts(tokenizer, texts) == expected


def test_unigram_learns_words_and_falls_back_on_bytes_for_rare_letters() -> None:
    assert 300 < len(unigram()) <= 400
    assert sum(map(len, encode_texts(unigram(), STORIES))) * 2 < sum(map(len, encode_texts(byte_tokenizer(), STORIES)))
    assert unigram().tokenize("Everyone was glad") == ["Everyone", " was", " glad"]
    tokens = unigram().convert_ids_to_tokens(encode_texts(unigram(), ["Mira ж"])[0])
    assert tokens[-2:] == ["<0xD0>", "<0xB6>"]
    assert not any(token.startswith("<0x") for token in tokens[:-2])
    assert set(train_unigram(STORIES, vocab_size=400).get_vocab()) == set(unigram().get_vocab())


def test_an_alphabet_larger_than_the_vocabulary_leaves_rare_characters_to_the_bytes() -> None:
    draw = random.Random(0)
    texts = ["".join(chr(draw.randint(0x4E00, 0x5E00)) for _ in range(40)) + " the old mill" for _ in range(60)]
    alphabet = choose_alphabet(texts, limit=30)
    assert alphabet is not None
    assert set("the oldmi") <= alphabet
    assert len(alphabet) == 30
    assert choose_alphabet(["abc"], limit=3) is None
    with pytest.raises(InvalidInput, match="can't hold the text's alphabet"):
        train_unigram(texts, vocab_size=330)
    tokenizer = train_unigram(only_frequent(texts, alphabet), vocab_size=330)
    assert [tokenizer.decode(ids) for ids in encode_texts(tokenizer, texts)] == texts


def test_very_long_words_are_split_for_training_only() -> None:
    for text in ("x" * 1000, " " * 1000, "ab " * 400, "short"):
        parts = list(short_runs(text))
        assert "".join(parts) == text
        assert all(len(run) <= 100 for part in parts for run in part.split())
    assert len(train_bpe((part for part in short_runs("y" * 300_000)), vocab_size=300)) < 300


def test_a_sample_is_spread_over_the_rows_and_bounded(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [f"row {index:05d}" for index in range(1000)]}),
        tmp_path / "train.parquet",
        row_group_size=300,
    )
    whole = TextSample(tmp_path / "train.parquet", max_bytes=10**9)
    assert (len(list(whole)), whole.rows, whole.bytes, whole.every) == (1000, 1000, 9000, 1)
    some = TextSample(tmp_path / "train.parquet", max_bytes=10**9, max_rows=100)
    assert list(some) == [f"row {index:05d}" for index in range(0, 1000, 10)]
    assert list(some) == list(some)
    small = TextSample(tmp_path / "train.parquet", max_bytes=900)
    assert sum(len(text) for text in small) <= 909
    write_dataset(tmp_path / "book", train=[{"text": "é" * 1_500_000}])
    book = TextSample(tmp_path / "book/train.parquet", max_bytes=10**9)
    assert [len(part) for part in book] == [1_000_000, 500_000]
    assert (book.rows, book.bytes) == (1, 3_000_000)
    rows = [
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": ""}]},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]},
    ]
    write_dataset(tmp_path / "chats", train=rows)
    assert [text.strip() for text in TextSample(tmp_path / "chats/train.parquet", max_bytes=99)] == ["Who?"]
    assert row_text(rows[0]).strip() == "Who?"


def test_a_stop_request_is_heeded_while_the_library_computes() -> None:
    class Stopping(Recorder):
        def should_stop(self):  # type: ignore[no-untyped-def]
            return "cancel"

    over = threading.Event()
    with pytest.raises(JobFailed, match="stopped on request"):
        run_watched(lambda: over.wait(20) and bpe(), Stopping())  # type: ignore[arg-type, return-value]
    over.set()


def test_a_vocabulary_below_the_bytes_is_refused_with_the_bound() -> None:
    with pytest.raises(InvalidInput, match="vocabulary of 100 is too small") as refusal:
        train_bpe(STORIES, vocab_size=100)
    assert "at least 262" in refusal.value.remedy
    with pytest.raises(InvalidInput, match="vocabulary of 300 is too small for Unigram"):
        train_unigram(STORIES, vocab_size=300)


@pytest.mark.parametrize("dataset", ["texts", "chats", "pairs"])
def test_the_job_trains_on_any_kind_of_dataset(tmp_path: Path, dataset: str) -> None:
    rooms, recorder = Rooms(tmp_path), Recorder()
    result = run(
        rooms.spec({"dataset": dataset, "kind": "bpe", "vocab_size": 280, "out": "made/it"}, kind="train_tokenizer"),
        recorder,
    )
    loaded = AutoTokenizer.from_pretrained(tmp_path / "made/it")
    assert (result.folder, result.vocab_size, len(loaded)) == ("made/it", 280, 280)
    assert result.bytes_per_token > 1.1
    assert recorder.progressed
    plain = run(
        rooms.spec(
            {"dataset": dataset, "kind": "byte", "vocab_size": 262, "out": "made/bytes"}, kind="train_tokenizer"
        ),
        recorder,
    )
    assert plain.bytes_per_token == 1.0
    unigram = run(
        rooms.spec(
            {"dataset": dataset, "kind": "unigram", "vocab_size": 330, "out": "made/unigram"}, kind="train_tokenizer"
        ),
        recorder,
    )
    assert unigram.bytes_per_token > 1.05
    assert unigram.asked_vocab_size == 330
    assert unigram.sample_rows == unigram.total_rows


def test_the_job_names_what_is_missing(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    with pytest.raises(NotFound, match=r"no train\.parquet"):
        run(
            rooms.spec({"dataset": "nowhere", "kind": "bpe", "vocab_size": 300, "out": "x"}, kind="train_tokenizer"),
            Recorder(),
        )
    write_dataset(tmp_path / "d", train=[{"text": "a"}])
    for kind in ("bpe", "unigram"):
        with pytest.raises(InvalidInput, match=r"too small for a vocabulary of 30,000: its 1 bytes yield 26\d entries"):
            run(
                rooms.spec({"dataset": "d", "kind": kind, "vocab_size": 30_000, "out": "x"}, kind="train_tokenizer"),
                Recorder(),
            )
    write_dataset(tmp_path / "empty", train=[{"text": ""}, {"text": ""}])
    with pytest.raises(InvalidInput, match="hold no text"):
        run(
            rooms.spec({"dataset": "empty", "kind": "bpe", "vocab_size": 300, "out": "x"}, kind="train_tokenizer"),
            Recorder(),
        )
    with pytest.raises(InvalidInput, match="'bpe', 'unigram' or 'byte'"):
        run(
            rooms.spec({"dataset": "d", "kind": "word", "vocab_size": 300, "out": "x"}, kind="train_tokenizer"),
            Recorder(),
        )


def test_a_tokenizer_is_trained_and_saved_without_an_import_of_torch(tmp_path: Path) -> None:
    code = (
        "import sys; import jobs.modeling.entries.tokenizer as entry; entry.train_bpe(['a b'],"
        " vocab_size=300).save_pretrained(sys.argv[1])"
    )
    names = "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {names}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    imported = set(done.stdout.split())
    assert "tokenizers" in imported
    assert imported & {"torch", "peft", "scipy", "sklearn", "accelerate"} == set()
