"""Where a job of several machines runs, and what is missing."""

from __future__ import annotations

import pytest

from backend.domain.jobs.gangs import GangRequest, Machine, machines_that_suit, plan_gang, spread_over
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput


def gpus(host: str, total: int, free: int) -> Machine:
    return Machine(host, total, free, free_slots=free)


def cpu(host: str, *, is_free: bool = True) -> Machine:
    return Machine(host, 0, 0, free_slots=int(is_free))


@pytest.mark.parametrize(
    ("request_", "machines", "sentence"),
    [
        (GangRequest(2, 8), [gpus("a", 8, 8), gpus("b", 8, 8), cpu("c")], "Runs on a and b."),
        (
            GangRequest(2, 8),
            [gpus("a", 8, 8), gpus("b", 8, 7)],
            "Needs 2 machines at once: a is free; b is busy.",
        ),
        (
            GangRequest(2, 8),
            [gpus("a", 8, 8), gpus("b", 4, 4)],
            "Needs 2 machines with 8 GPUs each at once: only a is there. Start 1 training worker more.",
        ),
        (GangRequest(2, 1), [cpu("a"), cpu("b"), gpus("c", 1, 1)], "Runs on a and b."),
        (GangRequest(2, 1, "cpu"), [cpu("a"), gpus("c", 1, 1)], "Runs on a and c."),
        (
            GangRequest(2, 1, "gpu"),
            [cpu("a"), cpu("b")],
            "Needs 2 machines with 1 GPU each at once: none is there. Start 2 training workers more.",
        ),
        (GangRequest(3, 1), [], "Needs 3 machines at once: none is there. Start 3 training workers more."),
        (
            GangRequest(3, 1),
            [cpu("a", is_free=False), cpu("b", is_free=False), cpu("c", is_free=False)],
            "Needs 3 machines at once: a, b and c are busy.",
        ),
        (
            GangRequest(2, 1),
            [cpu("a"), cpu("b", is_free=False), cpu("c", is_free=False)],
            "Needs 2 machines at once: a is free; waits for 1 of b and c.",
        ),
    ],
)
def test_the_plan_says_where_a_job_runs_or_what_is_missing(
    request_: GangRequest, machines: list[Machine], sentence: str
) -> None:
    assert plan_gang(request_, machines).sentence == sentence


def test_a_job_that_lost_a_machine_takes_the_most_that_suit_of_those_that_are_left() -> None:
    left = [cpu("a"), cpu("b"), cpu("c")]
    assert plan_gang(GangRequest(4, 1, fewer=(2, 1)), left).count == 2
    assert plan_gang(GangRequest(4, 1), left).count == 0
    assert plan_gang(GangRequest(4, 1, fewer=(2, 1)), [*left, cpu("d", is_free=False)]).count == 4, "it waits for d"


def config(nodes: int, *, per_node: int = 1, micro_batch: int = 4, accum: int = 1, sharding: str = "ddp") -> RunConfig:
    return RunConfig(
        dataset="d",
        architecture="a",
        tokenizer="t",
        micro_batch=micro_batch,
        grad_accum_steps=accum,
        devices={"count": nodes * per_node, "nodes": nodes, "sharding": sharding},
    )


def test_fewer_machines_keep_the_sequences_of_a_step() -> None:
    spread = spread_over(config(4, per_node=2), 2)
    assert (spread.devices.count, spread.devices.nodes, spread.devices.per_node) == (4, 2, 2)
    assert (spread.micro_batch, spread.grad_accum_steps) == (4, 2)
    alone = spread_over(config(2), 1)
    assert (alone.devices.count, alone.micro_batch, alone.grad_accum_steps) == (1, 4, 2)
    assert machines_that_suit(config(4, micro_batch=1)) == (2, 1)
    assert machines_that_suit(config(4, micro_batch=1, sharding="fsdp")) == (), "its shares may not fit"
    with pytest.raises(InvalidInput, match="4 sequences"):
        spread_over(config(4, micro_batch=1), 3)
