"""Agreement of the refusal scorer with human labels: Cohen's kappa, precision and recall, each with its interval. Pure.

A number of a scorer is worth what the scorer is worth, so every page prints this beside it. Answers that the scorer
calls unclear are left out of kappa and counted; `kappa_all` counts them as "no refusal", the reading that flatters
least.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.evaluation.safety.languages import language_of
from backend.domain.evaluation.safety.refusal import SCORER, Outcome, score_refusal
from backend.domain.statistics.agreement import pooled_kappa
from backend.domain.statistics.estimates import proportion_estimate
from backend.errors import InvalidInput

NOT_MEASURED = "agreement not measured here"
ANSWER_COLUMNS = ("completion", "assistant_response", "response", "answer", "output", "generation")
PROMPT_COLUMNS = ("prompt", "objective", "question", "behavior", "behaviour", "goal", "instruction")
LABEL_COLUMNS = (
    "final_label",
    "human_score",
    "label",
    "human_label",
    "is_refusal",
    "refusal",
    "refused",
    "annotation",
    "annotation_1",
)
_REFUSED = re.compile(
    r"(?:\d+[ _-]*)?(?:(?:full|partial|hard|soft)[ _-]*)?refus(?:al|ed|es?)|(?:1|1\.0|true|yes)", re.IGNORECASE
)
_COMPLIED = re.compile(
    r"(?:\d+[ _-]*)?(?:(?:full|partial)[ _-]*)?(?:compl(?:iance|ied|y|ies)|answer(?:ed)?|non?[ _-]?refusal|"
    r"not[ _-]refus\w+)|(?:0|0\.0|false|no)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer that a person labelled. `refused` is the label; a partial refusal counts as one."""

    answer: str
    refused: bool
    prompt: str = ""


DEVELOPED_ON = frozenset({"4034a7b4ba45f510", "06eeb6461e669d7d", "2bffdb394af24a9c", "2dd90eb58a4da820"})
"""Digests of the answers that the rules were written on: XSTest's of Mistral, with and without guard, PyRIT's two."""


@dataclass(frozen=True)
class LanguageAgreement:
    """Counts of one language: answers, refusals by label, unclear ones, and clear ones where both agree."""

    language: str
    n: int
    refusals: int
    unclear: int
    agreed: int


@dataclass(frozen=True)
class ScorerAgreement:
    """Agreement of a scorer with labels on `n` answers of `file`, of which `unclear` are left out of all but
    `kappa_all`.

    `held_out`: the rules were not written on these answers; None of one that an earlier version measured.
    """

    scorer: str
    file: str
    n: int
    unclear: int
    refusals: int
    kappa: float
    kappa_interval: tuple[float, float] | None
    kappa_all: float
    precision: float | None
    precision_interval: tuple[float, float] | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    held_out: bool | None = None
    languages: tuple[LanguageAgreement, ...] = ()

    def dump(self) -> dict[str, object]:
        """Return it as JSON."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """The line shown beside a number."""
        bounds = "" if self.kappa_interval is None else f" [{self.kappa_interval[0]:.2f}, {self.kappa_interval[1]:.2f}]"
        parts = [f"{self.scorer}: kappa {self.kappa:.2f}{bounds} with human labels"]
        if self.precision is not None and self.recall is not None:
            parts.append(f"precision {self.precision:.2f}, recall {self.recall:.2f}")
        origin = {True: "held out", False: "the rules were written on them", None: ""}[self.held_out]
        remarks = ", ".join(filter(None, (f"{self.unclear} unclear", origin)))
        return f"{', '.join(parts)} on {self.n} answers of {self.file} ({remarks})"


def read_agreement(stored: Mapping[str, Any]) -> ScorerAgreement:
    """Return an agreement that `dump` wrote."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    values["languages"] = tuple(LanguageAgreement(**one) for one in stored.get("languages") or ())
    known = {name: values.get(name) for name in ScorerAgreement.__dataclass_fields__}
    return ScorerAgreement(**known)  # type: ignore[arg-type]


def read_labelled(rows: Sequence[Mapping[str, Any]]) -> list[LabelledAnswer]:
    """Return the labelled answers of a file's rows.

    Raises InvalidInput, naming the columns, where none holds answers or labels, or a label is neither a refusal nor a
    compliance.
    """
    if not rows:
        raise InvalidInput("The labelled file has no rows.", field="file")
    columns = list(rows[0])
    answer, label = _column(columns, ANSWER_COLUMNS, what="answers"), _column(columns, LABEL_COLUMNS, what="labels")
    prompt = next((name for name in PROMPT_COLUMNS if name in columns and name != answer), None)
    labelled = []
    for number, row in enumerate(rows, 1):
        refused = read_refusal_label(row.get(label))
        if refused is None:
            raise InvalidInput(
                f"Row {number}: `{label}` is {str(row.get(label))[:40]!r}, neither a refusal nor a compliance.",
                remedy="Write refusal or compliance, true or false, 1 or 0.",
                field="file",
            )
        labelled.append(
            LabelledAnswer(str(row.get(answer) or ""), refused, str(row.get(prompt) or "") if prompt else "")
        )
    return labelled


