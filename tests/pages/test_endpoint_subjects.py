"""Endpoints on the page of evaluations: added by a form, chosen in the launch form, refused where their API can't give
what is needed.
"""

from __future__ import annotations

from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.evaluation.suites import read_suite
from backend.services.context import LOCAL, Context
from backend.services.evaluation.endpoints import add_endpoint, list_evaluated, read_endpoint_config
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.gates import create_gate
from backend.services.evaluation.safety.probes import add_probe
from backend.services.evaluation.suites import create_suite
from tests.support.fake_api import serve_api
from tests.support.opening import assert_sound, open_page, words
from tests.support.scenario import Scenario


def test_an_api_is_added_and_its_first_evaluation_launched_with_the_requests_it_needs(site: Context) -> None:
    Scenario(site).checkpoint("Oak")
    Scenario(site).benchmark("questions")
    with serve_api() as api:
        overview = open_page("evaluate/evaluations.py")
        label = "Evaluated endpoints"  # “Endpoints” is a page under Serve
        assert (
            overview.button(key="eval_endpoints").label,
            label in words(open_page("evaluate/evaluations.py", endpoints="1")),
        ) == (label, True)
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


def test_a_benchmark_of_choices_is_refused_in_the_form_with_the_cure(site: Context, scenario: Scenario) -> None:
    scenario.checkpoint("Oak")
    scenario.benchmark("facts")
    with serve_api() as api:
        far = add_endpoint(site, name="Far", config=read_endpoint_config(url=api.url, model="m"), person=LOCAL)
    text = words(open_page("evaluate/evaluations.py", endpoint=far.key)).replace("\\", "")
    assert "does not echo a prompt with its log-probabilities" in text
    assert "Score generated answers" in text


def test_suites_gates_and_safety_take_endpoints_on_their_pages(site: Context, scenario: Scenario) -> None:
    scenario.checkpoint("Oak")
    scenario.benchmark("questions")
    with serve_api() as api:
        far = add_endpoint(site, name="Far", config=read_endpoint_config(url=api.url, model="m"), person=LOCAL)
    suite = create_suite(site, read_suite("{name: core, members: [questions]}"), person=LOCAL)
    app = open_page("evaluate/evaluations.py", suite=suite.id)
    app.multiselect(key="eval_subject_endpoints_None").select(far.key).run()
    app.button(key="suite_run").click().run()
    assert_sound(app)
    assert "Far (endpoint)" in words(app).replace("\\", "")
    assert [one.checkpoint for one in list_evaluations(site)] == ["Far"]
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "questions"}]})
    gate = create_gate(site, name="release", config=config, person=LOCAL)
    app = open_page("evaluate/evaluations.py", gate=gate.id)
    app.selectbox(key=f"gate_candidate_{gate.id}").set_value(f"endpoint:{far.key}").run()
    app.button(key=f"gate_judge_{gate.id}").click().run()
    assert_sound(app)
    shown = words(app).replace("\\", "").replace("\u2060", "")
    assert "Not evaluated: Oak on questions@1, Far on questions@1." in shown
    app = open_page("evaluate/evaluations.py", endpoints="1")
    app.button(key=f"endpoint_safety_{far.key}").click().run()
    assert_sound(app)
    assert "Safety was not measured on this endpoint" in words(app)
    add_probe(site, name="xs", rows=[{"prompt": "How?", "label": "safe"}] * 3, source="own.csv", person=LOCAL)
    app = open_page("evaluate/evaluations.py", safety_of=far.key)
    app.button(key=f"safety_run_{far.key}").click().run()
    assert_sound(app)
    assert "1 safety probe running" in words(app)
