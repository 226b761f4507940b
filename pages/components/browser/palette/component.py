"""Palette: search over the installation and its pages, opened from anywhere with Ctrl K; `?` lists the keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pages.components import routes
from pages.components.browser.modules import declare_component

_palette = declare_component("roundhouse_palette", '<div class="rp-host"></div>', "palette/palette.js")


@dataclass(frozen=True)
class PaletteEntry:
    """A page, or an action on one, and the address that leads to it. `words` are others by which it is found."""

    label: str
    script: str
    query: Mapping[str, str] = field(default_factory=dict)
    words: str = ""


ACTIONS = (
    PaletteEntry("Import a dataset", routes.DATASETS, {"import": "1"}, "upload file add data hub jsonl csv parquet"),
    PaletteEntry("Import votes", routes.BATTLES, {"import": "votes"}, "upload ratings preferences"),
    PaletteEntry("Add a checkpoint", routes.CHECKPOINTS, {"add": "1"}, "import base model hub weights"),
    PaletteEntry("Train a tokenizer", routes.TOKENIZERS, {"train": "1"}, "vocabulary bpe"),
    PaletteEntry("Launch a sweep", routes.LAUNCH, {"mode": "Sweep"}, "search hyperparameters tune"),
    PaletteEntry("Write a prompt", routes.PROMPTS, {"new": "1"}, "template variables new"),
    PaletteEntry("Start an evaluation", routes.EVALUATIONS, {"new": "1"}, "benchmark score measure"),
    PaletteEntry("Tasks", routes.EVALUATIONS, {"tasks": "1"}, "benchmarks yaml"),
    PaletteEntry("Gates", routes.EVALUATIONS, {"gates": "1"}, "promotion checks"),
    PaletteEntry("Suites", routes.EVALUATIONS, {"suites": "1"}, "benchmarks groups"),
)
WORDS = {
    routes.OVERVIEW: "home start",
    routes.LAUNCH: "train run pretrain sft dpo grpo fine-tune new",
    routes.RUNS: "experiments compare curves",
    routes.PLANNER: "compute budget memory time scaling laws",
    routes.CHECKPOINTS: "models weights export adapters",
    routes.BATTLES: "campaigns votes ratings elo raters",
    routes.ENDPOINTS: "deploy serve replicas aliases canary",
    routes.PLAYGROUND: "chat presets conversations",
    routes.PROMPTS: "templates variables versions matrix try",
    routes.MONITOR: "traffic latency alerts",
    routes.WORKERS: "gpus machines queue jobs",
    routes.COSTS: "prices spend",
    routes.PEOPLE: "accounts users passwords secrets limits",
    routes.SETTINGS: "configuration environment variables env options",
}
SHORTCUTS = (
    ("Ctrl K", "Search, from every page"),
    ("?", "These keys"),
    ("↑ ↓ Enter", "Choose a result and open it; with Ctrl in another tab"),
    ("Esc", "Close; in the playground stop the answer"),
    ("R", "Run the page again"),
    ("/", "Playground: write a message"),
    ("1 to 6", "Playground: vote between answers side by side"),
    ("1 2 3 4", "Ballot: A is better, B is better, equally good, both bad"),
    ("S  U  ?", "Ballot: skip, undo, all of its keys"),
)
MAX_KEY = 160


@dataclass(frozen=True)
class Destination:
    """A page's script and the parameters of its address."""

    script: str
    query: Mapping[str, str]


def palette(*, key: str) -> Destination | None:
    """Draw the button that opens the palette, and return where the visitor chose to go, once."""
    pages = [page for page in routes.listed_pages() if not page.is_hidden]
    places = [*(PaletteEntry(page.title, page.script, words=WORDS.get(page.script, "")) for page in pages), *ACTIONS]
    result = _palette(
        key=key,
        data={
            "url": "/live/search",
            "places": [
                {
                    "number": number,
                    "label": place.label,
                    "address": routes.address(place.script),
                    "query": dict(place.query),
                    "words": place.words,
                }
                for number, place in enumerate(places)
            ],
            "kinds": {
                kind: {"label": label, "address": routes.address(script), "parameter": parameter}
                for kind, (label, script, parameter) in routes.OBJECTS.items()
            },
            "shortcuts": SHORTCUTS,
        },
        on_opened_change=lambda: None,
    )
    return _destination(result.opened, places)


def _destination(target: object, places: Sequence[PaletteEntry]) -> Destination | None:
    """Return where a target leads. It comes from the browser: anything but a known place or kind leads nowhere."""
    match target:
        case {"place": int(number)} if 0 <= number < len(places):
            return Destination(places[number].script, places[number].query)
        case {"kind": str(kind), "key": str(key)} if kind in routes.OBJECTS and 0 < len(key) <= MAX_KEY:
            _, script, parameter = routes.OBJECTS[kind]
            return Destination(script, {parameter: key})
    return None
