"""A replica whose tokens come from another project's server: its process, its queue and what it refuses.

The server here is a stand-in with llama.cpp's arguments and protocol, as a real process; `make engines` runs the same
replica with the real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.domain.jobs.payloads import ReplicaPayload
from backend.domain.serving.protocol import (
    Begun,
    Constraint,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationErrorEvent,
    SamplingParams,
    Task,
    TokenEvent,
)
from backend.errors import InvalidInput, JobFailed, Unavailable
from backend.infra.engines import LLAMA_SERVER, engine_command
from backend.infra.replicas import ReplicaRefused
from jobs.reporter import FileReporter
from jobs.serving import engines
from jobs.serving.replica import run
from tests.support.installation import is_alive
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_llama, make_mamba, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica, eventually, stream_events

FAKE = Path(__file__).parents[2] / "support" / "fake_llama_server.py"
PROMPT = (1, 2, 3)


class Stand:
    """A folder with a checkpoint, and a stand-in for llama.cpp's server."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.notes_file, self._monkeypatch = folder, folder / "notes", monkeypatch
        save_checkpoint(folder / "checkpoint", network=make_llama(context=128))
        command = folder / "llama-server"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
        command.chmod(0o755)
        monkeypatch.setenv(LLAMA_SERVER, str(command))
        self.behave()

    def behave(self, **options: Any) -> None:
        self._monkeypatch.setenv("FAKE_ENGINE", json.dumps({"notes": str(self.notes_file), **options}))

    def notes(self) -> list[dict[str, Any]]:
        if not self.notes_file.exists():
            return []
        return [json.loads(line) for line in self.notes_file.read_text().splitlines()]

    def asked(self) -> list[dict[str, Any]]:
        """The requests that the server got, without the one of the replica's own at its start."""
        return [note for note in self.notes() if "n_predict" in note][1:]

    def pid(self) -> int:
        return int(eventually(self.notes)[0]["pid"])

    def run_here(self, **payload: Any) -> None:
        values = {"checkpoint": "checkpoint", "name": "tiny", "internal_token": TOKEN, "engine": "llama.cpp", **payload}
        run(
            make_spec("replica", values, root=self.folder, folder=self.folder),
            FileReporter(self.folder / "events.jsonl", self.folder / "control"),
        )


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    return Stand(tmp_path, monkeypatch)


@pytest.fixture
def serve(stand: Stand) -> Iterator[Callable[..., RunningReplica]]:
    running: list[RunningReplica] = []

    def start(**payload: Any) -> RunningReplica:
        running.append(RunningReplica(stand.folder, **{"engine": "llama.cpp", "max_running": 2, **payload}))
        return running[0]

    yield start
    for replica in running:
        if replica.thread.is_alive():
            replica.stop()


def ask(**params: Any) -> GenerateRequest:
    return GenerateRequest(
        token_ids=PROMPT, params=SamplingParams(**{"max_tokens": 4, "temperature": 0, "ignore_end": True, **params})
    )


def answer(replica: RunningReplica, request: GenerateRequest) -> list[Any]:
    return list(stream_events(replica.url, token=TOKEN, request=request))


def ids_of(events: list[Any]) -> list[int]:
    return [token for event in events if isinstance(event, TokenEvent) for token in event.token_ids]


