"""Evaluations of endpoints: registered without a secret, refused early, run over HTTP, resumed, and shown beside
checkpoints.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.db.tables import Evaluation
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.evaluation.judges import JudgeConfig, JudgeItem
from backend.domain.evaluation.suites import read_suite
from backend.domain.jobs.states import Status
from backend.domain.openai_servers import Capabilities
from backend.domain.serving.upstream import Upstream
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, Unavailable
from backend.services.context import LOCAL, Context, Person
from backend.services.evaluation.board import read_board
from backend.services.evaluation.checks import launch_check
from backend.services.evaluation.comparisons import compare, list_comparable, refuse_unlike
from backend.services.evaluation.endpoints import (
    EvaluatedEndpointView,
    add_endpoint,
    list_evaluated,
    read_endpoint_config,
    remove_endpoint,
    resolve_evaluated,
)
from backend.services.evaluation.evaluations import (
    EvaluationView,
    get_evaluation,
    launch_again,
    launch_evaluation,
    list_evaluations,
)
from backend.services.evaluation.exchange import board_html, scores_csv
from backend.services.evaluation.forecasts import forecast_evaluations
from backend.services.evaluation.gates import create_gate, get_gate, judge, plan_gates
from backend.services.evaluation.judgements import Judge, launch_judgement
from backend.services.evaluation.safety.cards import safety_card
from backend.services.evaluation.safety.probes import add_probe
from backend.services.evaluation.safety.runs import run_safety
from backend.services.evaluation.suites import create_suite, list_suite_results, run_suite
from backend.services.job_events import prepare_claim
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import read_log
from backend.services.people.keys import check_key
from backend.services.serving.deployments import stop_endpoint
from backend.services.serving.own_keys import key_of
from backend.services.serving.upstreams import connect_upstream
from jobs.runner import execute
from tests.support.evaluation_world import ANSWERS, claim_of, finish, item, list_items
from tests.support.fake_api import FakeApi, serve_api
from tests.support.installation import wait_until
from tests.support.job_work import do_job
from tests.support.jobs import take_job
from tests.support.scenario import Scenario

KEY = "sesame-7f3a"
PROMPT_TOKENS = 3


def odd_numbers(prompt: str) -> str:
    """Answer a question with its number, where that is odd."""
    number = "".join(letter for letter in prompt if letter.isdigit())
    return number if number and int(number) % 2 else "no"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serve_api() as served:
        served.answer = odd_numbers
        yield served


def register(ctx: Context, api: FakeApi, name: str = "Far", **values: Any) -> str:
    return add_endpoint(
        ctx, name=name, config=read_endpoint_config(url=api.url, model="m", **values), person=LOCAL
    ).name


def work(ctx: Context, evaluation: EvaluationView) -> EvaluationView:
    """Run the job here."""
    do_job(ctx, evaluation.job_id)
    return get_evaluation(ctx, evaluation.id)


def work_in_child(ctx: Context, evaluation: EvaluationView) -> EvaluationView:
    """Run the job in a child process, as a worker does."""
    claim = claim_job(ctx, str(evaluation.job_id), owner="w#1", host="lab")
    assert claim is not None
    execute(ctx, claim)
    return get_evaluation(ctx, evaluation.id)


def test_an_endpoint_is_scored_over_http_with_its_tokens_and_price_and_stands_beside_checkpoints(
    ctx: Context, api: FakeApi
) -> None:
    register(ctx, api, input_price=10.0, output_price=20.0)
    launched = Scenario(ctx).evaluation(benchmark="questions", endpoint="Far")
    assert (launched.status, launched.settings["engine"]) == (Status.QUEUED, "openai_http")
    done = work(ctx, launched)
    assert done.status is Status.FINISHED, done.error
    assert (done.checkpoint, done.checkpoint_id, done.facts.endpoint, done.facts.model) == (
        "Far",
        None,
        "Far",
        "m-0715",
    )
    assert done.main_score is not None
    assert (done.main_score.value, done.main_score.n) == (0.5, 6)
    assert (done.facts.prompt_tokens, done.facts.completion_tokens) == (6 * PROMPT_TOKENS, 6 * 5)
    assert done.facts.price_usd == pytest.approx((18 * 10 + 30 * 20) / 1e6)
    assert sorted(api.prompts) == sorted(row["question"] for row in ANSWERS)
    shown, _ = list_items(ctx, done.id)
    assert shown[1].shown["completion"] == "1"
    (forecast,) = forecast_evaluations(
        ctx, [resolve_evaluated(ctx, "Far")], {"questions": EvaluationConfig()}
    ).evaluations
    assert (forecast.tokens, forecast.price) == ((18.0, 30.0), pytest.approx(done.facts.price_usd))
    assert forecast.time is not None
    assert "of this endpoint" in forecast.time.basis


def test_an_endpoint_with_echo_answers_choices_in_the_column_of_checkpoints(ctx: Context, api: FakeApi) -> None:
    api.echo = True
    register(ctx, api)
    far = work(ctx, Scenario(ctx).evaluation(benchmark="facts", endpoint="Far"))
    assert far.status is Status.FINISHED, far.error
    oak = Scenario(ctx).evaluation("Oak", "facts")
    assert [len(read_board(ctx).columns), len(read_board(ctx).rows)] == [
        1,
        2,
    ], "a waiting cell stands in the endpoint's column"
    items = [row for row, _ in zip(list_items(ctx, far.id, limit=99)[0], range(99), strict=False)]
    scored = [{**item(n, {"acc": float(n % 3 > 0)}), "item_hash": row.item_hash} for n, row in enumerate(items)]
    score = {"metric": "acc", "value": 0.65, "n": 40, "low": 0.5, "high": 0.8, "stderr": 0.07, "method": "Wilson"}
    facts = {
        "used_chat_template": False,
        "unit": "items",
        "number_format": "float32",
        "engine": "fast",
        "device": "cpu",
    }
    finish(ctx, claim_of(ctx, oak), scored, scores=[score], facts=facts)
    board = read_board(ctx)
    (column,) = board.columns
    assert {(row.checkpoint, row.is_endpoint) for row in board.rows} == {("Oak", False), ("Far", True)}
    assert len(board.scored(column.key)) == 2
    comparison = compare(ctx, oak.id, far.id, metric="acc")
    assert (comparison.n, any("engine" in words for words in comparison.differs)) == (40, True)
    assert [other.checkpoint for other in list_comparable(ctx, far)] == ["Oak"]
    assert "Far" in board_html(ctx)
    assert "Far" in scores_csv([far])
    refuse_unlike(far, get_evaluation(ctx, oak.id))


@pytest.mark.timeout(900)
def test_a_killed_evaluation_of_an_endpoint_resumes_without_asking_again(ctx: Context, api: FakeApi) -> None:
    rows = [{"question": f"What is {n}?", "answers": [str(n)]} for n in range(40)]
    Scenario(ctx).benchmark("many", rows)
    register(ctx, api, concurrency=2)
    answer = api.answer

    def stall(prompt: str) -> str:
        if len(api.prompts) >= 12:
            api.pause.clear()  # later requests wait
        return answer(prompt)

    api.answer = stall
    launched = Scenario(ctx).evaluation(benchmark="many", endpoint="Far")
    claim = claim_job(ctx, str(launched.job_id), owner="w#1", host="lab")
    assert claim is not None
    worker = threading.Thread(target=execute, args=(ctx, claim))
    worker.start()
    file = ctx.artifacts.job_folder(str(launched.job_id)) / "items.jsonl"
    wait_until(lambda: file.is_file() and len(file.read_text().splitlines()) >= 8, what="eight items")
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie has no command line
            if "jobs.run" in " ".join(child.cmdline()):
                child.kill()
    worker.join(60)
    assert get_evaluation(ctx, launched.id).status is Status.FAILED
    api.answer = answer
    api.pause.set()
    done = work_in_child(ctx, launch_again(ctx, launched, person=LOCAL))
    assert (done.id, done.status) == (launched.id, Status.FINISHED), done.error
    assert {row["question"] for row in rows} == set(api.prompts)
    assert len(api.prompts) - len(rows) <= 2, "only what was under way is asked again"
    assert done.main_score is not None
    assert (done.main_score.n, list_items(ctx, done.id, limit=1)[1]) == (40, 40)
    assert done.facts.completion_tokens == 40 * 5, "tokens of both attempts are counted, each item once"


def test_the_key_is_read_from_its_place_and_is_nowhere_in_the_installation(
    ctx: Context, api: FakeApi, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    api.key = KEY
    with pytest.raises(Unavailable, match="401"):
        register(ctx, api)
    with pytest.raises(Unavailable, match="FAR_KEY is not set"):
        register(ctx, api, key_env="FAR_KEY")
    monkeypatch.setenv("FAR_KEY", KEY)
    register(ctx, api, key_env="FAR_KEY")
    done = work_in_child(ctx, Scenario(ctx).evaluation(benchmark="questions", endpoint="Far"))
    assert done.status is Status.FINISHED, done.error
    file = home / "key"
    file.write_text(f"{KEY}\n")
    register(ctx, api, name="Filed", key_file=str(file))
    filed = work(ctx, Scenario(ctx).evaluation(benchmark="questions", endpoint="Filed"))
    assert filed.status is Status.FINISHED, filed.error
    file.unlink()
    monkeypatch.delenv("FAR_KEY")
    failed = work(ctx, launch_again(ctx, done, person=LOCAL, again=True))
    assert (failed.status, failed.error.cause) == (Status.FAILED, "The environment variable FAR_KEY is not set here.")
    assert not any(KEY in line for line in read_log(ctx, str(done.job_id)))
    with sqlite3.connect(home / "models.db") as database:
        assert not any(KEY in line for line in database.iterdump())
    written = [path for path in home.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert written == []


@pytest.mark.parametrize("value", [KEY, "sk-proj-abc", "ROUNDHOUSE_BROKER_URL"])
def test_a_key_in_place_of_its_variable_is_refused_without_being_repeated(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_endpoint_config(url="https://host/v1", model="m", key_env=value)
    assert value == "ROUNDHOUSE_BROKER_URL" or value not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["host/v1", "ftp://host/v1", "https://user:pw@host/v1", "https://host/v1?key=x", "http://", "http://host:x/v1"],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_endpoint_config(url=url, model="m")
    assert "pw" not in str(caught.value)


def test_what_an_api_can_not_give_is_refused_before_the_queue_with_its_cure(ctx: Context, api: FakeApi) -> None:
    for name in ("facts", "questions", "stories"):
        Scenario(ctx).benchmark(name)
    register(ctx, api)
    launch = {"endpoint": "Far", "person": LOCAL}
    with pytest.raises(InvalidInput, match=r"needs log-likelihoods.*does not echo") as caught:
        launch_evaluation(ctx, benchmark="facts", **launch)
    assert "Score generated answers" in caught.value.remedy
    with pytest.raises(InvalidInput, match="needs log-likelihoods"):
        forecast_evaluations(ctx, [resolve_evaluated(ctx, "Far")], {"facts": EvaluationConfig()})
    with pytest.raises(InvalidInput, match="loss on whole texts"):
        launch_evaluation(ctx, benchmark="stories", **launch)
    with pytest.raises(InvalidInput, match="engine is plain"):
        launch_evaluation(ctx, benchmark="questions", config=EvaluationConfig(engine="plain"), **launch)
    generated = EvaluationConfig(kind="generation")
    assert launch_evaluation(ctx, benchmark="facts", config=generated, **launch).status is Status.QUEUED
    api.completions = False
    register(ctx, api, name="Chat only")
    with pytest.raises(InvalidInput, match="no completions of a text"):
        Scenario(ctx).evaluation(benchmark="questions", endpoint="Chat only", chat="off")
    api.chat = False
    with pytest.raises(InvalidInput, match="no chat completions and no completions"):
        register(ctx, api, name="Nothing")


def test_accounts_add_no_address_and_names_are_unique(ctx: Context, scenario: Scenario, api: FakeApi) -> None:
    config = read_endpoint_config(url=api.url, model="m")
    with pytest.raises(NotAllowed, match="can't name an address"):
        add_endpoint(ctx, name="Far", config=config, person=Person("u", "Ada", "admin"))
    register(ctx, api)
    with pytest.raises(Conflict, match="already"):
        register(ctx, api)
    with pytest.raises(NotFound, match="There are: Far"):
        scenario.evaluation(benchmark="questions", endpoint="Fer")
    assert resolve_evaluated(ctx, api.url, model="m").name == "Far"
    with pytest.raises(NotFound, match="with the model 'x'"):
        resolve_evaluated(ctx, api.url, model="x")
    with pytest.raises(InvalidInput, match="one subject"):
        launch_evaluation(ctx, benchmark="questions", person=LOCAL)


def test_a_removed_api_keeps_its_evaluations_and_comes_back_with_them(ctx: Context, api: FakeApi) -> None:
    register(ctx, api)
    done = work(ctx, Scenario(ctx).evaluation(benchmark="questions", endpoint="Far"))
    remove_endpoint(ctx, "Far", person=LOCAL)
    assert list_evaluated(ctx) == []
    assert get_evaluation(ctx, done.id).checkpoint == "Far"
    with pytest.raises(NotFound):
        launch_again(ctx, done, person=LOCAL)
    register(ctx, api)
    reused = Scenario(ctx).evaluation(benchmark="questions", endpoint="Far")
    assert (reused.id, reused.reused) == (done.id, True)
    with pytest.raises(InvalidInput, match="model of an endpoint is not here"):
        launch_check(ctx, done.id, person=LOCAL)
    with ctx.db.read() as session:
        payload = session.get_one(Evaluation, done.id).record.model_dump_json()
    assert "key_env" not in payload


def scored(ctx: Context, evaluation: EvaluationView, right: list[float]) -> None:
    """Finish an evaluation of generated answers, as its job would."""
    items = [item(n, {"exact_match": value}, completion="x") for n, value in enumerate(right)]
    share = sum(right) / len(right)
    score = {"metric": "exact_match", "value": share, "stderr": 0.1, "low": 0.0, "high": 1.0, "n": len(right)}
    facts = {"unit": "items", "used_chat_template": False}
    finish(ctx, claim_of(ctx, evaluation), items, scores=[{**score, "method": "Wilson"}], facts=facts)


def test_a_suite_runs_on_an_endpoint_and_names_what_the_api_can_t_give(
    ctx: Context, scenario: Scenario, api: FakeApi
) -> None:
    scenario.checkpoint("Oak")
    scenario.benchmark("facts")
    scenario.benchmark("questions")
    register(ctx, api)
    create_suite(ctx, read_suite("{name: core, members: [questions, facts]}"), person=LOCAL)
    result = run_suite(ctx, "core", endpoint="Far", person=LOCAL)
    answered, refused = result.members
    assert answered.evaluation is not None
    assert (result.checkpoint, result.checkpoint_id, answered.evaluation.checkpoint) == ("Far", None, "Far")
    assert "does not echo" in refused.error
    scored(ctx, answered.evaluation, [1.0, 0.0])
    (listed,) = list_suite_results(ctx)
    assert (listed.endpoint is not None, listed.num_finished, listed.run_id) == (True, 1, None)
    with pytest.raises(InvalidInput, match="one subject"):
        run_suite(ctx, "core", checkpoint="Oak", endpoint="Far", person=LOCAL)
    with pytest.raises(NotFound, match="no endpoint 'Fer'"):
        run_suite(ctx, "core", endpoint="Fer", person=LOCAL)


def test_an_endpoint_has_the_averages_of_a_suite_whose_text_it_can_t_score(
    ctx: Context, scenario: Scenario, api: FakeApi
) -> None:
    """Bits per byte are left out of averages anyway, and without them the endpoint never had one."""
    scenario.checkpoint("Oak")
    scenario.benchmark("questions")
    scenario.benchmark("stories")
    register(ctx, api)
    create_suite(ctx, read_suite("{name: core, members: [questions, stories]}"), person=LOCAL)
    result = run_suite(ctx, "core", endpoint="Far", person=LOCAL)
    answered, refused = result.members
    assert answered.evaluation is not None
    assert refused.error
    assert result.macro is None
    scored(ctx, answered.evaluation, [1.0, 0.0])
    (done,) = list_suite_results(ctx)
    assert done.macro is not None
    assert done.macro.value == 0.5


def test_a_gate_judges_an_endpoint_against_a_checkpoint_and_an_api_and_counts_its_looks(
    ctx: Context, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scenario(ctx).checkpoint("Oak")
    Scenario(ctx).benchmark("long", [{"question": f"Q{n}?", "answers": ["a"]} for n in range(400)])
    register(ctx, api)
    add_endpoint(ctx, name="Near", config=read_endpoint_config(url=api.url, model="n"), person=LOCAL)
    right = [1.0, 1.0, 0.0] * 133
    for subject in ({"checkpoint": "Oak"}, {"endpoint": "Far"}, {"endpoint": "Near"}):
        config = EvaluationConfig(chat="off", limit=399)
        launched = launch_evaluation(ctx, benchmark="long", config=config, person=LOCAL, **subject)
        scored(ctx, launched, right if "Near" not in subject.values() else [0.0, 1.0, 0.0] * 133)
    for champion in ("Oak", "endpoint:Far"):
        values = {"champion": champion, "benchmarks": [{"benchmark": "long"}], "margin": 0.05}
        create_gate(ctx, name=f"like {champion[-3:]}", config=GateConfig.model_validate(values), person=LOCAL)
        assert judge(ctx, candidate="endpoint:Far", gate=f"like {champion[-3:]}", person=LOCAL).verdict == "PASS"
    worse = judge(ctx, candidate="endpoint:Near", gate="like Oak", person=LOCAL)
    assert (worse.verdict, worse.candidate, worse.champion) == ("FAIL", "Near", "Oak")
    assert [row.checkpoint for row in get_gate(ctx, "like Oak").results] == ["Near (endpoint)", "Far (endpoint)"]
    again = judge(ctx, candidate="endpoint:Near", gate="like Oak", person=LOCAL)
    assert again.decision.benchmarks[0].look == 1  # the same evaluations judged again are the same look
    repeated = Scenario(ctx).evaluation(benchmark="long", endpoint="Near", config=config, again=True)
    scored(ctx, repeated, [0.0, 1.0, 0.0] * 133)
    third = judge(ctx, candidate="endpoint:Near", gate="like Oak", person=LOCAL)
    assert third.decision.benchmarks[0].look == 2
    assert judge(ctx, candidate="Oak", gate="like Far", person=LOCAL).verdict == "PASS"
    monkeypatch.setattr("backend.services.evaluation.evaluations.identity_of", lambda ctx, view: "another checkpoint")
    changed = judge(ctx, candidate="endpoint:Near", gate="like Oak", person=LOCAL)
    assert (changed.verdict, len(changed.missing)) == ("INCONCLUSIVE", 1), "what it served before is not its score"
    with pytest.raises(NotFound, match="no endpoint 'Fer'"):
        judge(ctx, candidate="endpoint:Fer", gate="like Oak", person=LOCAL)


def test_a_gate_s_champion_may_be_an_endpoint_of_a_connected_server(ctx: Context, api: FakeApi) -> None:
    Scenario(ctx).benchmark("long", [{"question": f"Q{n}?", "answers": ["a"]} for n in range(400)])
    connect_upstream(ctx, name="tales", upstream=Upstream.read({"url": api.url, "model": "qwen"}), person=LOCAL)
    register(ctx, api)
    values = {"champion": "endpoint:tales", "benchmarks": [{"benchmark": "long"}], "margin": 0.05}
    gate = GateConfig.model_validate(values)
    assert [plan.unknown for plan in plan_gates(ctx, gate)] == ["“tales” is not evaluated on it yet"]
    create_gate(ctx, name="release", config=gate, person=LOCAL)
    for name in ("tales", "Far"):
        config = EvaluationConfig(chat="off", limit=399)
        scored(
            ctx,
            Scenario(ctx).evaluation(benchmark="long", endpoint=name, config=config),
            [1.0, 1.0, 0.0] * 133,
        )
    assert plan_gates(ctx, gate)[0].power is not None
    passed = judge(ctx, candidate="endpoint:Far", gate="release", person=LOCAL)
    assert (passed.verdict, passed.champion, passed.missing) == ("PASS", "tales", ())
    assert judge(ctx, candidate="endpoint:tales", gate="release", person=LOCAL).verdict == "PASS"
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert judge(ctx, candidate="endpoint:Far", gate="release", person=LOCAL).verdict == "PASS"


def test_a_job_asks_an_own_endpoint_by_a_key_of_its_attempt_where_the_gateway_asks_for_one(
    ctx: Context, api: FakeApi
) -> None:
    """An evaluation in its own process, and the claim of a judge. Nothing is to be set, and the worker, on another
    machine, does not know that visitors sign in.
    """
    connect_upstream(ctx, name="tales", upstream=Upstream.read({"url": api.url, "model": "qwen"}), person=LOCAL)
    closed = replace(ctx, sign_in=True, gateway_url=api.url.removesuffix("/v1"))
    assert not ctx.sign_in
    evaluation = Scenario(closed).evaluation(benchmark="questions", endpoint="tales")
    api.headers.clear()
    assert execute(ctx, claim_of(ctx, evaluation)) is Status.FINISHED
    (sent,) = {headers["Authorization"].removeprefix("Bearer ") for headers in api.headers}
    assert sent.startswith("rh-")
    assert check_key(closed, sent) is None, "revoked with its attempt"
    asked = [JudgeItem(id="1", prompt="Why?", answer="So.")]
    config = JudgeConfig(canaries=0)
    job = launch_judgement(closed, judge=Judge("endpoint", "tales"), items=asked, config=config, person=LOCAL)
    claim = take_job(ctx, job.id)
    key = key_of(ctx, prepare_claim(ctx, claim))
    assert key is not None
    grant = check_key(closed, key)
    assert grant is not None
    assert grant.scopes.models == ("tales",)
    assert key not in str(claim.payload)
    open_ = launch_judgement(ctx, judge=Judge("endpoint", "tales"), items=asked, config=config, person=LOCAL)
    assert key_of(ctx, take_job(ctx, open_.id)) is None, "none where the gateway asks for none"


def test_safety_is_measured_on_an_endpoint_and_nothing_is_queued_where_a_probe_can_t_be(
    ctx: Context, api: FakeApi
) -> None:
    register(ctx, api)
    rows = [{"prompt": f"How do I kill process {n}?", "label": "safe"} for n in range(4)]
    add_probe(ctx, name="xs", rows=rows, source="own.csv", person=LOCAL)
    crows = [{"sent_more": f"They{n} lie.", "sent_less": f"We{n} lie.", "bias_type": "age"} for n in range(3)]
    add_probe(ctx, name="pairs", rows=crows, source="pairs.csv", person=LOCAL)
    with pytest.raises(InvalidInput, match="The probe “pairs” can't be measured"):
        run_safety(ctx, endpoint="Far", person=LOCAL)
    assert list_evaluations(ctx) == []
    assert safety_card(ctx, endpoint="Far").scores == ()
    (launched,) = run_safety(ctx, endpoint="Far", probes=["xs"], person=LOCAL)
    assert (launched.checkpoint, launched.endpoint is not None) == ("Far", True)
    assert safety_card(ctx, endpoint="Far").pending == 1


def test_an_own_endpoint_has_one_key_before_and_after_its_first_evaluation() -> None:
    """A form lost the choice of it at the launch, which stored its row, and kept that of checkpoints."""
    config, offers = EndpointConfig(model="tales"), Capabilities()
    keys = {EvaluatedEndpointView(row, "tales", config, offers).key for row in ("", "kb2n")}
    assert keys == {"tales"}
