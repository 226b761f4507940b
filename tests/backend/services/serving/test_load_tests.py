"""Load tests as jobs: their targets and keys, their result beside the deployment, and its files."""

from __future__ import annotations

import csv
import json
import re
import string
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from tokenizers import Tokenizer, models

from backend.db.tables import Job, Replica
from backend.domain.jobs.load_test import LoadTestPayload
from backend.domain.jobs.states import Status
from backend.domain.serving.load import LoadConfig
from backend.domain.validation import read_values
from backend.errors import Conflict, InvalidInput, NotAllowed, Unavailable
from backend.gateway.directory import ReplicaAddress
from backend.services import job_events as outcomes
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import get_job, stop_job
from backend.services.jobs.recovery import recover_jobs
from backend.services.people.keys import check_key, create_key, list_keys
from backend.services.serving.load_tests import (
    find_load_job,
    list_load_tests,
    load_test_csv,
    load_test_json,
    read_arrivals,
    run_load_test,
    start_load_test,
)
from jobs.gang import MachineLost, give_up
from jobs.runner import execute
from tests.support.gateway_fixtures import MemoryDirectory, gateway, scripted
from tests.support.job_work import do_job
from tests.support.jobs import finish_job
from tests.support.serving.serving_world import ServingWorld

SMALL = LoadConfig(users=(2,), requests=4, warmup=1)


@pytest.fixture
def served(ctx: Context) -> Iterator[Context]:
    """An installation whose endpoint `tales` is a scripted replica behind a gateway."""
    ServingWorld(ctx).deploy()
    with scripted() as (_, replica_url):
        with ctx.db.write() as session:
            session.query(Replica).update({"url": replica_url})
        directory = MemoryDirectory(
            {"tales": [ReplicaAddress(id="r", url=replica_url, token="t")]}, keys_required=False
        )
        with gateway(directory) as url:
            yield replace(ctx, gateway_url=url)


def test_a_load_test_is_a_job_whose_result_stays_with_the_deployment(served: Context) -> None:
    job = start_load_test(served, "tales", SMALL, person=LOCAL)
    assert job.queue == "cpu", "the serving queue is full of replicas"
    with pytest.raises(Conflict, match="active"):
        start_load_test(served, "tales", SMALL, person=LOCAL)
    ended = do_job(served, job.id)
    assert ended.error.cause == ""
    (test,) = list_load_tests(served, "tales")
    (level,) = test.result.levels
    assert [level[side]["requests"] for side in ("gateway", "replica")] == [4, 4]
    assert level["gateway_overhead"]["ttft_p50_ms"] is not None
    assert (test.checkpoint, test.revision, test.result.replicas) == ("oak", 1, 1)
    assert "levels" not in ended.result, "kept once"
    assert json.loads(load_test_json(test))["levels"] == test.result.levels
    rows = list(csv.DictReader(load_test_csv(test).splitlines()))
    assert [(row["target"], row["requests"], row["errors"]) for row in rows] == [
        ("gateway", "4", "0"),
        ("replica", "4", "0"),
    ]
    assert float(rows[0]["ttft_p50_ms"]) == pytest.approx(level["gateway"]["ttft"]["p50_ms"])
    run_load_test(served, "tales", LoadConfig(users=(1,), requests=2, warmup=0, targets=("replica",)), person=LOCAL)
    newest = list_load_tests(served, "tales")[0]
    assert newest.result.levels[0]["gateway"] is None


def test_prompts_that_the_context_does_not_hold_are_refused_before_any_is_sent(served: Context) -> None:
    """All of 48 words failed at a model whose context of 64 tokens was known, in a table of zeros."""
    folder = served.artifacts.root / "bases" / "oak"
    folder.mkdir(parents=True)
    shape = {"model_type": "llama", "vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(shape))
    mix = LoadConfig(users=(1,), requests=1, warmup=0, prompt_words=(8, 80), targets=("replica",))
    with pytest.raises(InvalidInput, match=r"80 words have about 80 tokens; the context of 'tales' holds 64") as error:
        start_load_test(served, "tales", mix, person=LOCAL)
    assert error.value.remedy == "Use at most 62 words per prompt."
    letters = Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(string.ascii_lowercase + " ")}, merges=[]))
    letters.save(str(folder / "tokenizer.json"))
    default = mix.model_copy(update={"prompt_words": (48,)})
    with pytest.raises(InvalidInput, match=r"48 words have about 2\d\d tokens") as error:
        run_load_test(served, "tales", default, person=LOCAL)
    (fitting,) = re.findall(r"at most (\d+) words", error.value.remedy)
    fits = default.model_copy(update={"prompt_words": (int(fitting),)})
    assert run_load_test(served, "tales", fits, person=LOCAL).result.levels[0]["replica"]["requests"] == 1


