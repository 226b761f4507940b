"""An endpoint as an engine, over real HTTP: answers, echoed log-probabilities, retries, and calls that fail for
good.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest

from backend.errors import InvalidInput, JobFailed, Unavailable
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api import calls
from jobs.evaluation.choices import choice_values
from jobs.evaluation.engines.base import PromptRequest, Sampling, ScoreRequest
from jobs.evaluation.engines.openai_http import MAX_FAILURES, EndpointEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.evaluation_rooms import score_request
from tests.support.fake_api import FakeApi, serve_api
from tests.support.gateway_fixtures import MemoryDirectory, gateway
from tests.support.networks.inspection_networks import make_network
from tests.support.serving_replica import TOKEN, RunningReplica


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serve_api() as served:
        yield served


def message(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def engine_of(api: FakeApi, **values: Any) -> EndpointEngine:
    return EndpointEngine(api.url, model="m", **{"first_pause_s": 0.0, **values})


def test_answers_end_at_stop_strings_and_the_key_is_sent(api: FakeApi) -> None:
    engine = engine_of(api, key="secret")
    requests = [
        PromptRequest(message("abc"), stop=("a",), sampling=Sampling(max_tokens=7, seed=2)),
        PromptRequest("xyz"),
    ]
    results = dict(pair for batch in engine.generate(requests) for pair in batch)
    assert [results[index][0].text for index in range(2)] == ["cb", "zyx"]
    at = next(index for index, (path, _) in enumerate(api.received) if path == "/v1/chat/completions")
    body = api.received[at][1]
    assert (body["model"], body["max_tokens"], body["seed"], api.headers[at]["Authorization"]) == (
        "m",
        7,
        2,
        "Bearer secret",
    )
    assert engine.spent(requests[0]) == {"prompt_tokens": 3.0, "completion_tokens": 5.0}
    assert engine.spent(requests[0]) == {}, "tokens are counted once"
    assert engine.reported_model == "m-0715"


@pytest.mark.parametrize("begins", ["", "<|bos|>"])
def test_echoed_logprobs_are_those_of_the_continuation(api: FakeApi, begins: str) -> None:
    """A token that the tokenizer puts before each text was counted as a part of it, by as many characters."""
    api.echo, api.begins = True, begins
    ((_, scores),) = next(engine_of(api).score([score_request("question", [" ab", " c"])]))
    assert [score.sum_logprob for score in scores] == pytest.approx([-(0 + 1 + 2) / 10, -(0 + 3) / 10])
    assert [score.tokens for score in scores] == [3, 2]
    assert scores[0].greedy


@pytest.fixture(scope="module")
def network_and_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EvaluatedNetwork, str]]:
    """A network whose tokenizer begins each text with a token of its own, and the gateway before its replica."""
    folder, network, tokenizer = tmp_path_factory.mktemp("replica"), make_network("llama"), byte_tokenizer(context=96)
    network.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    replica = RunningReplica(folder)
    address = ReplicaAddress(id="r1", url=replica.url, token=TOKEN)
    with gateway(MemoryDirectory({"tiny": [address]}, keys_required=False)) as url:
        yield EvaluatedNetwork(network, tokenizer, False), f"{url}/v1"
    replica.stop()


def test_an_endpoint_scores_choices_as_its_checkpoint_does(network_and_url: tuple[EvaluatedNetwork, str]) -> None:
    """The prompt's last words were scored in place of each choice."""
    network, url = network_and_url
    requests = [
        score_request("Thimble belongs to", [" Lottie", " Kesh", " Dunn", " Nell"]),
        score_request("Stolicą Śląska są", [" Katowice", " Łódź", " Żory", "ą"]),
        score_request("Fußgänger:", ["Übergang", " é", " 東京"]),
    ]
    engine = EndpointEngine(url, model="tiny", first_pause_s=0.0)
    of_endpoint, of_checkpoint = (
        dict(pair for batch in one.score(requests) for pair in batch) for one in (engine, PlainEngine(network))
    )
    for index in range(len(requests)):
        for score, expected in zip(of_endpoint[index], of_checkpoint[index], strict=True):
            assert (score.tokens, score.greedy) == (expected.tokens, expected.greedy)
            assert score.sum_logprob == pytest.approx(expected.sum_logprob, abs=1e-3)


