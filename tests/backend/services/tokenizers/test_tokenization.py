"""Text in tokens, at once, and reports that compare tokenizers, their own and those of checkpoints."""

from __future__ import annotations

import json

import pytest

from backend.db.tables import Analysis, Checkpoint
from backend.domain.jobs.states import Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.data.datasets import rename_dataset
from backend.services.data.imports import add_rows_dataset
from backend.services.tokenizers.reports import delete_report, get_report, list_reports, request_report
from backend.services.tokenizers.sources import TokenizerSource, list_sources, resolve_source
from backend.services.tokenizers.tokenization import MAX_TEXT, tokenize
from backend.services.tokenizers.tokenizers import delete_tokenizer, get_tokenizer, train_tokenizer
from tests.support.job_work import do_job
from tests.support.scenario import Scenario, add_row

ROWS = [{"text": f"The miller of the village counts {n} sacks of flour and sings."} for n in range(60)]
CHARACTERS = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "unk_token": " ", "vocab": {" ": 0, "a": 1, "b": 2}},
}
CHARACTERS |= {
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
}
CHARACTERS |= {"decoder": {"type": "Fuse"}}


@pytest.fixture
def mill(ctx: Context) -> Context:
    """An installation with a dataset, three tokenizers of its own, and a base that writes letters."""
    do_job(ctx, add_rows_dataset(ctx, name="mill", kind="text", rows=ROWS, person=LOCAL).job_id)
    for kind, size in (("bpe", 300), ("unigram", 330), ("byte", 0)):
        Scenario(ctx).tokenizer(kind, kind=kind, vocab_size=size, dataset="mill")
    folder = ctx.artifacts.folder("bases", "letters")
    (folder / "tokenizer.json").write_text(json.dumps(CHARACTERS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    add_row(ctx, Checkpoint(name="letters", origin="added", folder="bases/letters", facts={"vocab_size": 3}))
    return ctx


def test_every_token_has_its_text(mill: Context) -> None:
    result = tokenize(mill, resolve_source(mill, "byte"), "a é\n<|end|>")
    assert [(token.text, token.kind) for token in result.tokens[:5]] == [
        ("a", "text"),
        (" ", "text"),
        ("C3", "byte"),
        ("A9", "byte"),
        ("\n", "text"),
    ]
    assert (len(result.tokens), result.bytes, result.characters, result.words) == (12, 12, 11, 3)
    assert (result.bytes_per_token, result.same, result.cut) == (1.0, True, False)
    known = tokenize(mill, resolve_source(mill, "byte"), "a é\n<|end|>", specials=True)
    assert (known.tokens[-1].text, known.tokens[-1].kind, known.tokens[-1].id) == ("<|end|>", "special", 1)
    unigram = tokenize(mill, resolve_source(mill, "unigram"), "The millerж")
    assert [(token.text, token.kind) for token in unigram.tokens[-2:]] == [("D0", "byte"), ("B6", "byte")]
    assert "".join(token.text for token in unigram.tokens[:-2]) == "The miller"


def test_text_outside_the_vocabulary_is_marked(mill: Context) -> None:
    result = tokenize(mill, resolve_source(mill, "letters"), "ab é")
    assert [(token.text, token.kind) for token in result.tokens] == [
        ("a", "text"),
        ("b", "text"),
        (" ", "text"),
        ("é", "unknown"),
    ]
    assert not result.same


@pytest.mark.parametrize("name", ["bpe", "unigram", "byte", "letters"])
@pytest.mark.parametrize(
    "text", ["", "\x00\r\n\u2028", "سأل 磨坊 👩\u200d👧", "\ud800 half a pair", "<script>alert(1)</script>"]
)
def test_any_text_can_be_tokenized(mill: Context, name: str, text: str) -> None:
    result = tokenize(mill, resolve_source(mill, name), text)
    assert result.same or name == "letters"
    assert result.characters == len(text)


def test_a_long_text_is_cut_with_a_note(mill: Context) -> None:
    result = tokenize(mill, resolve_source(mill, "bpe"), "miller " * 20_000)
    assert (result.cut, result.characters) == (True, MAX_TEXT)


def test_sources_are_tokenizers_and_bases_by_name_or_reference(mill: Context) -> None:
    assert {source.name for source in list_sources(mill)} == {"bpe", "unigram", "byte", "letters"}
    bpe = resolve_source(mill, "bpe")
    assert resolve_source(mill, bpe.ref) == bpe == resolve_source(mill, bpe.id)
    letters = resolve_source(mill, "letters")
    assert (letters.kind, letters.ref) == ("checkpoint", f"checkpoint:{letters.id}")
    assert resolve_source(mill, letters.ref) == letters
    with pytest.raises(NotFound, match="no tokenizer or checkpoint “bqe”") as missing:
        resolve_source(mill, "bqe")
    assert "“bpe”" in missing.value.remedy
    waiting = train_tokenizer(mill, name="later", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    with pytest.raises(Conflict, match="not ready: it is queued"):
        resolve_source(mill, waiting.name)


@pytest.mark.parametrize(
    "content", ["", "{", '{"model": {"type": "Magic"}}', "[]"], ids=["empty", "torn", "unknown-model", "list"]
)
def test_a_damaged_tokenizer_is_an_error_message(mill: Context, content: str) -> None:
    folder = mill.artifacts.folder("bases", "broken")
    source = TokenizerSource("checkpoint:x", "broken", "checkpoint", "x", "bases/broken", None)
    with pytest.raises(NotFound, match=r"no tokenizer\.json"):
        tokenize(mill, source, "a")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InvalidInput, match="can't be loaded"):
        tokenize(mill, source, "a")


def test_a_changed_tokenizer_is_read_again(mill: Context) -> None:
    letters = resolve_source(mill, "letters")
    assert tokenize(mill, letters, "c").tokens[0].kind == "unknown"
    model = {**CHARACTERS["model"], "vocab": {" ": 0, "a": 1, "c": 2}}  # type: ignore[dict-item]
    (mill.artifacts.path(letters.folder) / "tokenizer.json").write_text(json.dumps({**CHARACTERS, "model": model}))
    assert tokenize(mill, letters, "c").tokens[0].kind == "text"


def test_report_compares_own_tokenizers_with_those_of_checkpoints(mill: Context) -> None:
    requested = request_report(
        mill, tokenizers=["bpe", "unigram", "letters", "bpe"], datasets=["mill"], person=LOCAL, idempotency_key="k"
    )
    assert (requested.status, requested.is_ready, requested.names) == (
        Status.QUEUED,
        False,
        ("bpe", "unigram", "letters"),
    )
    assert (
        request_report(mill, tokenizers=["bpe"], datasets=["mill"], person=LOCAL, idempotency_key="k").id
        == requested.id
    )
    with pytest.raises(Conflict, match="being measured"):
        delete_report(mill, requested.id, person=LOCAL)
    assert do_job(mill, requested.job_id).status is Status.FINISHED
    done = get_report(mill, requested.id)
    whole = {m.tokenizer: m.values for m in done.measures if m.language is None}
    assert set(whole) == {"bpe", "unigram", "letters"}
    assert whole["bpe"]["fertility"] < whole["letters"]["fertility"]
    assert whole["letters"]["unknown_share"] > 0.5
    assert (whole["bpe"]["changed"], whole["letters"]["changed"]) == (0, whole["letters"]["rows"])
    assert [tokenizer.vocab_size for tokenizer in done.tokenizers] == [
        300,
        get_tokenizer(mill, "unigram").vocab_size,
        3,
    ]
    assert [entry.name for entry in done.datasets] == ["mill@1"]
    rename_dataset(mill, "mill", "millrace", person=LOCAL)
    again = get_report(mill, requested.id)
    assert {m.dataset for m in again.measures} == {entry.name for entry in again.datasets} == {"millrace@1"}
    assert [view.id for view in list_reports(mill)] == [requested.id]
    with mill.db.read() as session:
        row = session.get_one(Analysis, requested.id)
        assert row.tokenizer_id == get_tokenizer(mill, "bpe").id
        assert row.checkpoint_id is not None
        assert row.dataset_version_id is not None
    delete_tokenizer(mill, "bpe", person=LOCAL)  # its reports go with it
    assert list_reports(mill) == []
    with pytest.raises(NotFound, match="no such report"):
        delete_report(mill, requested.id, person=LOCAL)


def test_an_impossible_report_is_refused_before_it_is_queued(mill: Context) -> None:
    with pytest.raises(InvalidInput, match="0 tokenizers"):
        request_report(mill, tokenizers=[], datasets=["mill"], person=LOCAL)
    with pytest.raises(InvalidInput, match="0 datasets"):
        request_report(mill, tokenizers=["bpe"], datasets=[], person=LOCAL)
    with pytest.raises(NotFound, match="no dataset"):
        request_report(mill, tokenizers=["bpe"], datasets=["mall"], person=LOCAL)
    with pytest.raises(NotAllowed):
        request_report(mill, tokenizers=["bpe"], datasets=["mill"], person=Person(id="u", name="rater", role="rater"))
    assert list_reports(mill) == []
