"""Entry of an evaluation job: one benchmark on one checkpoint or endpoint.

Payload: `checkpoint` and `dataset` (folders relative to the artifacts) or `endpoint`, `kind`, `split` and `config` (an
EvaluationConfig), `fingerprint`. Reports an `item` event for each item; the result holds `scores` and `facts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.attributes import attributes_of
from backend.domain.data.rows.conversations import as_conversation
from backend.domain.evaluation.clusters import cluster_values
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.tasks.selection import render_row
from backend.domain.jobs.payloads import EvaluatePayload, require_folder
from backend.domain.jobs.results import EvaluateResult, EvaluationFacts, ScoreRow
from backend.domain.openai_servers import price_tokens
from backend.errors import NotAllowed
from backend.infra.keys import read_key
from jobs.evaluation.check import check_engines
from jobs.evaluation.engines.base import EvaluationEngine
from jobs.evaluation.engines.choose import open_engine
from jobs.evaluation.engines.openai_http import EndpointEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.items import Item, choose_items, read_split
from jobs.evaluation.judges.metric import graded, judge_facts, open_judge
from jobs.evaluation.ledger import ItemLedger
from jobs.evaluation.questions import Audit, Question, answer_questions, no_tokens
from jobs.evaluation.sandbox.programs import check_sandbox
from jobs.evaluation.subject import EndpointSubject, EvaluatedNetwork, load_subject
from jobs.evaluation.task_estimates import estimate_task
from jobs.evaluation.task_questions import ColumnRows, TaskQuestions, choose_task_items
from jobs.evaluation.without_task import (
    check_choices,
    check_questions,
    choice_question,
    conversation_question,
    counts_windows,
    estimate_scores,
    generated_question,
    text_question,
)
from jobs.modeling.devices import set_threads
from jobs.reporter import JobSpec, Reporter


@dataclass(frozen=True)
class Work:
    """Items to score and their examples: rows, or a task's selection of them."""

    items: list[Item]
    examples: list[Item]
    selection: Any = None


def run(spec: JobSpec[EvaluatePayload], reporter: Reporter) -> EvaluateResult:
    """Score a benchmark; see the module's first lines. Raises RoundhouseError subclasses for rows or checkpoints that
    can't be scored.
    """
    payload = spec.payload
    kind, config = payload.kind, payload.config
    if config.task is not None and config.task.runs_code:
        _check_code_execution(payload)
    set_threads(payload.threads)
    work = choose_work(spec)
    subject = open_subject(spec, reporter, items=len(work.items))
    chat = uses_chat(subject, work.items, kind=kind, config=config)
    by_window = config.task is None and kind is EvaluationKind.PERPLEXITY and not chat and counts_windows(work.items)
    ledger = ItemLedger(spec.folder / "items.jsonl", reporter, fingerprint=payload.fingerprint)
    ledger.expect(len(work.items))
    questions = make_questions(subject, work, kind=kind, config=config, chat=chat, by_window=by_window)
    if payload.check is not None and not isinstance(subject, EndpointSubject):
        return check_engines(spec, reporter, subject, questions)
    ledger.clusters = _clusters(work, config)
    left = questions if by_window else [question for question in questions if question.item.hash not in ledger.values]
    engine = open_engine(
        config.engine, subject, batch_size=config.batch_size, check_stop=ledger.check_stop, job=spec.id
    )
    audits = config.engine != "plain" and not isinstance(subject, EndpointSubject)
    audit = Audit.draw(left, count=config.audit_items if audits else 0, seed=config.seed)
    spent = engine.spent if isinstance(engine, EndpointEngine) else no_tokens
    judge = open_judge(spec, check_stop=ledger.check_stop)
    for batch in graded(answer_questions(engine, subject.tokenizer, left, audit=audit, spent=spent), judge):
        ledger.add(batch)
    unit = "windows" if by_window else "documents" if kind is EvaluationKind.PERPLEXITY else "items"
    facts = _facts(engine, subject, ledger, chat=chat, unit=unit, kind=kind)
    facts = facts.model_copy(
        update={"judge": judge_facts(payload.judge, list(ledger.values.values()))} if payload.judge else {}
    )
    if not isinstance(subject, EndpointSubject):
        difference = audit.difference(PlainEngine(subject, check_stop=ledger.check_stop))
        facts = facts.model_copy(update={"audit_items": len(audit.results), "audit_difference": difference})
    return EvaluateResult(scores=_scores(ledger, kind=kind, config=config, unit=unit), facts=facts)


def open_subject(
    spec: JobSpec[EvaluatePayload], reporter: Reporter, *, items: int
) -> EvaluatedNetwork | EndpointSubject:
    """Load the checkpoint, or read the endpoint's key. Raises NotFound, InvalidInput, Unavailable."""
    payload = spec.payload
    if payload.endpoint is not None:
        reporter.progress(0, items, unit="items", message=f"Asking {payload.endpoint.name}")
        target = payload.endpoint
        return EndpointSubject(target, read_key(key_env=target.key_env, key_file=target.key_file))
    reporter.progress(0, items, unit="items", message="Loading the model")
    folder = require_folder(payload.checkpoint, what="checkpoint")
    return load_subject(spec.path(folder), dtype=payload.config.dtype)


def _check_code_execution(payload: EvaluatePayload) -> None:
    """Raise NotAllowed or Unavailable before the first program, unless they are allowed and confined here."""
    if not payload.run_code:
        raise NotAllowed(
            "This benchmark runs programs that the model writes, which is not allowed here.",
            remedy="Set ROUNDHOUSE_RUN_CODE=true.",
        )
    check_sandbox()