@pytest.mark.parametrize("failures", [[429, 503], [b"<html>a proxy's page</html>", b"[]"]], ids=["busy", "malformed"])
def test_an_endpoint_that_is_busy_or_answers_no_json_is_asked_again(api: FakeApi, failures: list[int | bytes]) -> None:
    api.failures = list(failures)
    ((_, (answer,)),) = next(engine_of(api).generate([PromptRequest("busy")]))
    assert (answer.text, answer.failed, len(api.received)) == ("ysub", "", 3)


def test_the_pause_that_a_busy_endpoint_asks_for_is_kept_and_ends_with_a_stop(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_PAUSE_S", 3600.0)  # no test waits for its end
    api.failures, api.retry_after = [429], "3600"

    def stop() -> None:
        if api.received:
            raise JobFailed("The job was stopped on request.")

    with pytest.raises(JobFailed):
        list(engine_of(api, check_stop=stop).generate([PromptRequest("x")]))
    assert len(api.received) == 1


@pytest.mark.parametrize(
    "body", [b'{"choices": []}', b'{"choices": [{"text": null}], "usage": "none"}', b'{"choices": ["x"]}']
)
def test_a_body_without_a_text_is_no_crash(api: FakeApi, body: bytes) -> None:
    api.failures = [body]
    ((_, (answer,)),) = next(engine_of(api).generate([PromptRequest("x")]))
    assert answer.text == ""
    assert bool(answer.failed) == (b"null" not in body)


def test_a_call_that_fails_for_good_is_missing_and_many_in_a_row_end_the_work(api: FakeApi) -> None:
    api.failures = [500] * calls.ATTEMPTS
    ((_, (answer,)),) = next(engine_of(api).generate([PromptRequest("x")]))
    assert (answer.finish_reason, "500" in answer.failed) == ("failed", True)
    api.echo, api.failures = True, [500] * calls.ATTEMPTS
    ((_, scores),) = next(engine_of(api).score([score_request("question", [" a", " b"])]))
    assert math.isnan(scores[0].sum_logprob)
    assert choice_values(scores, ["a", "b"], [0]) == {"missing": 1.0}
    api.failures = [400] * 99
    with pytest.raises(Unavailable, match=f"{MAX_FAILURES} calls in a row failed, the last with: 400"):
        list(engine_of(api, concurrency=1).generate([PromptRequest(str(n)) for n in range(50)]))


def test_what_was_answered_before_an_error_is_given_out_first(api: FakeApi) -> None:
    api.answer = lambda prompt: prompt
    results: list[int] = []
    api.failures = [*([400] * (MAX_FAILURES - 1)), b'{"choices": [{"text": "paid"}]}', *([400] * MAX_FAILURES)]
    batches = engine_of(api, concurrency=1).generate([PromptRequest(str(n)) for n in range(60)])
    with contextlib.suppress(Unavailable):
        for batch in batches:
            results += [index for index, (answer,) in batch if not answer.failed]
    assert next(batches, None) is None, "it ended"
    assert results == [MAX_FAILURES - 1]


def test_wrong_key_ends_the_work_without_showing_the_key(api: FakeApi) -> None:
    api.key = "right"
    with pytest.raises(Unavailable, match="401") as caught:
        list(engine_of(api, key="wrong-sesame").generate([PromptRequest("x")]))
    assert "sesame" not in str(caught.value)
    with pytest.raises(Unavailable, match="can't be reached: connection refused"):
        list(EndpointEngine("http://127.0.0.1:9/v1", model="m", first_pause_s=0.0).generate([PromptRequest("x")]))


def test_what_an_endpoint_can_not_score_is_refused(api: FakeApi) -> None:
    with pytest.raises(InvalidInput, match="not a chat template"):
        list(engine_of(api).score([ScoreRequest((([1], [2]),))]))
    with pytest.raises(InvalidInput, match="refuses to echo"):
        list(engine_of(api).score([score_request("question", [" a"])]))
