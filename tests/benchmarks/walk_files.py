"""The files that a launch, a request and a vote pass.

    python -m tests.benchmarks.walk_files [FOLDER OF ANOTHER COMMIT]

The three are done by a browser and by HTTP in a new installation, started by `roundhouse up`: *Launch* with its
defaults, 50 steps and a name, until the run's page shows that it is finished; one streamed chat completion of 12
tokens; a rater's link opened, one vote by key, the campaign's board. Every process, those of jobs and replicas too,
notes the functions of the product that it calls, without what imports call. A file counts if a function of it ran that
had not run in the idle seconds before, so heartbeats and health checks are left out. Prints one line a file, then the
number of files and functions of each.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.support.browser import running_browser
from tests.support.installation import PROJECT, free_port, wait_until

IDLE_S, PATIENCE_MS = 12.0, 300_000
NOTING = """
import atexit, json, os, sys, threading, time

ROOT, OUT = {root!r}, {notes!r}
PARTS = tuple(ROOT + part for part in ("backend/", "jobs/", "pages/", "app.py"))
calls, ours = {}, {}


def note(frame, event, _):
    if event != "call":
        return
    code = frame.f_code
    if code not in ours:
        ours[code] = code.co_filename.startswith(PARTS) and code.co_name != "<module>"
    if not ours[code]:
        return
    moment = int(time.time() * 4)
    moments = calls.setdefault(code, set())
    if moment in moments:
        return
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return
        frame = frame.f_back
    moments.add(moment)


def write():
    rows = [(code.co_filename[len(ROOT):], code.co_qualname, sorted(at)) for code, at in list(calls.items()) if at]
    path = f"{OUT}/{os.getpid()}.json"
    with open(path + ".part", "w") as file:
        json.dump(rows, file)
    os.replace(path + ".part", path)


def write_again_and_again():
    while True:
        time.sleep(0.5)
        try:
            write()
        except RuntimeError:  # a finalizer noted a call while they were copied
            pass


def begin():
    calls.clear()
    sys.setprofile(note)
    threading.setprofile(note)
    threading.Thread(target=write_again_and_again, daemon=True).start()


if "WALK_OFF" not in os.environ:
    os.register_at_fork(after_in_child=begin)
    atexit.register(write)
    begin()
"""
CAMPAIGN = """
name: Walk
contestants:
  - {file: answers.jsonl, column: one, name: One}
  - {file: answers.jsonl, column: two, name: Two}
