"""An endpoint as an engine, over real HTTP: answers, echoed log-probabilities, retries, and calls that fail for good."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from backend.errors import InvalidInput, Unavailable
from jobs.evaluation.choices import choice_values
from jobs.evaluation.engines.base import GenerateRequest, Sampling, ScoreRequest
from jobs.evaluation.engines.openai_http import EndpointEngine


class Endpoint(BaseHTTPRequestHandler):
    """Says the prompt backwards; every character is a token, with log-probability minus its place in the alphabet."""

    received: ClassVar[list[tuple[str, dict[str, Any], str | None]]] = []
    failures: ClassVar[dict[str, list[int]]] = {}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body.get("prompt") or body["messages"][0]["content"]
        type(self).received.append((self.path, body, self.headers.get("Authorization")))
        waiting = self.failures.get(prompt, [])
        status = waiting.pop(0) if waiting else 200
        choice: dict[str, Any] = {"text": prompt[::-1], "message": {"content": prompt[::-1]}, "finish_reason": "stop"}
        if body.get("echo"):
            values = [None, *(-(ord(letter) % 32) / 10 for letter in prompt[1:])]
            tops = [None, *({letter: value} for letter, value in zip(prompt[1:], values[1:], strict=True))]
            choice["logprobs"] = {"token_logprobs": values, "text_offset": list(range(len(prompt))), "top_logprobs": tops}
        answer = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Endpoint.received, Endpoint.failures = [], {}
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_answers_end_at_stop_strings_and_the_key_is_sent(url: str) -> None:
    engine = EndpointEngine(url, model="m", key="secret", chat=True)
    requests = [GenerateRequest("abc", stop=("a",), sampling=Sampling(max_tokens=7, seed=2)), GenerateRequest("xyz")]
    results = dict(pair for batch in engine.generate(requests) for pair in batch)
    assert [results[index][0].text for index in range(2)] == ["cb", "zyx"]
    path, body, authorization = next(call for call in Endpoint.received if call[1]["messages"][0]["content"] == "abc")
    assert (path, authorization, body["model"], body["max_tokens"], body["seed"]) == ("/v1/chat/completions", "Bearer secret", "m", 7, 2)


def test_echoed_logprobs_are_those_of_the_continuation(url: str) -> None:
    engine = EndpointEngine(url, model="m")
    ((_, scores),) = next(engine.score([ScoreRequest.of("question", [" ab", " c"])]))
    assert [score.sum_logprob for score in scores] == pytest.approx([-(0 + 1 + 2) / 10, -(0 + 3) / 10])
    assert [score.tokens for score in scores] == [3, 2]
    assert scores[0].greedy


def test_busy_endpoint_is_asked_again_and_a_failed_call_is_missing(url: str) -> None:
    Endpoint.failures = {"busy": [429, 503], "broken": [500] * 9, "question a": [500] * 9}
    engine = EndpointEngine(url, model="m", first_pause_s=0.0)
    results = dict(pair for batch in engine.generate([GenerateRequest("busy"), GenerateRequest("broken")]) for pair in batch)
    assert (results[0][0].text, results[0][0].failed) == ("ysub", "")
    assert (results[1][0].finish_reason, "500" in results[1][0].failed) == ("failed", True)
    ((_, scores),) = next(engine.score([ScoreRequest.of("question", [" a", " b"])]))
    assert math.isnan(scores[0].sum_logprob)
    assert choice_values(scores, ["a", "b"], [0]) == {"missing": 1.0}


def test_wrong_key_ends_the_work_and_token_ids_are_refused(url: str) -> None:
    Endpoint.failures = {"x": [401]}
    with pytest.raises(Unavailable, match="401"):
        list(EndpointEngine(url, model="m").generate([GenerateRequest("x")]))
    with pytest.raises(Unavailable, match="can't be reached"):
        list(EndpointEngine("http://127.0.0.1:9/v1", model="m").generate([GenerateRequest("x")]))
    with pytest.raises(InvalidInput, match="not a chat template"):
        list(EndpointEngine(url, model="m").score([ScoreRequest((([1], [2]),))]))
