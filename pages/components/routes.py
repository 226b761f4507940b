"""Scripts of the pages under `pages/`, as `st.page_link` and `st.switch_page` take them, and their addresses."""

from __future__ import annotations

from pathlib import PurePosixPath

OVERVIEW = "home/overview.py"

DATASETS = "build/datasets.py"
ARCHITECTURES = "build/architectures.py"
TOKENIZERS = "build/tokenizers.py"
PLANNER = "build/planner.py"
LAUNCH = "build/launch.py"
RUNS = "build/runs.py"
RUN = "build/run.py"
SWEEP = "build/sweep.py"
CHECKPOINTS = "build/checkpoints.py"
INSPECT = "build/inspect.py"

EVALUATIONS = "evaluate/evaluations.py"
BATTLES = "evaluate/battles.py"
BALLOT = "evaluate/ballot.py"

ENDPOINTS = "serve/endpoints.py"
PLAYGROUND = "serve/playground.py"
MONITOR = "serve/monitor.py"
LOAD_TESTS = "serve/load_tests.py"
REQUESTS = "serve/requests.py"
LINEAGE = "serve/lineage.py"

WORKERS = "admin/workers.py"
COSTS = "admin/costs.py"
PEOPLE = "admin/people.py"


CHAPTERS = {
    OVERVIEW: "tutorials/first-network",
    DATASETS: "datasets",
    ARCHITECTURES: "networks",
    TOKENIZERS: "networks",
    PLANNER: "networks",
    LAUNCH: "training",
    RUNS: "training",
    RUN: "training",
    SWEEP: "sweeps",
    CHECKPOINTS: "training",
    INSPECT: "networks",
    EVALUATIONS: "tasks",
    BATTLES: "campaigns",
    BALLOT: "campaigns",
    ENDPOINTS: "deployments",
    PLAYGROUND: "playground",
    MONITOR: "operation",
    LOAD_TESTS: "operation",
    REQUESTS: "operation",
    LINEAGE: "human_evaluation",
    WORKERS: "tutorials/two-machines",
    COSTS: "operation",
    PEOPLE: "security",
}
"""The chapter of the documentation that each page links."""


def address(script: str) -> str:
    """Return the address of a page: `/` for the overview, `/runs` for `build/runs.py`."""
    return "/" if script == OVERVIEW else f"/{PurePosixPath(script).stem}"


def addresses() -> list[str]:
    """Return the addresses of all pages."""
    return [address(script) for script in CHAPTERS]


def help_address(url_path: str) -> str:
    """Return the address of the chapter on a page with this address."""
    chapter = next((chapter for script, chapter in CHAPTERS.items() if address(script) == f"/{url_path}"), "index")
    return f"/help/{chapter}.html"