"""


class Walk:
    """An installation of a commit whose processes note their calls."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.notes, self.folder = folder / "source", folder / "notes", folder
        self.notes.mkdir()
        self.source.mkdir()
        files = subprocess.run(["git", "archive", "HEAD"], cwd=source, check=True, capture_output=True).stdout
        subprocess.run(["tar", "x"], cwd=self.source, input=files, check=True)
        # every process has the source's folder in its path, also those whose environment is chosen
        noting = NOTING.replace("{root!r}", repr(f"{self.source}/")).replace("{notes!r}", repr(str(self.notes)))
        (self.source / "sitecustomize.py").write_text(noting)
        self.port, self.gateway_port = free_port(), free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self.source),
            "ROUNDHOUSE_HOME": str(folder / "home"),
            "ROUNDHOUSE_PORT": str(self.port),
            "ROUNDHOUSE_GATEWAY_PORT": str(self.gateway_port),
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start everything, and stop it at the end."""
        command = [sys.executable, "-m", "backend.cli.main", "up"]
        with subprocess.Popen(
            command, cwd=self.source, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert any("is ready" in line for line in process.stdout)
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)

    def roundhouse(self, *arguments: str) -> str:
        """Run a command, whose own calls are not noted; return what it prints."""
        command = [sys.executable, "-m", "backend.cli.main", *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | {"WALK_OFF": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def functions(self, since: float, until: float) -> set[tuple[str, str]]:
        """Return the functions, by file, that ran between two times."""
        return {
            (file, name)
            for notes in self.notes.glob("*.json")
            for file, name, moments in json.loads(notes.read_text())
            if any(since <= moment / 4 < until for moment in moments)
        }

    def passed(self, act: Callable[[], None]) -> set[tuple[str, str]]:
        """Return the functions that an act passes and idle processes do not."""
        time.sleep(IDLE_S + 2)
        begun = time.time()
        time.sleep(0.3)  # calls are noted by quarters of a second, rounded down
        act()
        ended = time.time() + 1
        time.sleep(3)
        return self.functions(begun, ended) - self.functions(begun - IDLE_S, begun)


def launch(page: Page, url: str) -> None:
    """Launch a run with its defaults and wait for its end."""
    page.goto(f"{url}/launch")
    page.get_by_label("Name", exact=True).fill("walk")
    steps = page.get_by_label("Steps", exact=True).first
    steps.fill("50")
    steps.press("Enter")
    accept = page.get_by_text(re.compile("^Proceed despite"))
    launching = page.get_by_role("button", name=re.compile("Launch$|Accept the warnings first$"))
    launching.first.wait_for()
    page.wait_for_timeout(3_000)  # estimates and warnings follow what was typed
    if accept.count():
        accept.first.click()
    page.get_by_role("button", name=re.compile("Launch$")).last.click()
    page.wait_for_url(re.compile(r"/run\?"), timeout=PATIENCE_MS)
    expect(page.get_by_text("Finished", exact=True).first).to_be_visible(timeout=PATIENCE_MS)


def ask(address: str, key: str, endpoint: str) -> None:
    """Ask for one streamed chat completion, and read it to its end."""
    body = {"model": endpoint, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "stream": True}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert b"[DONE]" in answer.read()


def vote(page: Page, link: str, board: str) -> None:
    """Open a rater's link, vote by key, and look at the board."""
    page.goto(link)
    start = page.get_by_role("button", name=re.compile("Start"))
    if start.count():
        start.first.click()
    page.get_by_text("0 of 6").first.wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(1_000)
    page.keyboard.press("1")
    page.get_by_text("1 of 6").first.wait_for(timeout=PATIENCE_MS)
    page.goto(board)
    page.get_by_text("Ratings").first.wait_for(timeout=PATIENCE_MS)
    page.wait_for_timeout(2_000)


def main(source: Path) -> None:
    """Walk the three paths in an installation of `source`."""
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        walk = Walk(source, Path(folder))
        rows = [{"prompt": f"Tale {n}", "one": f"A fox {n}.", "two": f"An owl {n}."} for n in range(6)]
        (walk.folder / "answers.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        (walk.folder / "campaign.yaml").write_text(CAMPAIGN)
        url = f"http://127.0.0.1:{walk.port}"
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        with walk.running():
            page.goto(url)
            wait_until(lambda: "pebblewick" in walk.roundhouse("tokenizer", "list"), what="the starter content")
            paths = {"launch": walk.passed(lambda: launch(page, url))}
            walk.roundhouse("endpoint", "deploy", "--checkpoint", "walk", "--name", "walk")
            key = re.search(r"rh-[\w-]+", walk.roundhouse("key", "create", "walk"))
            assert key is not None
            ask(f"http://127.0.0.1:{walk.gateway_port}", key[0], "walk")
            paths["request"] = walk.passed(lambda: ask(f"http://127.0.0.1:{walk.gateway_port}", key[0], "walk"))
            walk.roundhouse("campaign", "create", "campaign.yaml")
            link = re.search(r"http\S+", walk.roundhouse("campaign", "link", "Walk", "--rater", "Owl"))
            assert link is not None
            campaign = json.loads(walk.roundhouse("campaign", "show", "Walk", "--json"))["id"]
            paths["vote"] = walk.passed(lambda: vote(page, link[0], f"{url}/battles?campaign={campaign}"))
    for name, functions in paths.items():
        for file in sorted({file for file, _ in functions}):
            print(f"{name}: {file}")
    for name, functions in paths.items():
        print(f"{name}: {len({file for file, _ in functions})} files, {len(functions)} functions")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if sys.argv[1:] else PROJECT)
