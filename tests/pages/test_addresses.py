"""Addresses that name something unknown: every page says so, and has a way on; nothing else is shown in its place
unsupported.
"""

from __future__ import annotations

import pytest

from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from pages.components import routes
from tests.support.opening import open_page, words
from tests.support.run_world import add_parts

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
def test_an_unknown_id_is_reported_with_a_link(site: Context, script: str, field: str) -> None:
    add_parts(site)
    query = {field: UNKNOWN, **({"view": "Studies"} if field == "study" else {})}
    app = open_page(script, **query)
    messages = "\n".join(str(part.value) for part in [*app.error, *app.warning]).replace("\\", "")
    assert UNKNOWN in messages or "There is no such" in messages
    assert "went wrong on our side" not in messages
    assert app.button or app.get("page_link"), "a way on"


def test_an_unknown_version_or_report_of_a_dataset_is_reported(site: Context) -> None:
    add_parts(site)
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
