"""A job's requests to an own gateway are counted to it; another server gets no job."""

from __future__ import annotations

import httpx2

from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.calls import ApiClient
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway, scripted
from tests.support.installation import wait_until


def test_a_request_names_the_job_that_it_is_made_for() -> None:
    with scripted() as (_, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t", variant="canary1")]})
        with gateway(directory) as url:
            for job in ("abcdefghjk23", None):
                client = ApiClient(f"{url}/v1", model="small", key=KEY, job=job)
                client.call("completions", {"prompt": "Once", "max_tokens": 3})
                client.close()
            headers = {"Authorization": f"Bearer {KEY}", "X-Roundhouse-Job": "'; DROP TABLE usage"}
            httpx2.post(f"{url}/v1/completions", json={"model": "small", "prompt": "Once"}, headers=headers)
            wait_until(lambda: len(directory.usage) == 3)
    assert [row.job_id for row in directory.usage] == ["abcdefghjk23", None, None]
    assert {row.variant for row in directory.usage} == {"canary1"}
