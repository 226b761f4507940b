"""Judges' jobs: a real HTTP endpoint, a checkpoint, resumption."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backend.domain.evaluation.judges import JudgeItem
from backend.domain.openai_servers import JUDGE_KEY
from backend.errors import JobFailed, Unavailable
from backend.settings import PROJECT
from jobs.evaluation.judges import run
from tests.support.evaluation_rooms import Remembering
from tests.support.jobs import make_spec


class _Server(ThreadingHTTPServer):
    requests: list[tuple[str, dict[str, Any]]]
    statuses: list[int]
    problem: str


class _Judge(BaseHTTPRequestHandler):
    """Prefers the answer that holds `right`; the statuses in the server's list come first."""

    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.headers.get("Authorization", ""), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        text = body["messages"][0]["content"].split("<<answer A ")[1].split("<<answer B ")
        verdict = "A" if "right" in text[0] else "B" if "right" in text[1] else "TIE"
        reply = {
            "choices": [{"message": {"content": f"Verdict: {verdict}"}}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        }
        problem = {"error": {"message": self.server.problem, "code": "context"}}
        data = json.dumps(reply if status == 200 else problem).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server(("127.0.0.1", 0), _Judge)
    server.requests, server.statuses = [], []
    server.problem = "The prompt has 526 tokens; this model's context holds 256."
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def write_items(root: Path, num: int) -> str:
    root.mkdir(exist_ok=True)
    rows = [{"id": str(n), "prompt": "p", "answer": "right", "answer_b": "wrong", "human": ["A"]} for n in range(num)]
    (root / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "items.jsonl"


def judge(root: Path, url: str, *, num: int = 6, reporter: Remembering | None = None, **config: Any) -> dict[str, Any]:
    payload = {"judge": "m", "url": url, "model": "m", "uses_key": True, "items_file": write_items(root, num)}
    spec = make_spec("judge", {**payload, "config": {"mode": "pairwise", "canaries": 0, **config}}, root=root)
    return run.run(spec, reporter or Remembering()).dump()


def test_a_judge_behind_an_api_is_asked_in_both_orders(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JUDGE_KEY, "sesame")
    server.statuses = [429, 503]
    result = judge(tmp_path, f"http://127.0.0.1:{server.server_port}/v1")
    assert result["summary"]["scores"]["A over B"]["value"] == 1.0
    assert (result["summary"]["missing"], result["summary"]["prompt_tokens"]) == (0, 12 * 7)
    assert len(server.requests) == 12 + 2, "two were repeated"
    assert {key for key, _ in server.requests} == {"Bearer sesame"}
    verdicts = [json.loads(line) for line in (tmp_path / result["verdicts_file"]).read_text().splitlines()]
    assert verdicts[0]["orders"] == ["A", "A"]
    assert "sesame" not in (tmp_path / "jobs" / "job" / "judge_answers.jsonl").read_text()


def test_a_stopped_judgement_asks_only_what_is_left(tmp_path: Path, server: _Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    stopping = Remembering()
    answered = iter([None, "cancel"])
    stopping.should_stop = lambda: next(answered, "cancel")  # type: ignore[assignment,method-assign,return-value]
    with pytest.raises(JobFailed):
        judge(tmp_path, url, reporter=stopping)
    assert len(server.requests) == run.CONCURRENT
    assert judge(tmp_path, url)["summary"]["missing"] == 0
    assert len(server.requests) == 12


def test_a_refused_key_or_an_absent_server_ends_the_job_with_its_cause(tmp_path: Path, server: _Server) -> None:
    server.statuses = [401] * 4
    with pytest.raises(Unavailable, match="answers 401"):
        judge(tmp_path, f"http://127.0.0.1:{server.server_port}/v1")
    with pytest.raises(Unavailable, match="can't be reached"):
        judge(tmp_path, "http://127.0.0.1:9/v1")


def test_a_judge_of_a_small_context_is_named_with_its_context_and_the_tokens_needed(
    tmp_path: Path, server: _Server
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    message = "m refused a question: The prompt has 526 tokens; this model's context holds 256."
    server.statuses = [400] * 4
    summary = judge(tmp_path, url)["summary"]
    assert (summary["missing"], summary["reason"]) == (2, message)
    server.statuses = [400] * 12
    (tmp_path / "jobs" / "job" / run.ANSWERS).unlink()
    with pytest.raises(JobFailed, match=f"None of 6 items has a verdict: {message}") as failure:
        judge(tmp_path, url)
    assert failure.value.remedy == "Correct that and judge again, or choose another judge."


@pytest.mark.parametrize("status", [429, 503])
def test_a_judge_that_is_out_of_quota_or_down_is_not_said_to_refuse_or_to_follow_no_instructions(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It “refused a question”, with the message in the escapes of JSON, and the remedy was a judge that follows
    instructions.
    """
    monkeypatch.setattr(run, "ATTEMPTS", 1)
    server.statuses, server.problem = [status] * 4, "Dépassé: le “quota”\nest \0\ud800 nul"
    message = "m did not answer a question: Dépassé: le “quota” est    nul"
    with pytest.raises(JobFailed, match=f"None of 2 items has a verdict: {message}") as failure:
        judge(tmp_path, f"http://127.0.0.1:{server.server_port}/v1", num=2)
    assert failure.value.remedy == "Correct that and judge again, or choose another judge."


def test_an_error_that_is_cut_in_the_middle_of_an_escape_is_read_up_to_there(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "ATTEMPTS", 1)
    for cut in range(6):
        server.statuses, server.problem = [400] * 2, "x" * cut + "é" * 100
        with pytest.raises(JobFailed) as failure:
            judge(tmp_path / str(cut), f"http://127.0.0.1:{server.server_port}/v1", num=1)
        assert re.search(f"m refused a question: x{{{cut}}}é{{20,}}\\.$", failure.value.message)


def test_an_item_with_a_line_separator_in_its_text_is_one_item(tmp_path: Path, server: _Server) -> None:
    """The file of items holds it raw, and was read as two lines of broken JSON."""
    items = [JudgeItem(id="1", prompt="one\u2028two\u2029three\x85four", answer="right", answer_b="wrong", human=["A"])]
    (tmp_path / "items.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in items), encoding="utf-8")
    payload = {"judge": "m", "url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "uses_key": False}
    config = {"mode": "pairwise", "canaries": 0}
    spec = make_spec("judge", {**payload, "items_file": "items.jsonl", "config": config}, root=tmp_path)
    assert run.run(spec, Remembering()).summary.items == 1


def test_a_job_whose_judge_is_a_server_loads_no_network() -> None:
    """Torch and transformers would take nine tenths of its start, and 400 MB."""
    names = "print(*{'torch', 'transformers'} & set(sys.modules))"
    code = f"import sys, jobs.evaluation.judges.run; {names}"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
