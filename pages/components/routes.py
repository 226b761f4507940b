"""Scripts of the pages under `pages/`, as `st.page_link` and `st.switch_page` take them, and their addresses."""

from __future__ import annotations

from dataclasses import dataclass
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
PROMPTS = "serve/prompts.py"
MONITOR = "serve/monitor.py"
LOAD_TESTS = "serve/load_tests.py"
REQUESTS = "serve/requests.py"
LINEAGE = "serve/lineage.py"

WORKERS = "admin/workers.py"
COSTS = "admin/costs.py"
PEOPLE = "admin/people.py"
SETTINGS = "admin/settings.py"


@dataclass(frozen=True)
class Listed:
    """A page as the navigation lists it, with its chapter of the documentation. Hidden ones are reached from others."""

    script: str
    title: str
    icon: str
    chapter: str
    is_hidden: bool = False


PAGES = {
    "": (Listed(OVERVIEW, "Overview", "home", "tutorials/first-network"),),
    "Build": (
        Listed(DATASETS, "Datasets", "database", "datasets"),
        Listed(ARCHITECTURES, "Architectures", "schema", "networks"),
        Listed(TOKENIZERS, "Tokenizers", "match_word", "networks"),
        Listed(PLANNER, "Planner", "calculate", "networks"),
        Listed(LAUNCH, "Launch", "rocket_launch", "training"),
        Listed(RUNS, "Runs", "show_chart", "training"),
        Listed(RUN, "Run", "monitoring", "training", is_hidden=True),
        Listed(SWEEP, "Sweep", "tune", "sweeps", is_hidden=True),
        Listed(CHECKPOINTS, "Checkpoints", "deployed_code", "training"),
        Listed(INSPECT, "Inspect", "troubleshoot", "networks"),
    ),
    "Evaluate": (
        Listed(EVALUATIONS, "Evaluations", "grading", "tasks"),
        Listed(BATTLES, "Battles", "swords", "campaigns"),
        Listed(BALLOT, "Ballot", "how_to_vote", "campaigns", is_hidden=True),
    ),
    "Serve": (
        Listed(ENDPOINTS, "Endpoints", "dns", "deployments"),
        Listed(PLAYGROUND, "Playground", "chat", "playground"),
        Listed(PROMPTS, "Prompts", "article", "playground"),
        Listed(MONITOR, "Monitor", "monitoring", "operation"),
        Listed(REQUESTS, "Requests", "receipt_long", "operation"),
        Listed(LOAD_TESTS, "Load tests", "speed", "operation"),
        Listed(LINEAGE, "Lineage", "account_tree", "human_evaluation"),
    ),
    "Operate": (
        Listed(WORKERS, "Workers", "memory", "tutorials/two-machines"),
        Listed(COSTS, "Costs", "payments", "operation"),
        Listed(PEOPLE, "People and keys", "key", "team"),
        Listed(SETTINGS, "Settings", "settings", "settings"),
    ),
}
"""Every page by section of the navigation."""

OBJECTS = {
    "run": ("Run", RUN, "run"),
    "checkpoint": ("Checkpoint", CHECKPOINTS, "checkpoint"),
    "alias": ("Alias", CHECKPOINTS, "checkpoint"),
    "dataset": ("Dataset", DATASETS, "dataset"),
    "endpoint": ("Endpoint", ENDPOINTS, "name"),
    "campaign": ("Campaign", BATTLES, "campaign"),
    "architecture": ("Architecture", ARCHITECTURES, "architecture"),
    "tokenizer": ("Tokenizer", TOKENIZERS, "tokenizer"),
    "sweep": ("Sweep", SWEEP, "sweep"),
    "study": ("Scaling study", PLANNER, "study"),
    "task": ("Task", EVALUATIONS, "task"),
    "suite": ("Suite", EVALUATIONS, "suite"),
    "gate": ("Gate", EVALUATIONS, "gate"),
    "evaluation": ("Evaluation", EVALUATIONS, "evaluation"),
    "prompt": ("Prompt", PROMPTS, "prompt"),
    "conversation": ("Conversation", PLAYGROUND, "conversation"),
}
"""Label, page and parameter of the address of each kind of object."""

SHARED_NAMES = (
    *("archived", "endpoint", "find", "page", "split", "tab", "variant"),  # on several pages
    *("card_view", "from", "label", "order", "part", "rating", "to", "unit"),  # on one page, for each of its objects
    "mode",  # on the page that launches, for each form that its address asks for
    *("page_query", "tab_links"),  # not bound: what the page of rows is of, and what has opened a tab
)
"""Keys of the session that more than one page or object use; most are bound to the address by widgets."""


def address(script: str) -> str:
    """Return the address of a page: `/` for the overview, `/runs` for `build/runs.py`."""
    return "/" if script == OVERVIEW else f"/{PurePosixPath(script).stem}"


def listed_pages() -> list[Listed]:
    """Return every page, in the order of the navigation."""
    return [page for pages in PAGES.values() for page in pages]


def icon_of(script: str) -> str:
    """Return the icon of a page."""
    return next(page.icon for page in listed_pages() if page.script == script)


def addresses() -> dict[str, str]:
    """Return the titles of all pages by address."""
    return {address(page.script): page.title for page in listed_pages()}


def help_address(url_path: str) -> str:
    """Return the address of the chapter on a page with this address."""
    chapters = (page.chapter for page in listed_pages() if address(page.script) == f"/{url_path}")
    return f"/help/{next(chapters, 'index')}.html"
