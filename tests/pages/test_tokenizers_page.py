"""The tokenizers' page: training with its refusals, a text in tokens, several side by side, reports, users."""

from __future__ import annotations

import json

import pytest

from backend.db.tables import Checkpoint, Run, Tokenizer
from backend.domain.tokenizers.config import TokenizerConfig
from backend.services.context import LOCAL, Context
from backend.services.data.imports import add_rows_dataset
from backend.services.tokenizers.reports import list_reports, request_report
from backend.services.tokenizers.tokenizers import get_tokenizer, list_tokenizers, train_tokenizer
from pages.components.tokenizers.report import measure_bars
from tests.support.job_work import do_job
from tests.support.opening import figure, open_page, strips, words
from tests.support.scenario import Scenario, add_row

PAGE = "build/tokenizers.py"
ROWS = [
    {"text": f"The miller of the village counts {n} sacks of flour and sings, and nobody knows why he does it."}
    for n in range(40)
]
EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script> :red[$x$] <|end|>\u202e"
LETTERS = {
    "added_tokens": [],
    "decoder": {"type": "Fuse"},
    "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "a": 1, " ": 2}},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False},
}


@pytest.fixture
def mill(site: Context) -> Context:
    """A dataset, two tokenizers of one's own, and a base that knows one letter."""
    do_job(site, add_rows_dataset(site, name="mill", kind="text", rows=ROWS, person=LOCAL).job_id)
    for name, kind, size in (("bpe *one*", "bpe", 300), ("bytes", "byte", 0)):
        Scenario(site).tokenizer(name, kind=kind, vocab_size=size, dataset="mill")
    folder = site.artifacts.folder("bases", "letters")
    (folder / "tokenizer.json").write_text(json.dumps(LETTERS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    add_row(site, Checkpoint(name="letters", origin="added", folder="bases/letters", facts={"vocab_size": 3}))
    return site


def test_training_is_queued_once_followed_and_stopped(site: Context) -> None:
    do_job(site, add_rows_dataset(site, name="mill", kind="text", rows=ROWS, person=LOCAL).job_id)
    app = open_page(PAGE, train="1", dataset="mill")
    app.selectbox(key="tokenizer_kind").select("unigram").run()
    app.number_input(key="tokenizer_vocab_size").set_value(300).run()
    app.button(key="tokenizer_train").click().run()
    assert "Choose 320" in app.error[0].value.replace("\\", ""), "too small for Unigram, and it is said what is enough"
    assert list_tokenizers(site) == []
    app.number_input(key="tokenizer_vocab_size").set_value(330).run()
    app.button(key="tokenizer_train").click().run()
    (tokenizer,) = list_tokenizers(site)
    assert (tokenizer.name, tokenizer.kind, tokenizer.dataset) == ("mill-unigram-330", "unigram", "mill@1")
    assert app.query_params["tokenizer"] in (tokenizer.id, [tokenizer.id])
    assert "No worker serves the queue" in words(app)
    app.button(key=f"stop_{tokenizer.job_id}").click().run()
    assert get_tokenizer(site, tokenizer.id).status == "cancelled"
    app = open_page(PAGE, tokenizer=tokenizer.id)
    assert "it was stopped" in app.error[0].value
    app.button(key=f"forget_{tokenizer.id}").click().run()
    assert list_tokenizers(site) == []


def test_a_failed_training_gives_the_reason_and_the_remedy(site: Context) -> None:
    do_job(site, add_rows_dataset(site, name="mill", kind="text", rows=ROWS, person=LOCAL).job_id)
    queued = train_tokenizer(
        site, name="large", dataset="mill", config=TokenizerConfig(vocab_size=20_000), person=LOCAL
    )
    do_job(site, queued.job_id)
    app = open_page(PAGE, tokenizer=queued.id)
    assert "too small for a vocabulary of 20,000" in app.error[0].value.replace("\\", "")
    assert "or fewer" in app.error[0].value
    assert "failed" in words(open_page(PAGE))


def test_a_vocabulary_smaller_than_requested_says_why(site: Context) -> None:
    facts = {"asked_vocab_size": 1024}
    row = Tokenizer(name="few", kind="bpe", vocab_size=614, folder="tokenizers/few", facts=facts)
    page = open_page("build/tokenizers.py", tokenizer=add_row(site, row))
    assert "1,024 tokens were requested; the text yields no more than 614." in words(page)


def test_any_text_is_shown_in_tokens_as_text(mill: Context) -> None:
    listed = open_page(PAGE)
    assert "bpe \\*one\\*" in words(listed)
    tokenizer = get_tokenizer(mill, "bpe *one*")
    app = open_page(PAGE, tokenizer=tokenizer.id, text=EVIL)
    assert not app.error, words(app)
    (tokens,) = strips(app)
    assert "".join(tokens).startswith(EVIL[:-1]), "a special token that is spelt out is cut up like any text"
    assert tokens[-1] == "AE"
    assert "<|end|>" not in tokens
    assert "evil" not in words(app)
    assert "Round-trips exactly" in words(app)
    app.toggle(key=f"specials_{tokenizer.id}").set_value(True).run()
    assert "<|end|>" in strips(app)[0]
    app.toggle(key=f"ids_{tokenizer.id}").set_value(True).run()
    assert len(app.code[0].value.split()) == len(strips(app)[0])
    assert app.get("download_button")


def test_a_comparison_on_one_text_shows_lost_tokens(mill: Context) -> None:
    refs = [f"tokenizer:{get_tokenizer(mill, 'bytes').id}", "letters", "tokenizer:gone"]
    app = open_page(PAGE, compare=",".join(refs), text="a é")
    assert not app.error
    assert strips(app) == [["a", " ", "C3", "A9"], ["a", " ", "é"]]
    assert "Lost (red): 1 token" in words(app)
    assert app.code[0].value == "a ?", "what comes back is shown"
    chosen = app.multiselect(key="compare_tokenizers")
    assert len(chosen.options) == 3
    chosen.set_value([]).run()
    assert "at least one" in words(app)


def test_a_report_is_requested_and_read_on_the_page(mill: Context) -> None:
    own = get_tokenizer(mill, "bytes")
    app = open_page(PAGE, compare=f"tokenizer:{own.id},letters")
    app.button(key=next(b.key for b in app.button if str(b.key).startswith("report_ask_"))).click().run()
    (report,) = list_reports(mill)
    assert report.names == ("bytes", "letters")
    assert "No worker serves the queue" in words(app)
    do_job(mill, report.job_id)
    app = open_page(PAGE, compare=f"tokenizer:{own.id},letters")
    assert not app.error, words(app)
    bars = figure(app, "report_chart")["data"]
    rate = sum(len(row["text"]) for row in ROWS) / sum(len(row["text"].split()) for row in ROWS)
    assert bars[0]["x"][0] == pytest.approx(rate, rel=0.02)
    table = app.dataframe[0].value
    assert table["Bytes per token"].iloc[0] == 1
    assert table[table["Tokenizer"] == "letters"]["Unknown"].iloc[0] > 0.5
    app.segmented_control(key=f"report_measure_{report.id}").select("unknown_share").run()
    assert not app.exception
    app.button(key=f"report_delete_{report.id}").click().run()
    assert list_reports(mill) == []


def test_a_tokenizer_in_use_names_its_users_and_stays(mill: Context) -> None:
    tokenizer = get_tokenizer(mill, "bytes")
    add_row(mill, Run(name="long _run_", objective="pretrain", config={}, tokenizer_id=tokenizer.id))
    app = open_page(PAGE, tokenizer=tokenizer.id, tab="Used by")
    assert "long \\_run\\_" in words(app)
    app = open_page(PAGE, tokenizer=tokenizer.id, tab="Rename or delete")
    assert "In use, so it can't be deleted. Delete these runs first:" in words(app)
    assert "- long _run_" in words(app).replace("\\", "")
    assert not [button for button in app.button if button.key == f"delete_yes_{tokenizer.id}"]
    app.text_input(key=f"name_{tokenizer.id}").input("octets")
    app.button(key=f"rename_{tokenizer.id}").click().run()
    assert get_tokenizer(mill, tokenizer.id).name == "octets"
    free = get_tokenizer(mill, "bpe *one*")
    waiting = request_report(mill, tokenizers=["octets", free.id], datasets=["mill"], person=LOCAL)
    app = open_page(PAGE, tokenizer=free.id, tab="Rename or delete")
    assert "It is being measured, so it can't be deleted." in words(app), "it was refused after the click alone"
    assert not [button for button in app.button if button.key == f"delete_yes_{free.id}"]
    do_job(mill, waiting.job_id)
    app.run()
    app.button(key=f"delete_yes_{free.id}").click().run()
    assert [view.name for view in list_tokenizers(mill)] == ["octets"]


def test_an_architecture_is_designed_for_a_tokenizer(mill: Context) -> None:
    app = open_page("build/architectures.py", tokenizer="bytes")
    assert app.text_input(key="architecture_vocab_size").value == str(get_tokenizer(mill, "bytes").vocab_size)
    assert app.selectbox(key="architecture_tokenizer").value == "bytes"


def test_an_address_of_a_deleted_object_is_an_error_message(site: Context) -> None:
    assert "gone" in open_page(PAGE, tokenizer="gone").error[0].value
    assert "No tokenizers yet" in words(open_page(PAGE, compare="tokenizer:gone"))
    assert "needs a dataset" in words(open_page(PAGE, train="1"))


def test_bars_of_a_report_escape_names_and_leave_gaps() -> None:
    drawn = measure_bars(
        {"<b>x</b>": [0.5, None], "y": [0.25, 0.125]}, ["All", "German"], title="Unknown", percent=True
    )
    assert drawn.data[0].name == "&lt;b&gt;x&lt;/b&gt;"
    assert drawn.data[0].x == (50, None)
    assert drawn.data[1].text == ("25.0 %", "12.5 %")
