"""Compare evaluations: paired on the same items, refused where settings differ, corrected for multiple comparisons."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from backend.db.tables import Checkpoint, Evaluation
from backend.domain.attributes import view_of
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.config import is_score_lower_better, unlike_settings
from backend.domain.jobs.states import Status, status_word
from backend.domain.statistics.estimates import Estimate, FloatArray
from backend.domain.statistics.paired import PairedComparison, paired_difference, paired_macro
from backend.domain.statistics.quantiles import LEVEL
from backend.domain.statistics.ranking import rank_jointly
from backend.errors import Conflict
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, ScoreView, get_evaluation, list_evaluations
from backend.services.evaluation.packed_items import ItemValues, read_item_values
from backend.services.evaluation.pairing import (
    CORPUS_SIZE,
    Pairing,
    item_metric,
    pair_items,
    subgroups_of,
    values_of_items,
)

ALPHA = 0.05
MIN_SHARED = 0.9
"""Share of the best's items that a checkpoint must have answered to be judged with the others."""
MAX_RANKED = 100
FACTS_THAT_MUST_AGREE = ("used_chat_template", "unit", "number_format")
_COUNTS = {
    "items",
    "chance",
    "tokens",
    "prompt_tokens",
    "completion_tokens",
    "price_usd",
    "audit_items",
    "audit_difference",
}
_KINDS_OF_ITEMS = {"truncated_items", "capped_items", "tied_items", "missing_items", "lost_items"}
RESULTS_AMONG_FACTS = frozenset({*_COUNTS, *_KINDS_OF_ITEMS, "weights_hash", "endpoint", "url", "model", "judge"})
"""Facts that are counts of the outcome or name the subject, not conditions."""
PART_OF_AN_ENDPOINT = frozenset({"engine", "dtype", "number_format"})
"""Conditions that come with an endpoint, so that they may differ from those of a checkpoint."""


@dataclass(frozen=True)
class Pair:
    """Two finished evaluations that were asked alike, and the metric by which they are compared."""

    first: EvaluationView
    second: EvaluationView
    metric: str


@dataclass(frozen=True)
class Comparison(Pair):
    """Second minus first on the items that both have. `better` is "first", "second", or None while undecided."""

    n: int
    left_out: int  # items that only one of them has
    difference: Estimate
    p_value: float | None
    wins: int  # items on which the second is better
    losses: int
    ties: int
    method: str
    clusters: int | None  # None: every item counts for itself
    differs: tuple[str, ...]  # facts that differ without making them incomparable, such as the device
    better: str | None


@dataclass(frozen=True)
class Rank:
    """A rank in a column. `p_adjusted`: adjusted p value of "shares first place"; None for the best score or where it
    can't be computed.

    `rank_low` and `rank_high` enclose the rank, those of all checkpoints together with 95 % confidence; None where
    there is no test.
    """

    evaluation: EvaluationView
    score: ScoreView
    p_adjusted: float | None
    shares_first_place: bool
    rank_low: int | None = None
    rank_high: int | None = None


def compare(ctx: Context, first_id: str, second_id: str, *, metric: str | None = None) -> Comparison:
    """Compare two finished evaluations of the same benchmark, item by item.

    Raises what `open_pair` raises, InvalidInput for a metric that they do not have or fewer than two items in common.
    """
    pair = open_pair(ctx, first_id, second_id, metric=metric)
    first, second, metric = pair.first, pair.second, pair.metric
    before, after = values_of_items(ctx, first.id, second.id)
    paired = pair_items(first, before, after, metric, subgroups=subgroups_of(ctx, first, metric))
    lower = is_score_lower_better(metric)
    return view_of(
        Comparison,
        paired,
        first=first,
        second=second,
        metric=metric,
        left_out=len(before) + len(after) - 2 * paired.n,
        wins=paired.losses if lower else paired.wins,
        losses=paired.wins if lower else paired.losses,
        differs=unlike_facts(first, second),
        better=better_of(paired.p_value, paired.difference, lower=lower),
    )


def open_pair(ctx: Context, first_id: str, second_id: str, *, metric: str | None = None) -> Pair:
    """Return two finished evaluations that may be compared.

    Raises Conflict, naming every reason, where they were not asked the same way or have not finished.
    """
    first, second = get_evaluation(ctx, first_id), get_evaluation(ctx, second_id)
    refuse_unlike(first, second)
    return Pair(first, second, metric or (first.main_score or first.scores[0]).metric)


def refuse_unlike(first: EvaluationView, second: EvaluationView) -> None:
    """Raise Conflict unless two evaluations have finished and were asked the same questions in the same way."""
    for evaluation in (first, second):
        if evaluation.status is not Status.FINISHED or not evaluation.scores:
            raise Conflict(
                f"The evaluation of “{evaluation.checkpoint}” is {status_word(evaluation.status)}.",
                remedy="Compare finished ones.",
            )
    if reasons := unlike_ways(first, second):
        chat = first.facts.used_chat_template != second.facts.used_chat_template
        remedy = (
            "Evaluate both with the chat template on, or both with it off."
            if chat
            else "Evaluate both with the same settings."
        )
        raise Conflict(
            f"These evaluations can't be compared, because they differ in {', and in '.join(reasons)}.", remedy=remedy
        )