def test_its_key_is_known_to_the_attempt_alone_and_revoked_at_the_end(served: Context) -> None:
    closed = replace(served, sign_in=True)
    job = start_load_test(closed, "tales", SMALL, person=LOCAL)
    taken = claim_job(closed, job.id, owner="test", host="here")
    assert taken is not None
    claim = outcomes.prepare_claim(closed, taken)
    assert isinstance(claim.payload, LoadTestPayload)
    (key,) = [target.token for target in claim.payload.targets if target.kind == "gateway"]
    grant = check_key(closed, key)
    assert grant is not None
    assert (grant.scopes.models, grant.scopes.endpoints) == (("tales",), ("completions",))
    with closed.db.write() as session:
        stored = str(session.get_one(Job, job.id).payload)
        assert key not in stored
        finish_job(session, closed, claim, replicas=1, levels=[])
    assert check_key(closed, key) is None
    assert [view.state(closed.now()) for view in list_keys(closed, person=LOCAL)] == ["revoked"]
    assert list_load_tests(closed, "tales") == [], "a test that was stopped in its first level has no result"


@pytest.mark.parametrize("how", ["lost", "lost while it is cancelled", "given back", "lost with its process", "broken"])
def test_its_key_ends_with_the_attempt_however_that_ends(served: Context, how: str) -> None:
    closed = replace(served, sign_in=True)
    job = start_load_test(closed, "tales", SMALL, person=LOCAL)
    taken = claim_job(closed, job.id, owner="test", host="here")
    assert taken is not None
    if how == "given back":
        stopping = threading.Event()
        stopping.set()
        execute(closed, taken, stopping=stopping)
    elif how == "broken":
        (closed.artifacts.job_folder(job.id) / "attempt-1" / "control").mkdir(parents=True)
        execute(closed, taken)
    else:
        claim = outcomes.prepare_claim(closed, taken)
        assert [view.state(closed.now()) for view in list_keys(closed, person=LOCAL)] == ["active"]
        if how == "lost with its process":
            give_up(closed, claim, MachineLost("Its server was killed.", counts=True))
        elif "cancelled" in how:
            stop_job(closed, job.id, person=LOCAL)
        later = closed.now() + timedelta(minutes=1)
        recover_jobs(replace(closed, now=lambda: later))
    assert get_job(closed, job.id).status is (
        Status.CANCELLED if "cancelled" in how else Status.FAILED if how == "broken" else Status.QUEUED
    )
    assert [view.state(closed.now()) for view in list_keys(closed, person=LOCAL)] == ["revoked"]


def test_a_load_test_in_a_shell_revokes_its_own_key_alone(served: Context) -> None:
    """Two at once had one name for their keys, and the first to end cut the other one off."""
    closed, others = replace(served, sign_in=True), list[str]()
    config = LoadConfig(users=(1,), requests=1, warmup=0, targets=("gateway",))

    def start_another(_: str) -> None:
        others.append(create_key(closed, "Load test", person=LOCAL, is_own=True))

    run_load_test(closed, "tales", config, person=LOCAL, on_progress=start_another)
    assert check_key(closed, others[0]) is not None
    keys = list_keys(closed, person=LOCAL)
    assert [view.state(closed.now()) for view in keys if view.scopes.models == ("tales",)] == ["revoked"]


def test_who_may_not_build_and_what_does_not_serve_are_refused(ctx: Context, served: Context) -> None:
    with pytest.raises(NotAllowed):
        start_load_test(served, "tales", SMALL, person=Person(id="r", name="Rater", role="rater"))
    job = start_load_test(served, "tales", SMALL, person=LOCAL)
    stop_job(served, job.id, person=LOCAL)
    newest = find_load_job(served, "tales")
    assert newest is not None
    assert not newest.is_active
    with ctx.db.write() as session:
        session.query(Replica).update({"status": "starting"})
    with pytest.raises(Unavailable, match="No replica"):
        start_load_test(served, "tales", SMALL, person=LOCAL)


def test_what_a_person_types_or_uploads_is_read_or_refused_with_its_line() -> None:
    assert read_arrivals("seconds,user\n2.5,a\r\n0.5,b\n\n") == (0.5, 2.5)
    with pytest.raises(InvalidInput, match="line 2"):
        read_arrivals("0.5\nsoon\n")
    with pytest.raises(InvalidInput, match="no arrival"):
        read_arrivals("inf")
    with pytest.raises(InvalidInput, match=r"users, entry 1: .*whole number.*1; 8"):
        read_values(LoadConfig, {"users": ("1; 8",)})
    with pytest.raises(InvalidInput, match="rate"):
        read_values(LoadConfig, {"rate": -1})
