"""Work beside the requests: it outlives errors, and ends with the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from backend.gateway.app import every, running
from backend.gateway.usage import COUNTED_S, MAX_REFUSED, WINDOW_S, UsageWriter
from backend.services.serving.usage import UsageRow
from tests.support.gateway_fixtures import MemoryDirectory


def test_a_step_that_fails_is_tried_again_and_none_follows_the_end() -> None:
    steps: list[int] = []

    async def step() -> None:
        steps.append(len(steps))
        if len(steps) < 3:
            raise RuntimeError("not yet")

    async def run() -> int:
        async with running(every(0.001, step)):
            while len(steps) < 4:
                await asyncio.sleep(0.001)
        at_the_end = len(steps)
        await asyncio.sleep(0.01)
        return at_the_end

    assert asyncio.run(run()) == len(steps)


def test_a_batch_that_fails_while_the_gateway_ends_is_written_after_all() -> None:
    class Slow(MemoryDirectory):
        tries = 0
        loop: asyncio.AbstractEventLoop
        ending: asyncio.Event

        def record_usage(self, rows: Sequence[UsageRow]) -> None:
            self.tries += 1
            if self.tries == 1:
                self.loop.call_soon_threadsafe(self.ending.set)
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), self.loop).result()
                raise OSError("the database is away")
            super().record_usage(rows)

    async def run() -> None:
        directory.loop, directory.ending = asyncio.get_running_loop(), asyncio.Event()
        usage = UsageWriter(directory)
        usage.add(UsageRow("u1", "m", None, None, 1, 1, None, 1.0, "finished", datetime.now(UTC)))
        async with running(every(0.0, usage.flush)):
            await directory.ending.wait()
        await usage.close()

    directory = Slow({})
    asyncio.run(run())
    assert [row.id for row in directory.usage] == ["u1"]


def test_rows_that_the_database_refuses_at_first_are_written_before_the_gateway_ends() -> None:
    class Away(MemoryDirectory):
        tries = 0

        def record_usage(self, rows: Sequence[UsageRow]) -> None:
            self.tries += 1
            if self.tries < 3:
                raise OSError("the database is away")
            super().record_usage(rows)

    async def run() -> None:
        usage = UsageWriter(directory)
        usage.add(UsageRow("u1", "m", None, None, 1, 1, None, 1.0, "finished", datetime.now(UTC)))
        await usage.close()

    directory = Away({})
    asyncio.run(run())
    assert [row.id for row in directory.usage] == ["u1"]


def refusal(number: int, *, endpoint: str = "m", code: str = "rate_limit_exceeded", key: str = "k") -> UsageRow:
    return UsageRow(
        f"{key}-{code}-{number}", endpoint, key, None, 0, 0, None, 1.0, "refused", datetime.now(UTC), finish_reason=code
    )


def test_requests_refused_alike_are_rows_first_and_a_count_after_that() -> None:
    directory, now = MemoryDirectory({"m": []}), [0.0]

    async def run() -> None:
        usage = UsageWriter(directory, clock=lambda: now[0])
        for number in range(500):
            usage.add(refusal(number))
        usage.add(refusal(0, code="invalid_value"))
        usage.add(refusal(0, key="other"))
        await usage.flush()
        assert len(directory.usage) == MAX_REFUSED + 2
        now[0] = COUNTED_S
        await usage.flush()
        assert directory.usage[-1].requests == 500 - MAX_REFUSED
        now[0] = WINDOW_S + 1
        usage.add(refusal(500))
        usage.add(refusal(501))
        await usage.close()

    asyncio.run(run())
    assert len(directory.usage) == MAX_REFUSED + 2 + 1 + 2
    assert sum(row.requests for row in directory.usage) == 504
    assert [row.id for row in directory.usage[-2:]] == ["k-rate_limit_exceeded-500", "k-rate_limit_exceeded-501"]


def test_what_a_replica_refuses_in_a_loop_is_counted_with_what_it_took_and_for_no_job() -> None:
    directory = MemoryDirectory({"m": []})

    async def run() -> None:
        usage = UsageWriter(directory)
        for number in range(500):
            row = refusal(number, code="context_length_exceeded")
            usage.add(replace(row, replica_id="r", prompt_tokens=10, device_s=0.5, job_id=f"job-{number % 2}"))
        await usage.close()

    asyncio.run(run())
    assert len(directory.usage) == MAX_REFUSED + 1
    assert sum(row.requests for row in directory.usage) == 500
    assert sum(row.prompt_tokens for row in directory.usage) == 5000
    assert sum(row.device_s or 0.0 for row in directory.usage) == 250.0
    assert directory.usage[-1].job_id is None


def test_names_that_a_client_makes_up_are_counted_together() -> None:
    directory = MemoryDirectory({"m": []})

    async def run() -> None:
        usage = UsageWriter(directory)
        for number in range(100):
            usage.add(refusal(number, endpoint=f"made-up-{number}", code="model_not_found"))
        await usage.close()

    asyncio.run(run())
    assert len(directory.usage) == MAX_REFUSED + 1
    assert sum(row.requests for row in directory.usage) == 100
    assert directory.usage[-1].endpoint == "", "the rest stands for other names, too"


def test_wrong_keys_in_a_loop_are_two_rows_and_a_count() -> None:
    directory = MemoryDirectory({"m": []})

    async def run() -> None:
        usage = UsageWriter(directory)
        for number in range(100):
            usage.add(replace(refusal(number, endpoint="", code="invalid_api_key"), key_id=None))
        await usage.close()

    asyncio.run(run())
    assert [row.requests for row in directory.usage] == [1, 1, 98]


def test_answers_are_never_counted_together() -> None:
    directory = MemoryDirectory({"m": []})

    async def run() -> None:
        usage = UsageWriter(directory)
        for number in range(100):
            usage.add(UsageRow(f"u{number}", "m", "k", "r", 1, 1, None, 1.0, "finished", datetime.now(UTC)))
            usage.add(UsageRow(f"l{number}", "m", "k", "r", 1, 0, None, 1.0, "lost", datetime.now(UTC)))
        await usage.close()

    asyncio.run(run())
    assert len(directory.usage) == 200