def unlike_ways(first: EvaluationView, second: EvaluationView) -> list[str]:
    """Return every setting in which two evaluations differ, one phrase each. Empty: they may be compared."""
    across = first.endpoint is not None or second.endpoint is not None
    return unlike_settings(_decisive(first, across=across), _decisive(second, across=across))


def unlike_facts(first: EvaluationView, second: EvaluationView) -> tuple[str, ...]:
    """Return the recorded facts in which two comparable evaluations differ: `device (cpu and cuda)`."""
    facts = [evaluation.facts.model_dump() for evaluation in (first, second)]
    return tuple(
        f"{FACT_WORDS.get(name, name.replace('_', ' '))} ({_fact_text(facts[0][name])} and"
        f" {_fact_text(facts[1][name])})"
        for name in facts[0]
        if name not in RESULTS_AMONG_FACTS and facts[0][name] != facts[1][name]
    )


FACT_WORDS = {
    "bos": "begin token before each text",
    "stored_dtype": "stored number format",
    "number_format": "number format",
}


def _fact_text(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "none" if value is None else str(value)


def _decisive(evaluation: EvaluationView, *, across: bool = False) -> dict[str, object]:
    """Return what must agree. `across`: between endpoint and another subject, with its own engine and number format."""
    # whether chat was used is in the facts
    settings = {name: value for name, value in evaluation.settings.items() if name != "chat"}
    decisive = {**settings, **{name: getattr(evaluation.facts, name) for name in FACTS_THAT_MUST_AGREE}}
    return {name: value for name, value in decisive.items() if not (across and name in PART_OF_AN_ENDPOINT)}


def better_of(p_value: float | None, difference: Estimate, *, lower: bool) -> str | None:
    """Return which of two is significantly better, "first" or "second"; None while undecided. `lower`: less of the
    metric is better.
    """
    if p_value is None or p_value >= ALPHA:
        return None
    return "second" if (difference.value < 0) == lower else "first"


def list_comparable(ctx: Context, evaluation: EvaluationView) -> list[EvaluationView]:
    """Return the newest finished evaluation of every other checkpoint and endpoint that compares with this one."""
    newest: dict[str, EvaluationView] = {}
    for other in list_evaluations(ctx, version_id=evaluation.version_id):
        across = evaluation.endpoint is not None or other.endpoint is not None
        fits = other.status is Status.FINISHED and other.scores and other.subject_id != evaluation.subject_id
        if fits and column_key(other, across=across) == column_key(evaluation, across=across):
            newest.setdefault(other.subject_id, other)
    return list(newest.values())


def order_pair(ctx: Context, one: EvaluationView, other: EvaluationView) -> dict[str, str]:
    """Return the address of a comparison: the older checkpoint is its baseline (`first`), the newer one its candidate
    (`second`). Endpoints are as old as their evaluations.
    """
    ages = {evaluation.id: evaluation.created_at for evaluation in (one, other)}
    if one.checkpoint_id and other.checkpoint_id:
        query = select(Evaluation.id, Checkpoint.created_at).join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        with ctx.db.read() as session:
            ages = dict(session.execute(query.where(Evaluation.id.in_(ages))).all())
    first, second = sorted((one, other), key=lambda evaluation: ages[evaluation.id])
    return {"first": first.id, "second": second.id}


def column_key(evaluation: EvaluationView, *, across: bool = False) -> str:
    """Return the key of the column of evaluations comparable with this one; `across` leaves out an endpoint's own."""
    decisive = json.dumps([evaluation.version_id, _decisive(evaluation, across=across)], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def column_keys(evaluations: Sequence[EvaluationView]) -> dict[str, str]:
    """Return the column of each finished evaluation by its id. An endpoint stands in the largest column of checkpoints
    that it fits in.
    """
    keys = {e.id: column_key(e) for e in evaluations if e.endpoint is None}
    sizes, columns = Counter(keys.values()), dict[str, list[str]]()
    for evaluation in evaluations:
        if evaluation.endpoint is None:
            columns.setdefault(column_key(evaluation, across=True), []).append(keys[evaluation.id])
    for evaluation in evaluations:
        if evaluation.endpoint is not None:
            shared = column_key(evaluation, across=True)
            keys[evaluation.id] = max(columns.get(shared, [shared]), key=lambda key: sizes[key])
    return keys


def rank_evaluations(ctx: Context, evaluations: Sequence[EvaluationView], *, metric: str | None = None) -> list[Rank]:
    """Order comparable evaluations by a metric, best first, with those that share the first place and the interval of
    each rank.

    All checkpoints are judged together on the items that they share (`rank_jointly`), two by their paired comparison.
    At most the best 100 are tested.
    """
    if not evaluations:
        return []
    metric = metric or evaluations[0].main_metric
    placed = [(evaluation, score) for evaluation in evaluations if (score := evaluation.score(metric)) is not None]
    if not placed:
        return []
    placed.sort(key=lambda pair: pair[1].value if is_score_lower_better(metric) else -pair[1].value)
    places = rank_together(ctx, [evaluation.id for evaluation, _ in placed[:MAX_RANKED]], metric)
    ranks = []
    for index, (evaluation, score) in enumerate(placed):
        p_value, low, high = places.get(evaluation.id, (None, None, None))
        shares = index == 0 or (p_value is not None and p_value >= ALPHA)
        ranks.append(
            Rank(
                evaluation,
                score,
                p_value if index else None,
                shares,
                low if shares or low is None else max(low, 2),
                high,
            )
        )
    return ranks


Place = tuple[float, int, int]
"""Adjusted p value of sharing first place, lowest and highest rank."""


def rank_together(ctx: Context, evaluation_ids: Sequence[str], metric: str) -> dict[str, Place]:
    """Judge finished evaluations of one column together, best first; those that share too few items with the best are
    left out.

    Finished evaluations never change, so the last few hundred answers are remembered.
    """
    remembered = (tuple(evaluation_ids), metric)
    if remembered not in _PLACES:
        if len(_PLACES) >= MAX_REMEMBERED:
            _PLACES.pop(next(iter(_PLACES)))
        first = get_evaluation(ctx, evaluation_ids[0])
        subgroups = subgroups_of(ctx, first, metric)
        _PLACES[remembered] = _judge(
            read_item_values(ctx, evaluation_ids), list(evaluation_ids), metric, subgroups=subgroups
        )
    return _PLACES[remembered]


MAX_REMEMBERED = 500
_PLACES: dict[tuple[tuple[str, ...], str], dict[str, Place]] = {}


def _judge(
    values: dict[str, ItemValues], evaluation_ids: list[str], metric: str, *, subgroups: Mapping[int, str] | None
) -> dict[str, Place]:
    keys, judged = values[evaluation_ids[0]].keys, list[str]()
    for one in evaluation_ids:
        shared = np.intersect1d(keys, values[one].keys, assume_unique=True)
        # an evaluation with other items must not reduce the shared items of the rest
        if len(shared) >= max(2.0, MIN_SHARED * len(keys)):
            keys, judged = shared, [*judged, one]
    if len(judged) < 2:
        return {}
    tables = [values[one].table[np.searchsorted(values[one].keys, keys)] for one in judged]
    metric = item_metric(metric)
    column = "sum_nll" if metric in CORPUS_SIZE else metric
    # a corpus metric has no item scores
    if any(column not in values[one].metrics or f"{metric}:0" in values[one].metrics for one in judged):
        return {}
    scores = np.column_stack(
        [table[:, values[one].metrics.index(column)] for one, table in zip(judged, tables, strict=True)]
    )
    first = values[judged[0]]
    clusters = tables[0][:, first.metrics.index(CLUSTER)] if CLUSTER in first.metrics else None
    known = np.isfinite(scores).all(axis=1)
    if known.sum() < 2:
        return {}
    scores, labels = scores[known], None if clusters is None else clusters[known].tolist()
    parts = (
        None
        if subgroups is None
        else np.unique([subgroups.get(int(key), "") for key in keys[known]], return_inverse=True)[1]
    )
    # so that the sum is that of the subgroups' means
    weighted = scores if parts is None else scores / np.bincount(parts)[parts, None]
    joint = rank_jointly(weighted, clusters=labels, lower_is_better=is_score_lower_better(metric))
    p_first = joint.p_first
    if len(judged) == 2 and metric not in CORPUS_SIZE:  # two: as their comparison says
        p_value = _pair_columns(scores, labels, parts).p_value
        p_first = (1.0, 1.0 if p_value is None else p_value)
    return dict(zip(judged, zip(p_first, joint.rank_low, joint.rank_high, strict=True), strict=True))


def _pair_columns(
    scores: FloatArray, labels: list[float] | None, parts: npt.NDArray[np.intp] | None
) -> PairedComparison:
    """Pair two columns of scores, subgroup by subgroup where `parts` numbers them."""

    def pairing(rows: npt.NDArray[np.intp]) -> Pairing:
        clusters = None if labels is None else [labels[row] for row in rows]
        return lambda level: paired_difference(scores[rows, 0], scores[rows, 1], clusters=clusters, level=level)

    if parts is None:
        return pairing(np.arange(len(scores)))(LEVEL)
    return paired_macro([pairing(np.flatnonzero(parts == part)) for part in range(int(parts.max()) + 1)], level=LEVEL)
