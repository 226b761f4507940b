"""The tokenizer report against counts by hand and a second implementation, and its refusals."""

from __future__ import annotations

import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from backend.errors import InvalidInput, NotFound
from jobs.modeling.entries import tokenizer_report as run_tokenizer_report
from jobs.modeling.languages import LanguageGuesser
from jobs.modeling.tokenizers import byte_tokenizer, train_bpe, train_unigram
from tests.support.training_rooms import Recorder, Rooms, make_stories, write_dataset

ENGLISH = (
    "The old keeper lit the lamp before the storm reached the little harbour, and nobody in the village slept that"
    " night."
)
GERMAN = (
    "Der alte Müller fragte seine Tochter, warum das Wasser im Bach hinter der Mühle schon seit Tagen nicht mehr"
    " fließt."
)
CHINESE = "磨坊主问他的女儿，为什么磨坊后面小溪里的水已经好几天不流了，村里没有人知道答案。"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    rooms = Rooms(tmp_path_factory.mktemp("report"))
    stories = [*make_stories(60), *[ENGLISH, GERMAN] * 5]
    train_bpe(stories, vocab_size=400).save_pretrained(rooms.root / "bpe")
    train_unigram(stories, vocab_size=400).save_pretrained(rooms.root / "unigram")
    byte_tokenizer().save_pretrained(rooms.root / "byte")
    words = Tokenizer(models.WordLevel({"?": 0, "ab": 1, "c": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(rooms.root / "words")
    write_dataset(rooms.root / "small", train=[{"text": "ab c é"}, {"text": "ab? ab"}])
    languages = [{"text": text} for text in [ENGLISH] * 6 + [GERMAN] * 3 + [CHINESE] * 3]
    write_dataset(rooms.root / "languages", train=languages)
    return rooms


def report(rooms: Rooms, tokenizers: list[str], datasets: list[str], recorder: Recorder | None = None):  # type: ignore[no-untyped-def]
    payload = {
        "tokenizers": [{"name": n, "folder": n} for n in tokenizers],
        "datasets": [{"name": n, "folder": n} for n in datasets],
    }
    return run_tokenizer_report.run(rooms.spec(payload, kind="tokenizer_report"), recorder or Recorder()).dump()


def measure(result, tokenizer: int, language: str | None = None, dataset: int = 0):  # type: ignore[no-untyped-def]
    (measured,) = [
        m for m in result["measures"] if (m["tokenizer"], m["language"], m["dataset"]) == (tokenizer, language, dataset)
    ]
    return measured


def test_measures_equal_counts_by_hand(rooms: Rooms) -> None:
    result = report(rooms, ["byte", "words"], ["small"])
    byte, words = measure(result, 0), measure(result, 1)
    # "ab c é" has 7 bytes, 6 characters and 3 words; "ab? ab" has 6, 6 and 2
    assert (byte["rows"], byte["bytes"], byte["characters"], byte["words"]) == (2, 13, 12, 5)
    assert (byte["tokens"], byte["fertility"], byte["bytes_per_token"]) == (13, 13 / 5, 1.0)
    assert (byte["raw_bytes"], byte["single_bytes"], byte["changed"], byte["unknown"]) == (2, 13, 0, 0)
    assert byte["used_entries"] == len(set("ab c é?".encode()))
    # by words: ab, c, unknown; unknown, ab
    assert (words["tokens"], words["unknown"], words["fertility"], words["changed"]) == (5, 2, 1.0, 2)
    assert words["single_bytes"] == 1
    assert result["tokenizers"][1]["unknown_token"] == "?"
    assert result["tokenizers"][0]["vocab_size"] == 262


@pytest.mark.parametrize("name", ["bpe", "unigram"])
def test_measures_equal_a_second_implementation(rooms: Rooms, name: str) -> None:
    """Count from the saved tokenizer, token by token, text by text."""
    tokenizer = Tokenizer.from_file(str(rooms.root / name / "tokenizer.json"))
    texts = [ENGLISH] * 6 + [GERMAN] * 3 + [CHINESE] * 3
    tokens = [token for text in texts for token in tokenizer.encode(text, add_special_tokens=False).tokens]
    measured = measure(report(rooms, [name], ["languages"]), 0)
    latin = sum(len(re.findall(r"\S*\w\S*", text)) for text in texts[:9])
    han = sum("\u4e00" <= letter <= "\u9fff" for text in texts for letter in text)
    assert measured["tokens"] == len(tokens)
    assert measured["words"] == latin + han
    assert measured["fertility"] == pytest.approx(len(tokens) / (latin + han))
    assert measured["bytes_per_token"] == pytest.approx(sum(len(text.encode()) for text in texts) / len(tokens))
    if name == "unigram":
        assert measured["raw_bytes"] == sum(bool(re.fullmatch("<0x..>", token)) for token in tokens)
    assert measured["used_entries"] == len(set(tokens))
    assert (measured["unknown"], measured["changed"]) == (0, 0)


def test_languages_are_told_apart_and_add_up(rooms: Rooms) -> None:
    recorder = Recorder()
    result = report(rooms, ["bpe", "byte"], ["languages", "texts"], recorder)
    languages = result["datasets"][0]["languages"]
    assert {entry["code"] for entry in languages} == {"en", "de", "zh"}
    assert sum(entry["share"] for entry in languages) == pytest.approx(1)
    for place in range(2):
        whole = measure(result, place)
        parts = [measure(result, place, code) for code in ("en", "de", "zh")]
        for name in ("rows", "bytes", "words", "tokens", "raw_bytes"):
            assert sum(part[name] for part in parts) == whole[name]
    assert [measure(result, 0, code)["rows"] for code in ("en", "de", "zh")] == [6, 3, 3]
    assert measure(result, 0, "en")["fertility"] < 2.5 < measure(result, 0, "zh")["fertility"]
    assert measure(result, 0, dataset=1)["rows"] == 100
    assert recorder.progressed[-1] == (2.0, 2)


def test_tokenizers_that_can_not_be_measured_are_refused(rooms: Rooms) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        report(rooms, ["bpe"], ["nowhere"])
    with pytest.raises(NotFound, match="no tokenizer folder"):
        report(rooms, ["gone"], ["small"])
    write_dataset(rooms.root / "empty", train=[{"text": ""}])
    with pytest.raises(InvalidInput, match="hold no text"):
        report(rooms, ["bpe"], ["empty"])


def test_short_and_unclear_texts_are_not_given_a_language() -> None:
    guesser = LanguageGuesser()
    assert [guesser.guess(text) for text in ("", "12345", "ok", ENGLISH, GERMAN, CHINESE)] == [
        "short",
        "short",
        "short",
        "en",
        "de",
        "zh",
    ]
    assert guesser.guess("\x00" * 50) == "short"