def read_refusal_label(value: Any) -> bool | None:
    """Return whether a label means refusal: `2_full_refusal`, `True`, `1`; None for one that says neither."""
    text = str(value).strip()
    if _COMPLIED.fullmatch(text):
        return False
    return True if _REFUSED.fullmatch(text) else None


def _column(columns: Sequence[str], names: Sequence[str], *, what: str) -> str:
    column = next((name for name in names if name in columns), None)
    if column is None:
        raise InvalidInput(
            f"No column holds the {what}; the file has {', '.join(map(str, columns[:12]))}.",
            remedy=f"Name it one of {', '.join(names)}.",
            field="file",
        )
    return column


def measure_agreement(labelled: Sequence[LabelledAnswer], *, file: str) -> ScorerAgreement:
    """Score every answer and compare with its label. Raises InvalidInput where no answer is clear."""
    outcomes = [score_refusal(one.answer, prompt=one.prompt).outcome for one in labelled]
    table = np.array(
        [
            (outcome is Outcome.REFUSAL, one.refused)
            for outcome, one in zip(outcomes, labelled, strict=True)
            if outcome is not Outcome.UNCLEAR
        ],
        dtype=np.float64,
    )
    if not len(table):
        raise InvalidInput(
            "The scorer calls every answer of this file unclear.",
            remedy="Give answers in a language that it has rules for (docs/safety.md).",
            field="file",
        )
    everything = np.array(
        [(outcome is Outcome.REFUSAL, one.refused) for outcome, one in zip(outcomes, labelled, strict=True)],
        dtype=np.float64,
    )
    interval = pooled_kappa(table.astype(np.int64))
    said, true = table[:, 0] == 1, table[:, 1] == 1
    precision, precision_interval = _share(int((said & true).sum()), int(said.sum()))
    recall, recall_interval = _share(int((said & true).sum()), int(true.sum()))
    return ScorerAgreement(
        scorer=SCORER,
        file=file,
        n=len(labelled),
        unclear=len(labelled) - len(table),
        refusals=sum(one.refused for one in labelled),
        kappa=cohen_kappa(table),
        kappa_interval=None if interval is None or interval.low is None else (interval.low, interval.high or 1.0),
        kappa_all=cohen_kappa(everything),
        precision=precision,
        precision_interval=precision_interval,
        recall=recall,
        recall_interval=recall_interval,
        held_out=answers_digest(labelled) not in DEVELOPED_ON,
        languages=_by_language(labelled, outcomes),
    )


def answers_digest(labelled: Sequence[LabelledAnswer]) -> str:
    """Return a digest of a file's answers, in any order."""
    return hashlib.blake2b("\0".join(sorted(one.answer for one in labelled)).encode(), digest_size=8).hexdigest()


def _by_language(labelled: Sequence[LabelledAnswer], outcomes: Sequence[Outcome]) -> tuple[LanguageAgreement, ...]:
    """Return the counts by the language that the scorer takes an answer to be in, the commonest first."""
    parts: dict[str, list[tuple[bool, Outcome]]] = {}
    for one, outcome in zip(labelled, outcomes, strict=True):
        parts.setdefault(language_of(one.answer) or "not known", []).append((one.refused, outcome))
    return tuple(
        LanguageAgreement(
            language=language,
            n=len(part),
            refusals=sum(refused for refused, _ in part),
            unclear=sum(outcome is Outcome.UNCLEAR for _, outcome in part),
            agreed=sum(outcome is (Outcome.REFUSAL if refused else Outcome.COMPLIANCE) for refused, outcome in part),
        )
        for language, part in sorted(parts.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    )


def cohen_kappa(table: NDArray[np.float64]) -> float:
    """Chance-corrected agreement of two columns of 0 and 1. Cohen (1960). 1 where both always say one thing."""
    first, second = table[:, 0], table[:, 1]
    observed = float((first == second).mean())
    expected = float(first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()))
    return 1.0 if expected >= 1.0 else (observed - expected) / (1 - expected)


def _share(successes: int, n: int) -> tuple[float | None, tuple[float, float] | None]:
    if not n:
        return None, None
    estimate = proportion_estimate(successes, n)
    return estimate.value, (float(estimate.low or 0.0), float(estimate.high if estimate.high is not None else 1.0))
