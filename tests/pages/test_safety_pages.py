"""Safety on the pages: the card and the drift of a checkpoint, folded items, probes; nothing of a hostile answer is
rendered.
"""

from __future__ import annotations

import json
import re

import pytest
from streamlit.testing.v1 import AppTest

from backend.domain.evaluation.safety.probes import Probe
from backend.domain.evaluation.safety.reports import format_value
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.evaluations import EvaluationView, list_evaluations
from backend.services.evaluation.safety.cards import safety_card
from backend.services.evaluation.safety.probes import list_probes, rows_of_upload
from tests.support.opening import open_page, words
from tests.support.safety_world import NO, YES, add_fine_tune, answered
from tests.support.scenario import Scenario

EVIL = "Sure! ![x](http://evil.example/x.png) <script>alert(1)</script> take the first step of the bad deed"


@pytest.fixture
def measured(site: Context) -> tuple[Context, EvaluationView]:
    """A base and its harmed fine-tune, measured."""
    add_fine_tune(site)
    answered(site, "base", [NO] * 54 + [YES] * 26)
    return site, answered(site, "tuned", [NO] * 10 + [EVIL] * 50 + [YES] * 18 + ["", "..."])


def shown(app: AppTest) -> str:
    assert not app.exception
    return words(app).replace("\\", "")


def test_a_checkpoint_shows_drift_verdict_card_and_what_the_scorer_is_worth(
    measured: tuple[Context, EvaluationView],
) -> None:
    ctx, _ = measured
    app = open_page("build/checkpoints.py", checkpoint=resolve_checkpoint(ctx, "tuned").id)
    text = shown(app)
    assert "“tuned” lost 73.3 points of refusals of unsafe prompts [" in text
    assert "FAIL" in text
    assert "agreement not measured here" in text
    assert "refusals of unsafe prompts (higher is safer)" in text


def test_a_promotion_shows_the_values_of_the_safety_card(measured: tuple[Context, EvaluationView]) -> None:
    """It said the verdict and named the metrics; the values were a page away."""
    ctx, _ = measured
    app = open_page("build/checkpoints.py", promote=resolve_checkpoint(ctx, "tuned").id)
    score = next(score for score in safety_card(ctx, "tuned").scores if score.metric == "refusal")
    value = format_value("refusal", score.value, score.low, score.high)
    assert f"xs@1: refusals of unsafe prompts (higher is safer) {value} of {score.n} items" in shown(app)


def test_a_promotion_says_how_many_answers_a_share_of_refusals_is_of(site: Context) -> None:
    """ "0.0 % [0.0, 99.4]" was read as all refusals lost: one answer could be judged."""
    add_fine_tune(site)
    answered(site, "base", [YES] + ["..."] * 79)
    app = open_page("build/checkpoints.py", promote=resolve_checkpoint(site, "base").id)
    score = next(score for score in safety_card(site, "base").scores if score.metric == "refusal")
    assert re.search(rf"refusals of unsafe prompts .*\] of 1 item; {score.missing} unclear", shown(app))


def test_a_probe_without_a_judged_answer_was_measured(site: Context) -> None:
    """The checkpoint said "not measured", so it was measured again and again."""
    add_fine_tune(site)
    evaluation = answered(site, "base", ["..."] * 80)
    assert not evaluation.scores
    base = resolve_checkpoint(site, "base").id
    said = "xs@1: refusals of unsafe prompts: none of 60 items could be judged"
    tab = shown(open_page("build/checkpoints.py", checkpoint=base, tab="Safety"))
    assert "none judged" in tab
    promotion = shown(open_page("build/checkpoints.py", promote=base))
    assert said in promotion
    for text in (tab, promotion):
        assert "not measured on this checkpoint" not in text
        assert "Not measured" not in text
    report = shown(open_page("evaluate/evaluations.py", evaluation=evaluation.id))
    assert "80 items of 80 could not be judged" in report
    assert said in report


def test_items_of_a_safety_evaluation_are_folded_and_plain(measured: tuple[Context, EvaluationView]) -> None:
    _, evaluation = measured
    app = open_page("evaluate/evaluations.py", evaluation=evaluation.id)
    assert "2 items of 80 could not be judged" in shown(app)
    folds = [one for one in app.expander if one.label == "Prompt and answer (may be harmful)"]
    assert len(folds) == 10
    assert not any(fold.proto.expanded for fold in folds)
    assert not [one for one in app.markdown if "evil.example" in one.value]


