"""Whose a request is: a job's requests to an own gateway are counted to it, another server gets no job; without keys,
clients are told apart all the same.
"""

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


def test_without_keys_clients_take_turns_by_address_user_and_job() -> None:
    """All counted as one, and a client with thirty long streams made another wait for them."""
    with scripted() as (replica, replica_url):
        addresses = {"small": [ReplicaAddress(id="r", url=replica_url, token="t")]}
        with gateway(MemoryDirectory(addresses, keys_required=False)) as url:

            def tenant(address: str = "127.0.0.1", headers: dict[str, str] | None = None, **body: str) -> str:
                with httpx2.Client(transport=httpx2.HTTPTransport(local_address=address)) as client:
                    asked = {"model": "small", "prompt": "Once", **body}
                    client.post(f"{url}/v1/completions", json=asked, headers=headers).raise_for_status()
                return str(replica.bodies[-1]["tenant"])

            job = {"X-Roundhouse-Job": "abcdefghjk23"}
            names = [tenant(), tenant("127.0.0.2"), tenant(user="ann"), tenant(user="bob"), tenant(headers=job)]
            assert len({*names}) == 5
            assert "" not in names
            assert tenant(user="ann") == names[2]
