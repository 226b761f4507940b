"""Tokenizers of our own, as any tool loads them; the job that trains them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from backend.domain.chat_template import CHAT_TEMPLATE, SPECIAL_TOKENS
from backend.errors import InvalidInput, NotFound
from jobs.modeling.run_tokenizer import run
from jobs.modeling.tokenizers import byte_tokenizer, encode_texts, token_bytes, train_bpe
from tests.jobs.training_rooms import Recorder, Rooms, make_stories, write_dataset

STORIES = make_stories(100)
BPE, BYTES = train_bpe(STORIES, vocab_size=320), byte_tokenizer()
both = pytest.mark.parametrize("tokenizer", [BPE, BYTES], ids=["bpe", "byte"])


@both
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_every_text_survives_the_round_trip_and_bytes_are_counted(tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = encode_texts(tokenizer, [text])[0]
    assert tokenizer.decode(ids) == text
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())


@both
def test_auto_tokenizer_loads_what_was_saved(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(6))
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")
    assert loaded.chat_template == CHAT_TEMPLATE
    assert loaded("Mira").input_ids == [0, *encode_texts(tokenizer, ["Mira"])[0]]


def test_bpe_is_shorter_than_bytes_and_has_the_size_asked_for() -> None:
    assert len(BPE) == 320
    assert len(BYTES) == 262
    assert sum(map(len, encode_texts(BPE, STORIES))) * 2 < sum(map(len, encode_texts(BYTES, STORIES)))
    assert train_bpe(STORIES, vocab_size=320).get_vocab() == BPE.get_vocab()


def test_text_that_spells_a_special_token_is_read_as_text() -> None:
    ids = encode_texts(BPE, ["a<|end|>b"])[0]
    assert not set(ids) & set(range(6))
    assert token_bytes(BPE, vocab_size=500).shape == (500,)
    assert (token_bytes(BPE)[:6] == 0).all()
    assert np.count_nonzero(token_bytes(BPE)) == 314


def test_a_vocabulary_below_the_bytes_is_refused_with_the_bound() -> None:
    with pytest.raises(InvalidInput, match="vocabulary of 100 is too small") as refusal:
        train_bpe(STORIES, vocab_size=100)
    assert "at least 262" in refusal.value.remedy


@pytest.mark.parametrize("dataset", ["texts", "chats", "pairs"])
def test_the_job_trains_on_any_kind_of_dataset(tmp_path: Path, dataset: str) -> None:
    rooms, recorder = Rooms(tmp_path), Recorder()
    result = run(rooms.spec({"dataset": dataset, "kind": "bpe", "vocab_size": 280, "out": "made/it"}), recorder)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "made/it")
    assert (result["folder"], result["vocab_size"], len(loaded)) == ("made/it", 280, 280)
    assert result["bytes_per_token"] > 1.1
    assert recorder.progressed
    assert run(rooms.spec({"dataset": dataset, "kind": "byte", "vocab_size": 0, "out": "made/bytes"}), recorder)["bytes_per_token"] == 1.0


def test_the_job_says_what_is_missing(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    with pytest.raises(NotFound, match=r"no train\.parquet"):
        run(rooms.spec({"dataset": "nowhere", "kind": "bpe", "vocab_size": 300, "out": "x"}), Recorder())
    write_dataset(tmp_path / "d", train=[{"text": "a"}])
    with pytest.raises(InvalidInput, match="no tokenizer kind 'word'"):
        run(rooms.spec({"dataset": "d", "kind": "word", "vocab_size": 300, "out": "x"}), Recorder())
