"""A run told from end to end: a Markdown text whose head is a model card as the Hugging Face Hub reads it, and the same as one HTML file.

Pure: it is given what is known and writes it down. Texts from data sets, checkpoints and people are escaped; nothing is loaded from
elsewhere when the file is opened.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from markdown_it import MarkdownIt

from backend.domain.data.versions.card import plain_markdown
from backend.domain.training.report_curves import Trace, draw_curves

TRL_TAGS = {"sft": "sft", "dpo": "dpo", "kto": "kto", "orpo": "orpo", "simpo": "cpo", "reward": "reward-trainer", "grpo": "grpo"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #8884; padding-bottom: .2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; } th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8883; text-align: left; }
pre { background: #8881; padding: .7rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; } code { font-size: .9em; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { body { color: #e6e8eb; background: #14171a; } }
"""


@dataclass(frozen=True)
class Measured:
    """A score with its interval at 95 %, where there is one."""

    benchmark: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RunReport:
    """All that a report says. Pairs are (label, value in words); `differences` are (field, in the parent, here)."""

    name: str
    objective: str
    objective_words: str
    status: str
    summary: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]
    config_yaml: str
    parent: str | None = None
    differences: tuple[tuple[str, str, str], ...] = ()
    curves: tuple[Trace, ...] = ()
    scores: tuple[Measured, ...] = ()
    samples: tuple[tuple[str, str], ...] = ()
    sample_step: int | None = None
    lineage: tuple[str, ...] = ()
    checkpoints: tuple[tuple[str, str], ...] = ()
    findings: tuple[str, ...] = ()
    notes: str = ""
    licence: str = ""
    base_model: str | None = None
    dataset: str = ""


def front_matter(report: RunReport) -> dict[str, Any]:
    """Return the facts above the text, as the Hub's model cards name them."""
    named = re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", report.licence.lower())
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": score.benchmark, "type": score.benchmark},
            "metrics": [{"type": score.metric, "value": round(score.value, 6)}],
        }
        for score in report.scores
    ]
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if report.objective == "reward" else "text-generation",
        "license": report.licence.lower() if named else "unknown",
        "tags": [
            "roundhouse",
            report.objective,
            *([TRL_TAGS[report.objective]] if TRL_TAGS.get(report.objective, report.objective) != report.objective else []),
        ],
        **({"base_model": report.base_model} if report.base_model else {}),
        **({"datasets": [report.dataset]} if report.dataset else {}),
        **({"model-index": [{"name": report.name, "results": results}]} if results else {}),
    }


def write_markdown(report: RunReport) -> str:
    """Return the report as a model card: YAML between lines of dashes, then Markdown."""
    facts = yaml.safe_dump(front_matter(report), sort_keys=False, allow_unicode=True, width=120)
    before, after = _halves(report)
    return f"---\n{facts}---\n\n{before}\n\n{after}\n"


def write_html(report: RunReport) -> str:
    """Return the report as one HTML file that needs nothing else: styles and drawings are in it, and no script."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    before, after = (markdown.render(half) for half in _halves(report))
    drawings = "".join(f"<figure>{drawing}</figure>\n" for drawing in draw_curves(report.curves))
    title = html.escape(report.name)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{before}{drawings}{after}</body>\n</html>\n"
    )


def _halves(report: RunReport) -> tuple[str, str]:
    """Return what stands before the curves and what comes after them."""
    parts = [f"# {plain_markdown(report.name)}", f"{plain_markdown(report.objective_words)}: {plain_markdown(report.status)}"]
    if report.notes.strip():
        parts.append("\n".join(f"> {plain_markdown(line)}" for line in report.notes.strip().splitlines()))
    before = "\n\n".join(part for part in [*parts, _pairs(report.summary), "## Curves"] if part)
    parts = [_curve_table(report.curves)]
    if report.findings:
        parts += ["## What was noticed", "\n".join(f"- {plain_markdown(finding)}" for finding in report.findings)]
    if report.scores:
        rows = [(score.benchmark, score.metric, f"{score.value:.4g}", _interval(score)) for score in report.scores]
        parts += ["## Evaluations", _table(("benchmark", "metric", "value", "95 % interval"), rows)]
    if report.samples:
        parts.append(f"## Samples{f' at step {report.sample_step:,}' if report.sample_step is not None else ''}")
        parts += [f"{_fenced(prompt)}\n\ngoes on\n\n{_fenced(completion)}" for prompt, completion in report.samples]
    parts += ["## Data", _pairs(report.data), "## Cost", _pairs(report.cost), "## Environment", _pairs(report.environment)]
    if report.checkpoints:
        parts += ["## Checkpoints", _table(("checkpoint", "what is known"), report.checkpoints)]
    if report.lineage:
        parts += ["## Lineage", "\n".join(f"{number}. {plain_markdown(step)}" for number, step in enumerate(report.lineage, start=1))]
    if report.differences:
        parts += [
            f"## What differs from {plain_markdown(report.parent or 'its parent')}",
            _table(("field", "there", "here"), report.differences),
        ]
    parts += [
        "## Config",
        "Saved as `run.yaml`, this launches the same run:",
        _fenced("roundhouse run launch run.yaml", "sh"),
        _fenced(report.config_yaml.rstrip("\n"), "yaml"),
    ]
    return before, "\n\n".join(part for part in parts if part)


def _interval(score: Measured) -> str:
    return "" if score.low is None or score.high is None else f"{score.low:.4g} to {score.high:.4g}"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return _table(("", ""), pairs)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([plain_markdown(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _fenced(text: str, language: str = "") -> str:
    """Put text into a block that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _curve_table(curves: Sequence[Trace], *, rows: int = 9) -> str:
    """A few points of each curve, for readers of the text."""
    shown = [trace for trace in curves if trace.steps][:6]
    if not shown:
        return "Nothing was measured."
    measured = next((trace for trace in shown if trace.name == "val_loss"), None)
    longest = measured or max(shown, key=lambda trace: trace.steps[-1])
    count = min(rows, len(longest.steps))
    places = sorted({longest.steps[round(i * (len(longest.steps) - 1) / max(count - 1, 1))] for i in range(count)})
    cells = []
    for step in places:
        values = []
        for trace in shown:
            at = max((index for index, reached in enumerate(trace.steps) if reached <= step), default=None)
            values.append("" if at is None else f"{trace.values[at]:.4g}")
        cells.append([f"{step:,}", *values])
    return _table(("step", *(trace.name for trace in shown)), cells)
