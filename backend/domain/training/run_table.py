"""The table of runs: its fields, how they are read, written, compared and summed up. Pure.

A field is a column and a name in filters: facts of the run, its config by path (`lora.rank`), the shape of its
architecture (`architecture.width`), and its newest metrics. What a loss or a reward means depends on the objective, so
such a metric is one field per objective: `pretrain.val_loss` is never in a column with `dpo.val_loss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from typing import Any, Literal

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.filters import FilterField, Value, ValueKind
from backend.domain.json_values import FieldValues
from backend.domain.names import nearest_name
from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import (
    SECTIONS,
    field_at,
    kind_of,
    list_paths,
    paths_affecting,
    unmet_condition,
)
from backend.domain.training.metric_labels import curve_label
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective
from backend.domain.training.summary import TOKENS, RunTime, run_seconds
from backend.domain.training.traits import Effect
from backend.domain.wording import format_bytes, format_duration, format_number, format_usd, percent, plural, short
from backend.errors import InvalidInput

Form = Literal["text", "number", "loss", "integer", "count", "bytes", "duration", "percent", "usd", "time", "flag"]
Better = Literal["lowest", "highest"]
OBJECTIVE_NAMES = {str(objective): facts.name for objective, facts in OBJECTIVE_FACTS.items()}
"""Names of objectives that fit a column; regardless of case they are the values of filters."""
SAME_UNDER_ALL: dict[str, tuple[str, Form, Better | None]] = {
    "tok_per_sec": ("Tokens per second", "count", "highest"),
    "mfu": ("Model FLOPs utilisation", "percent", "highest"),
    "memory_bytes": ("Memory", "bytes", "lowest"),
    "device_use": ("Device use", "percent", "highest"),
    "power_w": ("Power, W", "number", None),
    "data_wait": ("Data loading", "percent", "lowest"),
    "generation": ("Generation", "percent", "lowest"),
}
"""Metrics that mean the same under every objective: title, form, which is better."""
NO_RESULTS = frozenset({"learning_rate", "epoch", TOKENS})
"""Metrics whose newest value says nothing about a run."""
ALIASES = {
    "lr": "learning_rate",
    "tag": "tags",
    "user": "by",
    "size": "parameters",
    "params": "parameters",
    "step": "steps",
    "data": "dataset",
    "model": "architecture",
    "lora_rank": "lora.rank",
    "rank": "lora.rank",
    "beta": "preference.beta",
}
"""Names that people know from elsewhere."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """Facts of a run in the table, without curves. `config`: the values that are not defaults, by path; None for an
    imported run. `shape`: the fields of its architecture. `tokens_per_step` of an imported run is its log's, of
    one that samples completions the mean so far.
    """

    id: str
    name: str
    notes: str
    objective: str
    status: str
    is_active: bool
    is_imported: bool
    tags: tuple[str, ...]
    version_id: str | None
    base_id: str | None
    architecture_id: str | None
    tokenizer_id: str | None
    group_id: str | None
    user_id: str | None
    steps: int
    tokens_per_step: float | None
    parameters: int | None
    best_val_loss: float | None
    metrics: Mapping[str, float]
    config: Mapping[str, Any] | None
    shape: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    is_archived: bool
    earlier_s: float = 0.0
    time: RunTime | None = None


@dataclass(frozen=True)
class RunNames:
    """Names of what runs refer to, by id. A version's name is that of its dataset, with the number."""

    versions: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)
    architectures: Mapping[str, str] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    sweeps: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunField:
    """A field. `about` explains it, `group` is its heading among the fields. `words`: how stored values are written.
    `better` says which value of several is the best, None where none is. `metric`: the objective ("" for any) and the
    name of the metric it shows.
    """

    name: str
    title: str
    kind: ValueKind
    form: Form
    group: str
    about: str = ""
    choices: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    better: Better | None = None
    metric: tuple[str, str] | None = None

    @property
    def is_number(self) -> bool:
        """Return whether its values have a place on an axis."""
        return self.kind in (ValueKind.NUMBER, ValueKind.DURATION, ValueKind.TIME)

    def write(self, value: Value) -> str:
        """Return a value as a cell shows it; a time as its date in UTC."""
        if value is None or value == "" or value == ():
            return ""
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, tuple):
            return ", ".join(value)
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%d %H:%M}"
        if isinstance(value, int | float):
            return _write_number(self.form, float(value))
        return self.words.get(value, value)


