"""Runs compared on the page: what may be concluded, and when losses say nothing about each other."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from backend.services.training.views import RunView
from tests.support.opening import open_page
from tests.support.scenario import Scenario


@pytest.fixture(autouse=True)
def _other_parts(scenario: Scenario) -> None:
    scenario.dataset("poems")
    scenario.tokenizer("coarse")


def compare(*runs: RunView) -> AppTest:
    """The page Runs with these ticked."""
    return open_page("build/runs.py", compare=",".join(run.id for run in runs))


def said(app: AppTest) -> str:
    """What the page says of the comparison, without the escapes of Markdown."""
    return "\n".join(str(part.value) for part in [*app.warning, *app.markdown]).replace("\\", "")


def test_runs_on_other_data_are_not_comparable_and_the_page_says_why(scenario: Scenario) -> None:
    app = compare(
        scenario.finished(2.0, name="on-tales", bpb=0.7),
        scenario.finished(1.2, name="on-poems", bpb=0.4, dataset="poems"),
    )
    text = said(app)
    assert "Not comparable by loss." in text
    assert "Different validation data: tales@1 (on-tales), poems@1 (on-poems)." in text
    assert "on-tales** against **on-poems**: not comparable. Bits per byte: 0.7000 against 0.4000" in text
    assert "seed noise" not in text


def test_runs_with_other_tokenizers_are_compared_by_bits_per_byte(scenario: Scenario) -> None:
    runs = [scenario.finished(2.0, name=f"fine-{seed}", bpb=0.70 + seed / 1000, seed=seed) for seed in (1, 2)]
    runs += [
        scenario.finished(2.6, name=f"coarse-{seed}", bpb=0.60 + seed / 1000, seed=seed, tokenizer="coarse")
        for seed in (1, 2)
    ]
    text = said(compare(*runs))
    assert "Different tokenizers: pieces (fine-1, fine-2), coarse (coarse-1, coarse-2)." in text
    assert "Compare bits per byte instead" in text
    assert (
        "coarse-1** against **fine-1**: not comparable by validation loss (different tokenizers); by bits per byte a"
        " difference" in text
    )
    assert "of 0.1000, more than seed noise" in text


def test_without_bits_per_byte_other_tokenizers_have_no_common_metric(scenario: Scenario) -> None:
    text = said(compare(scenario.finished(2.0, name="fine"), scenario.finished(2.6, name="coarse", tokenizer="coarse")))
    assert "Bits per byte, which would be comparable, were not measured." in text
    assert "seed noise" not in text


def test_comparable_runs_are_compared_as_before(scenario: Scenario) -> None:
    text = said(compare(scenario.finished(2.0, name="a"), scenario.finished(1.9, name="b", learning_rate=0.01)))
    assert "Not comparable" not in text
    assert "b** against **a**: a difference in last validation loss of 0.1000, which may be seed noise" in text


def test_a_ticked_run_of_another_page_of_the_list_stays_in_it(scenario: Scenario) -> None:
    first = scenario.finished(2.0, name="oldest")
    for number in range(51):
        scenario.run(name=f"later {number}")
    app = compare(first)
    (rows,) = [part for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_run_table"]
    assert f'"id":"{first.id}"' in rows.proto.json.replace(" ", "")
