"""Safety on the pages: the card and the drift of a checkpoint, folded items, probes; nothing of a hostile answer is
rendered.
"""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.evaluations import EvaluationView, list_evaluations
from tests.support.opening import open_page, words
from tests.support.safety_world import NO, YES, add_fine_tune, answered

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
