"""Write a run's report as Markdown with the front matter of a Hugging Face model card, and as one HTML file.

Pure. Texts from datasets, checkpoints and users are escaped; opening the file loads nothing from other servers.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import yaml
from markdown_it import MarkdownIt

from backend.domain.markdown_text import fenced, plain_markdown
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective, writes_text
from backend.domain.training.repetition import Repetition
from backend.domain.training.report_curves import MetricTrace, curves_svg

Escape = Callable[[str], str]
CURVE_ROWS = 9
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff;
  max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #8884; padding-bottom: .2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8883; text-align: left; }
pre { background: #8881; padding: .7rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-size: .9em; }
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
    """Content of a report. Pairs are (label, text); `differences` are (field, in the parent, here)."""

    name: str
    objective: str
    objective_words: str
    status: str
    summary: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]
    repetition: Repetition
    parent: str | None = None
    differences: tuple[tuple[str, str, str], ...] = ()
    curves: tuple[MetricTrace, ...] = ()
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


def report_front_matter(report: RunReport) -> dict[str, object]:
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
    facts = Objective(report.objective).facts if report.objective in OBJECTIVE_FACTS else None
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation" if writes_text(report.objective) else "text-classification",
        "license": report.licence.lower() if named else "unknown",
        "tags": [
            "roundhouse",
            report.objective,
            *([facts.tag] if facts is not None and facts.tag else []),
        ],
        **({"base_model": report.base_model} if report.base_model else {}),
        **({"datasets": [report.dataset]} if report.dataset else {}),
        **({"model-index": [{"name": report.name, "results": results}]} if results else {}),
    }


def write_markdown(report: RunReport) -> str:
    """Return the report as a model card: YAML front matter, then Markdown."""
    facts = yaml.safe_dump(report_front_matter(report), sort_keys=False, allow_unicode=True, width=120)
    before, after = _halves(report, plain_markdown)
    return f"---\n{facts}---\n\n{before}\n\n{after}\n"


def run_report_html(report: RunReport) -> str:
    """Return the report as one self-contained HTML file, with styles and drawings and without script."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    before, after = (markdown.render(half) for half in _halves(report, plain_markdown))
    drawings = "".join(f"<figure>{drawing}</figure>\n" for drawing in curves_svg(report.curves))
    title = html.escape(report.name)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width,'
        f' initial-scale=1">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{before}{drawings}{after}</body>\n</html>\n"
    )


def write_body(report: RunReport, *, escape: Callable[[str], str], level: int) -> str:
    """Return the report without front matter and title; `escape` escapes a text for verbatim display, `level` is that
    of the headings.
    """
    before, after = _halves(report, escape, level=level, title=False)
    return f"{before}\n\n{after}\n"


def _halves(report: RunReport, escape: Escape, *, level: int = 2, title: bool = True) -> tuple[str, str]:
    """Return the parts before and after the curves."""
    mark = "#" * level
    parts = [f"# {escape(report.name)}"] if title else []
    parts.append(f"{escape(report.objective_words)}: {escape(report.status)}")
    if report.notes.strip():
        parts.append("\n".join(f"> {escape(line)}" for line in report.notes.strip().splitlines()))
    before = "\n\n".join(part for part in [*parts, _pairs(report.summary, escape), f"{mark} Curves"] if part)
    parts = [_curve_table(report.curves, escape)]
    if report.findings:
        parts += [f"{mark} Findings", "\n".join(f"- {escape(finding)}" for finding in report.findings)]
    if report.scores:
        rows = [(score.benchmark, score.metric, f"{score.value:.4g}", _interval(score)) for score in report.scores]
        parts += [f"{mark} Evaluations", _table(("benchmark", "metric", "value", "95 % interval"), rows, escape)]
    if report.samples:
        parts.append(f"{mark} Samples{f' at step {report.sample_step:,}' if report.sample_step is not None else ''}")
        parts += [
            f"Prompt\n\n{fenced(prompt)}\n\nCompletion\n\n{fenced(completion)}" for prompt, completion in report.samples
        ]
    for heading, pairs in (("Data", report.data), ("Cost", report.cost), ("Environment", report.environment)):
        parts += [f"{mark} {heading}", _pairs(pairs, escape)] if pairs else []
    if report.checkpoints:
        parts += [f"{mark} Checkpoints", _table(("checkpoint", "facts"), report.checkpoints, escape)]
    if report.lineage:
        parts += [
            f"{mark} Lineage",
            "\n".join(f"{number}. {escape(step)}" for number, step in enumerate(report.lineage, start=1)),
        ]
    if report.differences:
        parts += [
            f"{mark} Changes from {escape(report.parent or 'the parent run')}",
            _table(("field", "before", "here"), report.differences, escape),
        ]
    parts += [
        f"{mark} Config",
        report.repetition.sentence,
        fenced("\n".join(report.repetition.commands), "sh"),
        fenced(report.repetition.yaml.rstrip("\n"), "yaml"),
    ]
    return before, "\n\n".join(part for part in parts if part)


def _interval(score: Measured) -> str:
    return "" if score.low is None or score.high is None else f"{score.low:.4g} to {score.high:.4g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _pairs(pairs: Sequence[tuple[str, str]], escape: Escape) -> str:
    return _table(("", ""), pairs, escape)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], escape: Escape) -> str:
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *([escape(" ".join(cell.split())) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _curve_table(curves: Sequence[MetricTrace], escape: Escape) -> str:
    """Return a few points of each curve as a table."""
    shown = [trace for trace in curves if trace.steps][:6]
    if not shown:
        return "No curves were recorded."
    measured = next((trace for trace in shown if trace.name == "val_loss"), None)
    longest = measured or max(shown, key=lambda trace: trace.steps[-1])
    count = min(CURVE_ROWS, len(longest.steps))
    places = sorted({longest.steps[round(i * (len(longest.steps) - 1) / max(count - 1, 1))] for i in range(count)})
    cells = []
    for step in places:
        values = []
        for trace in shown:
            at = max((index for index, reached in enumerate(trace.steps) if reached <= step), default=None)
            values.append("" if at is None else _number(trace.values[at]))
        cells.append([f"{step:,}", *values])
    return _table(("step", *(escape(trace.name) for trace in shown)), cells, escape)