def choose_work(spec: JobSpec[EvaluatePayload]) -> Work:
    """Return the items of a job. Raises InvalidInput or TemplateFault for rows that its config can't use."""
    payload, config = spec.payload, spec.payload.config
    rows = read_split(spec.path(payload.dataset), split=payload.split)
    if config.task is None:
        shots = 0 if payload.kind is EvaluationKind.PERPLEXITY else config.shots
        return Work(*reversed(choose_items(rows, shots=shots, limit=config.limit, seed=config.seed)))
    source, split = payload.examples or payload.dataset, config.task.fewshot.split
    pool = ColumnRows(read_split(spec.path(source), split=split or "all")) if payload.examples or split else None
    chosen, selection = choose_task_items(config.task, rows, limit=config.limit, seed=config.seed, pool=pool)
    return Work(chosen, [], selection)


def make_questions(
    subject: EvaluatedNetwork | EndpointSubject,
    work: Work,
    *,
    kind: EvaluationKind,
    config: EvaluationConfig,
    chat: bool,
    by_window: bool = False,
) -> list[Question]:
    """Return the request of every item. Raises InvalidInput for rows that the kind can't score, TemplateFault for those
    a task can't.
    """
    items, examples = work.items, work.examples
    if config.task is not None:
        task = TaskQuestions(config.task, subject, work.selection, chat=chat, seed=config.seed, windows=config.windows)
        return [task.question(item) for item in items]
    if kind is EvaluationKind.PERPLEXITY:
        if chat and not isinstance(subject, EndpointSubject):
            return [conversation_question(subject, item) for item in items]
        return [text_question(item, windows=config.windows, by_window=by_window) for item in items]
    if kind is EvaluationKind.MULTIPLE_CHOICE:
        check_choices([*examples, *items])
        return [choice_question(subject, item, examples=examples, chat=chat) for item in items]
    check_questions([*examples, *items])
    return [
        generated_question(
            subject, item, examples=examples, chat=chat, max_tokens=config.max_tokens, numeric=config.numeric
        )
        for item in items
    ]


def uses_chat(
    subject: EvaluatedNetwork | EndpointSubject,
    items: Sequence[Item],
    *,
    kind: EvaluationKind,
    config: EvaluationConfig,
) -> bool:
    """Decide on the chat template: `auto` uses it for generated answers and conversations, never for choices, texts."""
    setting = config.task.chat if config.task is not None and config.chat == "auto" else config.chat
    if kind is EvaluationKind.PERPLEXITY and (config.task is not None or as_conversation(items[0].row) is None):
        return False
    if kind is EvaluationKind.MULTIPLE_CHOICE and setting == "auto":
        return False
    return subject.uses_chat(setting)


def _clusters(work: Work, config: EvaluationConfig) -> dict[str, float]:
    rows, labels = [item.row for item in work.items], None
    if config.task is not None and config.task.cluster:
        labels = [render_row(config.task, row, work.selection).cluster for row in rows]
    return dict(zip([item.hash for item in work.items], cluster_values(rows, labels) or [], strict=False))


def _scores(ledger: ItemLedger, *, kind: EvaluationKind, config: EvaluationConfig, unit: str) -> tuple[ScoreRow, ...]:
    if config.task is not None:
        return tuple(estimate_task(config.task, ledger))
    return tuple(estimate_scores(kind, list(ledger.values.values()), unit=unit))


def _facts(
    engine: EvaluationEngine,
    subject: EvaluatedNetwork | EndpointSubject,
    ledger: ItemLedger,
    *,
    chat: bool,
    unit: str,
    kind: EvaluationKind,
) -> EvaluationFacts:
    values, computed = list(ledger.values.values()), engine.facts()

    def count(name: str) -> int:
        return sum(1 for item in values if item.get(name))

    chances = [item["chance"] for item in values if "chance" in item]
    more: dict[str, Any] = {"chance": sum(chances) / len(chances)} if chances else {}
    if kind is EvaluationKind.PERPLEXITY:
        more["tokens"] = int(sum(item.get("tokens", 0) for item in values))
    if lost := int(sum(item.get("lost_bytes", 0) for item in values)):
        more |= {"lost_bytes": lost, "lost_items": count("lost_bytes")}
    more |= {name: number for name, part in COUNTED if (number := count(part))}
    if isinstance(subject, EndpointSubject):
        more |= _endpoint_facts(engine, subject, values)
    elif chat:
        more["template_hash"] = hashlib.sha256(str(subject.tokenizer.chat_template).encode()).hexdigest()
    return EvaluationFacts(
        **attributes_of(computed, "context", "device", "devices", "batch_tokens", "bos", "weights_hash"),
        used_chat_template=chat,
        unit=unit,
        items=len(values),
        number_format=computed.dtype,
        stored_dtype=subject.stored_dtype,
        engine=computed.name,
        engine_fallback=computed.fallback,
        item_ids_hash=hashlib.sha256("".join(sorted(ledger.values)).encode()).hexdigest(),
        **more,
    )


def _endpoint_facts(
    engine: EvaluationEngine, subject: EndpointSubject, values: Sequence[Mapping[str, float]]
) -> dict[str, object]:
    target = subject.target
    tokens = {name: int(sum(item.get(name, 0) for item in values)) for name in ("prompt_tokens", "completion_tokens")}
    price = price_tokens(*tokens.values(), input_price=target.input_price, output_price=target.output_price)
    model = engine.reported_model if isinstance(engine, EndpointEngine) else None
    return {"endpoint": target.name, "url": target.url, "model": model or target.model, "price_usd": price, **tokens}


COUNTED = (("truncated_items", "cut"), ("capped_items", "capped"), ("tied_items", "tied"), ("missing_items", "missing"))