def test_tokens_of_the_server_are_the_replicas_answer(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    assert replica.events("ready")[0]["engine"] == "llama.cpp"
    events = answer(replica, ask())
    assert ids_of(events) == [3, 4, 5, 6]
    assert isinstance(events[-1], FinishEvent)
    assert events[-1].usage.model_dump() == {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 1}
    arguments = stand.notes()[0]["arguments"]
    assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
    assert not any(TOKEN in word or "key" in word for word in arguments)
    assert replica.stats()["generated_tokens"] == 5  # one at the start
    assert psutil.pid_exists(stand.pid())
    replica.stop()
    assert not psutil.pid_exists(stand.pid())


def test_the_probabilities_of_the_server_are_passed_on(serve: Callable[..., RunningReplica]) -> None:
    (first, *_, last) = answer(serve(), ask(logprobs=1, max_tokens=1))
    assert [(one.token_id, one.logprob, [top.token_id for top in one.top]) for one in first.logprobs] == [
        (3, -0.5, [3])
    ]
    assert last.finish_reason is FinishReason.LENGTH


def test_an_answer_ends_at_the_end_token_and_not_before_its_least_tokens(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(end_after=4)
    replica = serve()
    ended = answer(replica, ask(ignore_end=False, max_tokens=9))
    assert (ids_of(ended), ended[-1].finish_reason) == ([3, 256], FinishReason.STOP)
    assert ids_of(answer(replica, ask(max_tokens=4))) == [3, 256, 5, 6], "it goes on behind an end that it ignores"
    assert ids_of(answer(replica, ask(ignore_end=False, min_tokens=3, max_tokens=5))) == [3, 4, 5, 6, 7]
    assert [note["n_predict"] for note in stand.asked()] == [9, 4, 2, 3, 2]


def test_a_place_keeps_its_prompt_for_one_account_alone(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    replica = serve()
    for tenant in ("ann", "ann", "bob", "cat", "ann"):
        answer(replica, ask().model_copy(update={"tenant": tenant}))
    assert [(note["id_slot"], note["cache_prompt"]) for note in stand.asked()] == [
        (0, False),
        (0, True),
        (0, False),
        (0, False),
        (0, False),
    ]


def test_requests_beyond_the_servers_places_wait_and_their_end_frees_one(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(token_s=0.05)
    replica = serve(max_waiting=1)
    answers: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(answer(replica, ask(max_tokens=20)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: (replica.stats()["running"], replica.stats()["waiting"]) == (2, 1))
    with pytest.raises(ReplicaRefused, match="already being answered or waiting"):
        answer(replica, ask())
    for thread in threads:
        thread.join()
    assert [len(ids_of(events)) for events in answers] == [20, 20, 20]
    assert {note["id_slot"] for note in stand.asked()} == {0, 1}


def test_a_client_that_leaves_ends_the_servers_work(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=100))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: {"left": True} in stand.notes())
    eventually(lambda: replica.stats()["running"] == 0)


def test_open_answers_finish_before_a_drained_replica_ends(serve: Callable[..., RunningReplica], stand: Stand) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=40))
    events = [next(stream)]
    (stand.folder / "control").write_text("drain")
    events += list(stream)
    assert len(ids_of(events)) == 40
    replica.thread.join(60)
    assert not psutil.pid_exists(stand.pid())


def test_what_the_server_cannot_give_is_refused(serve: Callable[..., RunningReplica]) -> None:
    replica = serve()
    for request, message in (
        (GenerateRequest(prompts=("a",), task=Task.EMBED), "llama.cpp gives no embeddings"),
        (ask(logprobs=1).model_copy(update={"echo": True}), "no log-probabilities of a prompt"),
        (
            ask(constraint=Constraint(kind="regex", value="a+"), min_tokens=2),
            "no min_tokens with a constraint",
        ),
        (ask().model_copy(update={"adapter": "adapters/a"}), "serves no adapters"),
    ):
        with pytest.raises(ReplicaRefused, match=message):
            answer(replica, request)
    begun = ask(constraint=Constraint(kind="regex", value="[ -~]+")).model_copy(
        update={"begun": Begun(token_ids=(64,), characters=1)}
    )
    (event,) = answer(replica, begun)
    assert isinstance(event, GenerationErrorEvent)
    assert event.code == "not_resumed"


def test_an_answer_that_another_replica_began_is_continued(serve: Callable[..., RunningReplica]) -> None:
    begun = ask(max_tokens=4).model_copy(update={"begun": Begun(token_ids=(64, 65), characters=2)})
    assert ids_of(answer(serve(), begun)) == [5, 6]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_that_dies_ends_its_answers_and_the_replica(
    serve: Callable[..., RunningReplica], stand: Stand
) -> None:
    stand.behave(token_s=0.05)
    replica = serve()
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=100))
    next(stream)
    os.kill(stand.pid(), signal.SIGKILL)
    *_, last = stream
    assert isinstance(last, GenerationErrorEvent)
    assert last.code == "replica_error"
    replica.thread.join(60)
    assert not replica.thread.is_alive()