def _write_number(form: Form, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    match form:
        case "loss":
            return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
        case "integer":
            return f"{value:,.0f}"
        case "count":
            return short(value)
        case "bytes":
            return format_bytes(value)
        case "duration":
            return format_duration(value)
        case "percent":
            return percent(value, digits=1)
        case "usd":
            return format_usd(value)
    return format_number(value, digits=4)


DURATION_HELP = "Time that its jobs held devices, as Costs counts it: without waits and time that Roundhouse was down."
FACTS = (
    RunField("name", "Name", ValueKind.TEXT, "text", "Run"),
    RunField("status", "Status", ValueKind.TEXT, "text", "Run"),
    RunField(
        "objective",
        "Objective",
        ValueKind.TEXT,
        "text",
        "Run",
        choices=tuple(map(str, Objective)),
        words=OBJECTIVE_NAMES,
    ),
    RunField("sweep", "Sweep", ValueKind.TEXT, "text", "Run", "The sweep that launched the run."),
    RunField("tags", "Tags", ValueKind.LIST, "text", "Run"),
    RunField("notes", "Notes", ValueKind.TEXT, "text", "Run"),
    RunField("by", "Launched by", ValueKind.TEXT, "text", "Run"),
    RunField("created", "Created", ValueKind.TIME, "time", "Run"),
    RunField("started", "Started", ValueKind.TIME, "time", "Run"),
    RunField("finished", "Finished", ValueKind.TIME, "time", "Run"),
    RunField(
        "dataset",
        "Dataset",
        ValueKind.TEXT,
        "text",
        "Run",
        "Name and version, such as stories@2; in a filter, a name alone is any version.",
    ),
    RunField("base", "Base", ValueKind.TEXT, "text", "Run", "The checkpoint that the run started from."),
    RunField("architecture", "Architecture", ValueKind.TEXT, "text", "Run"),
    RunField("tokenizer", "Tokenizer", ValueKind.TEXT, "text", "Run"),
    RunField("steps", "Steps done", ValueKind.NUMBER, "integer", "Results"),
    RunField("tokens", "Tokens", ValueKind.NUMBER, "count", "Results", "Steps done × tokens per step."),
    RunField("parameters", "Parameters", ValueKind.NUMBER, "count", "Results", "Size of the model, adapters apart."),
    RunField(
        "duration",
        "Duration",
        ValueKind.DURATION,
        "duration",
        "Results",
        f"{DURATION_HELP} In CSV in seconds.",
    ),
    RunField("cost", "Cost", ValueKind.NUMBER, "usd", "Results", "Duration × devices × the price of a device-hour."),
    RunField("tokens_per_step", "Tokens per step", ValueKind.NUMBER, "integer", "Config"),
)
OTHERWISE = frozenset({"name", "objective", "dataset", "base", "architecture", "tokenizer", "grpo.rewards"})
"""Fields of a config that are facts of the run already, or have no text."""


@cache
def config_fields() -> tuple[RunField, ...]:
    """Return a field for each value of a config, then for each of an architecture."""
    paths = [path for path in list_paths() if path not in OTHERWISE]
    paths += [f"architecture.{name}" for name in ArchitectureConfig.model_fields]
    return tuple(_config_field(path) for path in paths)


def _config_field(path: str) -> RunField:
    schema, base = field_at(path), kind_of(path)
    values = base if isinstance(base, tuple) else ()
    kinds = {type(value) for value in values} if values else {base}
    kind = ValueKind.FLAG if kinds == {bool} else ValueKind.NUMBER if kinds <= {int, float} else ValueKind.TEXT
    is_shape = path.startswith("architecture.")
    return RunField(
        path,
        path.partition(".")[2] if is_shape else str(schema.title or path),
        kind,
        {ValueKind.FLAG: "flag", ValueKind.NUMBER: "number", ValueKind.TEXT: "text"}[kind],  # type: ignore[arg-type]
        "Architecture" if is_shape else "Config",
        schema.description or "",
        choices=tuple(map(str, values)) if kind is ValueKind.TEXT else (),
    )


def metric_fields(metrics: Iterable[tuple[str, str]]) -> list[RunField]:
    """Return the fields of (objective, metric) that runs have, by objective and name."""
    fields: dict[str, RunField] = {}
    order = list(OBJECTIVE_NAMES)
    for objective, metric in sorted(metrics, key=lambda one: (order.index(one[0]) if one[0] in order else -1, one[1])):
        if metric in SAME_UNDER_ALL:
            title, form, better = SAME_UNDER_ALL[metric]
            fields[metric] = RunField(
                metric, title, ValueKind.NUMBER, form, "Results", "Newest value.", better=better, metric=("", metric)
            )
        elif metric not in NO_RESULTS:
            prefix = objective or IMPORTED
            name = f"{prefix}.{metric}"
            about = "Lowest value so far." if metric == BEST else "Newest value."
            fields[name] = RunField(
                name,
                f"{curve_label(metric)} · {OBJECTIVE_NAMES.get(objective, 'Imported')}",
                ValueKind.NUMBER,
                "loss",
                f"Metrics of {OBJECTIVE_NAMES.get(objective, 'imported logs')}",
                about,
                better=_better(metric),
                metric=(prefix, metric),
            )
    return list(fields.values())


BEST = "best_val_loss"
IMPORTED = "imported"
LOWER, HIGHER = ("loss", "bpb", "perplexity", "kl"), ("accurac", "reward/mean", "margin")


def _better(metric: str) -> Better | None:
    if any(part in metric for part in LOWER):
        return "lowest"
    return "highest" if any(part in metric for part in HIGHER) else None


def main_metrics(fields: Mapping[str, RunField], objectives: Iterable[str]) -> list[str]:
    """Return the metric by which the runs of each objective are usually compared, where they have it."""
    chosen = []
    for objective in OBJECTIVE_NAMES:
        if objective in objectives:
            facts = OBJECTIVE_FACTS[Objective(objective)]
            names = facts.metrics if facts.metrics[0] != "val_loss" else (BEST, *facts.metrics)
            chosen += [f"{objective}.{name}" for name in names if f"{objective}.{name}" in fields][:1]
    return chosen


def with_sections(config: Mapping[str, Any]) -> FieldValues:
    """Return the values of a stored config by path, without an inline architecture and without what are defaults."""
    flat: FieldValues = {}
    for name, value in config.items():
        if name in SECTIONS:
            defaults = _defaults_of(name)
            if value != defaults:  # most are, of ten thousand runs
                flat |= {f"{name}.{inner}": part for inner, part in value.items() if part != defaults.get(inner)}
        elif value != DEFAULTS.get(name) and not isinstance(value, dict):
            flat[name] = value
    return flat


def _plain_defaults() -> FieldValues:
    values = RunConfig.model_construct(dataset="").model_dump(mode="json", warnings=False)
    return {
        path: (values.get(section) or {}).get(name) if name else values.get(section)
        for path in list_paths()
        for section, _, name in [path.partition(".")]
    }


DEFAULTS = _plain_defaults()
"""The default of each field of a config, as JSON has it."""


@cache
def _defaults_of(section: str) -> FieldValues:
    return {path.partition(".")[2]: value for path, value in DEFAULTS.items() if path.startswith(f"{section}.")}


@dataclass(frozen=True)
class RunTable:
    """Rows with the fields they have. `statuses`: those a run can have, with their words; `device_hour_usd`: None where
    no price is set; `metrics`: (objective, name) of those that runs have.
    """

    rows: tuple[RunRow, ...]
    names: RunNames
    now: datetime
    statuses: Mapping[str, str] = field(default_factory=dict)
    device_hour_usd: float | None = None
    metrics: frozenset[tuple[str, str]] = frozenset()

    @cached_property
    def fields(self) -> dict[str, RunField]:
        """The fields by name, in the order in which they are offered."""
        config = config_fields()
        taken = {one.name for one in (*FACTS, *config)}
        measured = [one for one in metric_fields(self.metrics) if one.name not in taken]
        facts = [one for one in FACTS if one.name != "cost" or self.device_hour_usd is not None]
        facts = [
            replace(one, choices=tuple(self.statuses), words=self.statuses) if one.name == "status" else one
            for one in facts
        ]
        return {one.name: one for one in (*facts, *measured, *config)}

    @cached_property
    def filter_fields(self) -> dict[str, FilterField]:
        """The fields as filters know them."""
        return {
            one.name: FilterField(
                one.name,
                one.kind,
                tuple(map(str, one.choices)),
                {word.lower(): stored for stored, word in one.words.items()},
            )
            for one in self.fields.values()
        }

    @cached_property
    def ambiguous(self) -> dict[str, str]:
        """Advice for a metric's name without its objective, by that name."""
        named: dict[str, list[str]] = {}
        for one in self.fields.values():
            if one.metric and one.metric[0]:
                named.setdefault(one.metric[1], []).append(one.name)
        return {
            metric: f"It is another quantity under each objective: write {' or '.join(names)}."
            for metric, names in named.items()
        }

    def field(self, name: str) -> RunField:
        """Return a field by name or alias. Raises InvalidInput naming the nearest one."""
        known = self.fields.get(ALIASES.get(name, name))
        if known is None:
            near = nearest_name(name, self.fields)
            remedy = self.ambiguous.get(name) or (f"Did you mean {near}?" if near else "See Columns.")
            raise InvalidInput(f"Runs have no field “{name[:60]}”.", remedy=remedy)
        return known

    def reader(self, name: str) -> Callable[[RunRow], Value]:
        """Return the function that reads a field of a row: its value, None if missing."""
        if (fact := self._facts.get(name)) is not None:
            return fact
        known = self.fields.get(name)
        if known is not None and known.metric is not None:
            return _metric_reader(*known.metric)
        if name.startswith("architecture."):
            inner = name.partition(".")[2]
            return lambda row: _plain(row.shape.get(inner))
        return _config_reader(name)

    def filter_reader(self, name: str) -> Callable[[RunRow], Value]:
        """Return what a filter compares: a dataset also by its name alone, for any version."""
        read = self.reader(name)
        if name != "dataset":
            return read

        def names(row: RunRow) -> Value:
            label = read(row)
            return (label, label.partition("@")[0]) if isinstance(label, str) else label

        return names

    @cached_property
    def _facts(self) -> dict[str, Callable[[RunRow], Value]]:
        names, usd = self.names, self.device_hour_usd

        def duration(row: RunRow) -> float | None:
            return run_seconds(row.earlier_s, row.time, now=self.now)

        def cost(row: RunRow) -> float | None:
            seconds = duration(row)
            if seconds is None or usd is None or row.config is None:
                return None
            return seconds / 3600 * usd * float(row.config.get("devices.count", DEFAULTS["devices.count"]))

        return {
            "name": lambda row: row.name,
            "status": lambda row: IMPORTED if row.is_imported else row.status,
            "objective": lambda row: row.objective or None,
            "sweep": lambda row: names.sweeps.get(row.group_id or ""),
            "tags": lambda row: row.tags,
            "notes": lambda row: row.notes,
            "by": lambda row: names.users.get(row.user_id or ""),
            "created": lambda row: row.created_at,
            "started": lambda row: row.started_at,
            "finished": lambda row: row.finished_at,
            "dataset": lambda row: names.versions.get(row.version_id or ""),
            "base": lambda row: names.bases.get(row.base_id or ""),
            "architecture": lambda row: (
                names.architectures.get(row.architecture_id or "") or ("inline" if row.shape else None)
            ),
            "tokenizer": lambda row: names.tokenizers.get(row.tokenizer_id or ""),
            "steps": lambda row: row.steps,
            "tokens": lambda row: None if row.tokens_per_step is None else round(row.steps * row.tokens_per_step),
            "parameters": lambda row: row.parameters,
            "duration": duration,
            "cost": cost,
            "tokens_per_step": lambda row: row.tokens_per_step,
        }


def _metric_reader(objective: str, metric: str) -> Callable[[RunRow], Value]:
    stored = "" if objective == IMPORTED else objective
    if metric == BEST:
        return lambda row: row.best_val_loss if row.objective == stored else None
    if not objective:
        return lambda row: row.metrics.get(metric)
    return lambda row: row.metrics.get(metric) if row.objective == stored else None


def _config_reader(path: str) -> Callable[[RunRow], Value]:
    """A field that has no effect in a run is missing, such as `lora.rank` in full fine-tuning."""
    default = DEFAULTS.get(path)

    def read(row: RunRow) -> Value:
        config = row.config
        if config is None or unmet_condition(path, lambda other: config.get(other, DEFAULTS.get(other))) is not None:
            return None
        return _plain(config.get(path, default))

    if path in list_paths() and not _has_conditions(path):
        return lambda row: None if row.config is None else _plain(row.config.get(path, default))
    return read


@cache
def _has_conditions(path: str) -> bool:
    return bool(getattr(field_at(path).json_schema_extra, "used", ()))


def _plain(value: Any) -> Value:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return None if isinstance(value, dict) else value


def sort_rows(table: RunTable, rows: Iterable[RunRow], order: str) -> list[RunRow]:
    """Return rows by a field, `-` before its name for the highest first; a missing value is last. Raises InvalidInput
    for an unknown field.
    """
    name = table.field(order.removeprefix("-")).name
    read = table.reader(name)
    known, missing = [], []
    for row in rows:
        value: Any = read(row)
        if value is None or value == "" or value == () or value != value:
            missing.append(row)
        else:
            if isinstance(value, tuple):
                value = ", ".join(value)
            known.append((value.casefold() if isinstance(value, str) else value, row))
    known.sort(key=lambda pair: pair[0], reverse=order.startswith("-"))
    return [row for _, row in known] + missing


def varying_fields(table: RunTable, rows: Sequence[RunRow]) -> list[str]:
    """Return the fields of the configs that are not the same in all rows, in the order of fields; seed and hardware are
    not among them.
    """
    set_somewhere = {path for row in rows if row.config is not None for path in row.config}
    affecting = set(paths_affecting(Effect.RESULT, Effect.LENGTH))
    config = [path for path in table.fields if path in set_somewhere & affecting]
    varying = []
    for name in dict.fromkeys(["dataset", "base", "architecture", *config]):
        read = table.reader(name)
        first = next((value for row in rows if (value := read(row)) is not None), None)
        if any((value := read(row)) is not None and value != first for row in rows):
            varying.append(name)
    return varying


@dataclass(frozen=True)
class RunFold:
    """Rows of one value of a field, in their order, as one row. `value` is what they share."""

    key: str
    title: str
    rows: tuple[RunRow, ...]


Entry = RunRow | RunFold
SWEEPS = "sweep"


def fold_rows(table: RunTable, rows: Sequence[RunRow], by: str) -> list[Entry]:
    """Return rows with those of one value folded, each fold where its first row stands.

    Runs without a sweep stay rows of their own when folded by sweep; of other fields those without a value are a fold
    too. Raises InvalidInput for an unknown field.
    """
    known = table.field(by)
    read = table.reader(known.name)
    folds: dict[str, list[RunRow]] = {}
    order: list[str | RunRow] = []
    titles: dict[str, str] = {}
    for row in rows:
        value = row.group_id if known.name == SWEEPS and row.group_id in table.names.sweeps else read(row)
        if known.name == SWEEPS and value is None:
            order.append(row)
            continue
        key = "" if value is None or value == "" or value == () else str(value)
        if key not in folds:
            folds[key] = []
            order.append(key)
            titles[key] = table.names.sweeps[key] if known.name == SWEEPS else known.write(value)
        folds[key].append(row)
    return [RunFold(one, titles[one], tuple(folds[one])) if isinstance(one, str) else one for one in order]


def fold_cell(table: RunTable, fold: RunFold, known: RunField) -> str:
    """Return what a fold shows of a field: the best value of a metric, a value that all share, a range, or how many
    values there are.
    """
    read = table.reader(known.name)
    values: list[Any] = [value for row in fold.rows if (value := read(row)) is not None and value not in ("", ())]
    if not values:
        return ""
    if known.better is not None:
        return "best " + known.write(min(values) if known.better == "lowest" else max(values))
    texts = list(dict.fromkeys(known.write(value) for value in values))
    if len(texts) == 1:
        return texts[0]
    if known.form in ("number", "integer", "count", "loss", "duration", "bytes", "percent"):
        low, high = known.write(min(values)), known.write(max(values))
        return low if low == high else f"{low} to {high}"
    if known.form == "usd":
        return known.write(math.fsum(values)) + " in all"
    if known.kind is ValueKind.TIME:
        return known.write(max(values))
    if known.name == "status":
        counts = {text: sum(known.write(value) == text for value in values) for text in texts}
        return ", ".join(f"{count} {text}" for text, count in counts.items())
    return ", ".join(texts) if len(texts) <= 2 and sum(map(len, texts)) < 30 else plural(len(texts), "value")
