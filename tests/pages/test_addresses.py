"""Addresses that name something unknown: every page says so, and has a way on; nothing else is shown in its place
unsupported.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from pages.components import routes
from tests.support.opening import open_page, words
from tests.support.scenario import Scenario

UNKNOWN = "nosuch"
SAID = [
    (routes.DATASETS, "dataset"),
    (routes.ARCHITECTURES, "architecture"),
    (routes.ARCHITECTURES, "tokenizer"),
    (routes.TOKENIZERS, "tokenizer"),
    (routes.TOKENIZERS, "compare"),
    (routes.PLANNER, "study"),
    (routes.LAUNCH, "run"),
    (routes.LAUNCH, "dataset"),
    (routes.LAUNCH, "base"),
    (routes.RUNS, "compare"),
    (routes.RUN, "run"),
    (routes.SWEEP, "sweep"),
    (routes.CHECKPOINTS, "checkpoint"),
    (routes.INSPECT, "checkpoint"),
    (routes.INSPECT, "reading"),
    (routes.EVALUATIONS, "evaluation"),
    (routes.EVALUATIONS, "checkpoint"),
    (routes.EVALUATIONS, "dataset"),
    (routes.BATTLES, "campaign"),
    (routes.BALLOT, "campaign"),
    (routes.ENDPOINTS, "checkpoint"),
    (routes.PLAYGROUND, "conversation"),
    (routes.PLAYGROUND, "endpoint"),
    (routes.PROMPTS, "prompt"),
]


@pytest.mark.parametrize(("script", "field"), SAID, ids=[f"{routes.address(script)}?{field}" for script, field in SAID])
def test_an_unknown_id_is_reported_with_a_link(scenario: Scenario, script: str, field: str) -> None:
    scenario.parts()
    query = {field: UNKNOWN, **({"view": "Studies"} if field == "study" else {})}
    app = open_page(script, **query)
    messages = "\n".join(str(part.value) for part in [*app.error, *app.warning]).replace("\\", "")
    assert UNKNOWN in messages or "There is no such" in messages
    assert "went wrong on our side" not in messages
    assert app.button or app.get("page_link"), "a way on"


def test_an_unknown_version_or_report_of_a_dataset_is_reported(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    (dataset,) = list_datasets(site)
    for query in ({"version": "99"}, {"report": UNKNOWN}):
        app = open_page(routes.DATASETS, dataset=dataset.id, **query)
        assert next(iter(query.values())) in "\n".join(part.value for part in app.warning)


def test_the_link_back_clears_the_address(site: Context) -> None:
    app = open_page(routes.BATTLES, campaign=UNKNOWN)
    app.button(key="frame_back").click().run()
    assert not app.error
    assert "campaign" not in app.query_params
    assert "There is no such" not in words(app)


def test_what_one_page_was_filtered_by_does_not_filter_another(site: Context) -> None:
    app = open_page(routes.RUNS, find="ta", archived="true")
    assert app.text_input(key="find").value == "ta"
    app.query_params.clear()
    app.switch_page(routes.CHECKPOINTS).run()
    assert app.text_input(key="find").value == ""
    assert app.toggle(key="archived").value is False


def test_what_one_dataset_was_filtered_by_does_not_filter_another(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("fables")
    first, second = list_datasets(site)
    app = open_page(routes.DATASETS, dataset=first.id, find="ta", **{"from": "inf"})
    assert app.text_input(key="find").value == "ta"
    app.query_params.clear()
    app.query_params["dataset"] = second.id
    assert app.run().text_input(key="find").value == ""


def test_what_the_address_holds_is_kept_on_the_next_page(site: Context) -> None:
    app = open_page(routes.MONITOR)
    app.query_params["find"] = "oak"
    app.switch_page(routes.CHECKPOINTS).run()
    assert app.text_input(key="find").value == "oak"


def test_every_name_that_several_modules_bind_to_the_address_is_shared() -> None:
    pages = Path(routes.__file__).parents[1]
    uses = Counter(
        name
        for path in pages.rglob("*.py")
        for name in set(re.findall(r'key="(\w+)",\s+bind="query-params"', path.read_text()))
    )
    assert {name for name, count in uses.items() if count > 1} <= set(routes.SHARED_NAMES)