def test_a_server_that_ends_as_it_starts_fails_the_job(stand: Stand) -> None:
    stand.behave(dies=3)
    with pytest.raises(JobFailed, match=r"llama.cpp ended with status 3 as it started"):
        stand.run_here()


def test_a_server_that_is_never_healthy_is_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand.behave(is_never_healthy=True)
    monkeypatch.setattr(engines, "START_S", 1.0)
    with pytest.raises(JobFailed, match="did not answer at /health"):
        stand.run_here()
    assert not psutil.pid_exists(stand.pid())


def test_a_replica_that_is_cancelled_while_its_server_starts_ends_both(stand: Stand) -> None:
    before = set(psutil.Process().children(recursive=True))  # those of other tests
    stand.behave(start_s=600)
    (stand.folder / "control").write_text("cancel")
    with pytest.raises(JobFailed, match="stopped as it started"):
        stand.run_here()
    assert not [one for one in psutil.Process().children(recursive=True) if one not in before and is_alive(one)]


def test_no_server_outlives_a_replica_that_is_killed(stand: Stand) -> None:
    code = (
        "import sys, pathlib; from tests.support.serving_replica import RunningReplica;"
        "RunningReplica(pathlib.Path(sys.argv[1]), engine='llama.cpp').thread.join()"
    )
    replica = subprocess.Popen([sys.executable, "-c", code, str(stand.folder)])
    try:
        eventually(
            lambda: (stand.folder / "events.jsonl").exists() and "ready" in (stand.folder / "events.jsonl").read_text()
        )
        assert psutil.pid_exists(stand.pid())
    finally:
        replica.kill()
        replica.wait()
    eventually(lambda: not psutil.pid_exists(stand.pid()))


def test_a_checkpoint_is_written_as_gguf_once(stand: Stand) -> None:
    stand.behave(dies=0)
    for _ in range(2):
        with pytest.raises(JobFailed):
            stand.run_here()
    models = {note["arguments"][note["arguments"].index("--model") + 1] for note in stand.notes()}
    (model,) = models
    assert [str(path) for path in (stand.folder / "prepared").rglob("*.gguf")] == [model]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"precision": "int8"}, "serves no precision int8"),
        ({"draft": "checkpoint"}, "has no draft"),
    ],
)
def test_what_the_engine_lacks_is_refused_before_it_starts(stand: Stand, payload: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        stand.run_here(**payload)
    assert stand.notes() == []


def test_an_architecture_that_the_engine_lacks_is_refused_before_it_starts(stand: Stand) -> None:
    save_checkpoint(stand.folder / "checkpoint", network=make_mamba())
    with pytest.raises(InvalidInput, match="family mamba"):
        stand.run_here()
    assert stand.notes() == []


def test_a_missing_server_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LLAMA_SERVER, raising=False)
    monkeypatch.setattr("backend.errors.find_spec", lambda _: None)
    with pytest.raises(Unavailable) as caught:
        engine_command("llama.cpp")
    assert "pip install 'roundhouse[llama-cpp]'" in str(caught.value)
    monkeypatch.setenv(LLAMA_SERVER, "/nowhere/llama-server")
    with pytest.raises(Unavailable, match="/nowhere/llama-server is no command"):
        engine_command("llama.cpp")


def test_the_payload_reads_every_engine() -> None:
    for engine in ("auto", "roundhouse", "batching", "serial", "llama.cpp"):
        read = ReplicaPayload(checkpoint="c", name="n", internal_token="t", engine=engine)  # type: ignore[arg-type]
        assert read.engine == engine
