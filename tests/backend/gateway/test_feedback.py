"""`POST /v1/feedback`, and what the gateway hands to the request log."""

from __future__ import annotations

import httpx2

from backend.gateway.directory import ReplicaAddress
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway, scripted

HEADERS = {"Authorization": f"Bearer {KEY}"}
BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "temperature": 0.5}


def test_bodies_reach_the_log_as_the_mode_says_and_feedback_names_their_request() -> None:
    with scripted() as (_, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t")]})
        with gateway(directory) as url:
            for number, (mode, extra) in enumerate(
                (("off", {}), ("metadata", {}), ("bodies", {}), ("bodies", {"X-Roundhouse-Log": "off"})), 1
            ):
                directory.log_modes = {"small": mode}  # type: ignore[dict-item]
                answer = httpx2.post(f"{url}/v1/chat/completions", json=BODY, headers=HEADERS | extra).json()
                logged = directory.last(number).logged
                if mode == "off" or extra:
                    assert logged is None
                    continue
                assert logged is not None
                assert logged.params == {"max_tokens": 10, "temperature": 0.5}
                assert (logged.messages, logged.answer) == (
                    ([{"role": "user", "content": "Hi"}], "w0 w1 w2 ") if mode == "bodies" else (None, None)
                )
            told = {"id": answer["id"], "rating": "down", "correction": "Hello."}
            assert httpx2.post(f"{url}/v1/feedback", json=told, headers=HEADERS).status_code == 200
            assert directory.feedback == [(answer["id"], -1, "Hello.")]
            misspelt = httpx2.post(f"{url}/v1/feedback", json={"id": "x", "value": 1}, headers=HEADERS)
            assert "the fields are id, rating, correction, comment" in misspelt.json()["error"]["message"]
            empty = httpx2.post(f"{url}/v1/feedback", json={"id": "x"}, headers=HEADERS)
            assert (empty.status_code, "rating" in empty.text) == (400, True)
            unknown = httpx2.post(f"{url}/v1/feedback", json={"id": "x", "rating": "up"}, headers=HEADERS)
            assert unknown.json()["error"]["code"] == "request_not_found"
