"""Safety probes: kinds, metrics, and what one item holds. Pure.

A *probe* is a benchmark whose answers are scored by rules of this folder. Its rows are ordinary benchmark rows,
answered or scored by the ordinary engines; beside them each row carries `meta`, what the rules need to know (safe or
unsafe, group, template).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from backend.domain.json_values import JsonObject, Row

NO_REFERENCE = "(scored by rule)"
"""Reference of a row that has no right answer: the engines require one."""


class Probe(StrEnum):
    """Kind of a safety probe."""

    REFUSAL = "refusal"
    JAILBREAK = "jailbreak"
    INJECTION = "injection"
    BBQ = "bbq"
    PRONOUNS = "pronouns"
    STEREOTYPES = "stereotypes"
    EXTRACTION = "extraction"
    CANARIES = "canaries"


PROBE_LABEL: dict[Probe, str] = {
    Probe.REFUSAL: "Refusal and over-refusal",
    Probe.JAILBREAK: "Jailbreak templates",
    Probe.INJECTION: "Prompt injection in a document",
    Probe.BBQ: "BBQ: bias in question answering",
    Probe.PRONOUNS: "Winogender: pronouns and occupations",
    Probe.STEREOTYPES: "Stereotype pairs (CrowS-Pairs, WinoBias)",
    Probe.EXTRACTION: "Extraction of training rows",
    Probe.CANARIES: "Canaries",
}
GENERATED = frozenset({Probe.REFUSAL, Probe.JAILBREAK, Probe.INJECTION, Probe.EXTRACTION})
"""Probes that are answered; the others are scored by the likelihood of choices."""


@dataclass(frozen=True)
class SafetyMetric:
    """A safety metric. `higher_is_safer` is None where neither is; `noun` completes "lost 11 points of ..."."""

    label: str
    higher_is_safer: bool | None
    noun: str
    is_share: bool = True


METRICS: dict[str, SafetyMetric] = {
    "refusal": SafetyMetric("refusals of unsafe prompts", True, "refusals of unsafe prompts"),
    "unsafe_compliance": SafetyMetric("unsafe prompts not refused", False, "non-refusals of unsafe prompts"),
    "over_refusal": SafetyMetric("refusals of safe prompts", False, "refusals of safe prompts"),
    "jailbreak": SafetyMetric(
        "unsafe prompts in templates not refused", False, "non-refusals of unsafe prompts in templates"
    ),
    "harm": SafetyMetric("harmful answers, by a judge", False, "harmful answers"),
    "injection": SafetyMetric("injections that succeed", False, "successful prompt injections"),
    "toxic": SafetyMetric("answers called toxic", False, "answers called toxic"),
    "accuracy_ambiguous": SafetyMetric("accuracy, ambiguous contexts", True, "accuracy in ambiguous contexts"),
    "accuracy_disambiguated": SafetyMetric(
        "accuracy, disambiguated contexts", True, "accuracy in disambiguated contexts"
    ),
    "bias_ambiguous": SafetyMetric("bias score, ambiguous contexts", None, "bias score in ambiguous contexts"),
    "bias_disambiguated": SafetyMetric(
        "bias score, disambiguated contexts", None, "bias score in disambiguated contexts"
    ),
    "gender_gap": SafetyMetric("accuracy on his sentences less that on hers", None, "gap in accuracy by gender"),
    "stereotype": SafetyMetric("stereotype preferred", None, "preference for the stereotype"),
    "stereotype_gap": SafetyMetric("log-likelihood gap, nats", None, "log-likelihood gap", is_share=False),
    "extracted": SafetyMetric("training rows reproduced", False, "training rows reproduced"),
    "exposure": SafetyMetric("exposure, bits", False, "exposure", is_share=False),
}
"""Metrics in the order in which a card shows them. A bias score or a preference is safest at its NEUTRAL value."""
BY_RULE = frozenset({"refusal", "unsafe_compliance", "over_refusal", "jailbreak"})
"""Metrics of the refusal rules. An answer that they call unclear may be either, which their intervals allow for."""
NEUTRAL: dict[str, float] = {
    "bias_ambiguous": 0.0,
    "bias_disambiguated": 0.0,
    "gender_gap": 0.0,
    "stereotype": 0.5,
    "stereotype_gap": 0.0,
}


@dataclass(frozen=True)
class ProbeItem:
    """One row of a probe: a question to answer, or choices whose likelihoods are compared."""

    question: str
    choices: tuple[str, ...] = ()
    answer: int = 0
    meta: JsonObject = field(default_factory=dict)

    def row(self) -> Row:
        """Return the row that is stored and scored."""
        scored = {"choices": list(self.choices), "answer": self.answer} if self.choices else {"answers": [NO_REFERENCE]}
        return {"question": self.question, **scored, "meta": json.dumps(self.meta, sort_keys=True, ensure_ascii=False)}


def meta_of(row: Mapping[str, Any]) -> dict[str, object]:
    """Return what a stored row carries for the rules; empty for a row of another benchmark."""
    text = row.get("meta")
    meta = json.loads(text) if isinstance(text, str) and text.startswith("{") else {}
    return meta if isinstance(meta, dict) else {}
