"""Endpoints on the page of evaluations: added by a form, chosen in the launch form, refused where their API can't give
what is needed.
"""

from __future__ import annotations

from backend.services.context import LOCAL, Context
from backend.services.evaluation.endpoints.registry import add_endpoint, list_evaluated, read_endpoint_config
from backend.services.evaluation.evaluations import list_evaluations
from tests.support.battle_world import add_checkpoint
from tests.support.evaluation_world import ANSWERS, CHOICES, add_benchmark
from tests.support.fake_api import serve_api
from tests.support.opening import open_page, words


def test_an_api_is_added_and_its_first_evaluation_launched_with_the_requests_it_needs(site: Context) -> None:
    add_checkpoint(site, "Oak")
    add_benchmark(site, "questions", ANSWERS)
    with serve_api() as api:
        app = open_page("evaluate/evaluations.py", endpoints="1")
        app.text_input(key="endpoint_name").set_value("Far")
        app.text_input(key="endpoint_url").set_value(api.url)
        app.text_input(key="endpoint_model").set_value("m")
        app.text_input(key="endpoint_key_env").set_value("sk-proj-sesame").run()
        app.button(key="endpoint_add").click().run()
        assert "not the name of an environment variable" in words(app)
        assert list_evaluated(site) == []
        app.text_input(key="endpoint_key_env").set_value("").run()
        app.button(key="endpoint_add").click().run()
        assert not app.exception
        (far,) = list_evaluated(site)
        assert "chat, completions" in words(app)
    app = open_page("evaluate/evaluations.py", endpoint=far.key)
    assert not app.exception
    assert [metric.value for metric in app.metric if metric.label == "Requests to endpoints"] == ["6"]
    assert "no weights are loaded" in words(app)
    assert "--endpoint Far" in app.code[0].value
    app.button(key="eval_launch").click().run()
    assert [(one.checkpoint, one.checkpoint_id) for one in list_evaluations(site)] == [("Far", None)]


def test_a_benchmark_of_choices_is_refused_in_the_form_with_the_cure(site: Context) -> None:
    add_checkpoint(site, "Oak")
    add_benchmark(site, "facts", CHOICES)
    with serve_api() as api:
        far = add_endpoint(site, name="Far", config=read_endpoint_config(url=api.url, model="m"), person=LOCAL)
    text = words(open_page("evaluate/evaluations.py", endpoint=far.key)).replace("\\", "")
    assert "does not echo a prompt with its log-probabilities" in text
    assert "Score generated answers" in text