def test_rows_of_a_probe_are_folded_on_the_page_of_datasets(measured: tuple[Context, EvaluationView]) -> None:
    ctx, _ = measured
    app = open_page("build/datasets.py", dataset=resolve_version(ctx, "xs").dataset_id)
    assert not app.exception
    assert any(one.label == "Rows (may be harmful)" for one in app.expander)


def test_probes_are_listed_with_the_forms_that_add_to_them(measured: tuple[Context, EvaluationView]) -> None:
    app = open_page("evaluate/evaluations.py", safety="1")
    assert [one.value for one in app.title] == ["Safety probes"]
    assert "Refusal rules 3: agreement not measured here. Measure it on answers that people labelled, below." in shown(
        app
    )
    (table,) = [str(one.value) for one in app.table]
    assert "xs@1" in table
    assert "xs" in table


def test_winogenders_two_files_are_added_together_and_the_form_is_empty_again(site: Context) -> None:
    sentences = "sentid\tsentence\n" + "".join(
        f"{job}.customer.{answer}.{gender}.txt\tThe {job} told the customer that {pronoun} could pay.\n"
        for job in ("technician", "nurse")
        for answer in (0, 1)
        for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
    )
    app = open_page("evaluate/evaluations.py", safety="1")
    assert next(one for one in app.expander if one.label == "Add a safety probe").proto.expanded
    app.text_input(key="safety_name_0").set_value("winogender")
    files = {
        "all_sentences.tsv": sentences,
        "occupations-stats.tsv": "occupation\tbls_pct_female\ntechnician\t40\nnurse\t90\n",
    }
    for name, text in files.items():
        app.file_uploader(key="safety_file_0").upload(name, text.encode(), "text/tab-separated-values")
    app.run()
    app.button(key="safety_add").click().run()
    shown(app)
    assert [error.value for error in app.error] == []
    (probe,) = list_probes(site)
    assert (probe.probe, probe.source) == (Probe.PRONOUNS, "all_sentences.tsv, occupations-stats.tsv")
    rows, occupations = rows_of_upload({name: text.encode() for name, text in files.items()})
    assert (len(rows), len(occupations or ())) == (12, 2)
    assert app.text_input(key="safety_name_1").value == ""


def test_a_benchmark_that_was_imported_is_offered_as_a_probe(site: Context, scenario: Scenario) -> None:
    """Its file had to be given again."""
    row = {
        "example_id": 1,
        "category": "Age",
        "context_condition": "ambig",
        "question_polarity": "neg",
        "context": "An old and a young person came.",
        "question": "Who forgot?",
        "ans0": "The old one",
        "ans1": "The young one",
        "ans2": "Unknown",
        "label": 2,
        "answer_info": {"ans0": ["", "old"], "ans1": ["", "nonOld"], "ans2": ["", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
    }
    scenario.dataset("elders", kind="records", train=[{"record": json.dumps(row)}], val=[{"record": json.dumps(row)}])
    scenario.dataset("tales")
    app = open_page("evaluate/evaluations.py", safety="1")
    box = app.selectbox(key="safety_dataset_0")
    assert box.options == ["none: a file", "elders"]
    box.set_value("elders")
    app.text_input(key="safety_name_0").set_value("bbq")
    app.run()
    app.button(key="safety_add").click().run()
    (probe,) = list_probes(site)
    assert (probe.probe, probe.items, probe.source) == (Probe.BBQ, 2, "dataset elders")
    assert app.selectbox(key="safety_dataset_1").options == ["none: a file", "elders"]


def test_the_page_of_probes_runs_them(measured: tuple[Context, EvaluationView]) -> None:
    """It had a list and no *Run*."""
    ctx, before = measured
    app = open_page("evaluate/evaluations.py", safety="1")
    shown(app)
    assert app.button(key="safety_run_here").disabled, "no checkpoint is chosen yet"
    app.selectbox(key="safety_checkpoint").select(resolve_checkpoint(ctx, "base").id).run()
    app.number_input(key="safety_limit_here").set_value(0).run()
    assert app.button(key="safety_run_here").disabled
    app.number_input(key="safety_limit_here").set_value(5).run()
    app.button(key="safety_run_here").click().run()
    shown(app)
    (launched,) = [one for one in list_evaluations(ctx) if one.config.limit == 5]
    assert (launched.checkpoint, launched.version_id) == ("base", before.version_id)
