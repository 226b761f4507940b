"""Entry of an evaluation job: one benchmark on one checkpoint.

Payload: `checkpoint` and `dataset` (folders relative to the artifacts), `kind`, `split` and `config` (an EvaluationConfig),
`fingerprint`. Reports an `item` event for each item; the result holds `scores` and `facts`.
"""

from __future__ import annotations

from collections.abc import Iterator

from backend.domain.data.rows.conversations import conversation_of
from backend.domain.evaluation.clusters import cluster_values
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import EvaluateResult, EvaluationFacts
from jobs.evaluation import generation, multiple_choice, perplexity
from jobs.evaluation.estimates import estimate_scores
from jobs.evaluation.items import Item, Scored, choose_items, read_items
from jobs.evaluation.ledger import Ledger
from jobs.evaluation.subject import Subject, load_subject
from jobs.modeling.devices import set_threads
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec[EvaluatePayload], reporter: Reporter) -> EvaluateResult:
    """Score a benchmark; see the module's first lines. Raises RoundhouseError subclasses for rows or checkpoints that can't be scored."""
    payload = spec.payload
    kind, config = payload.kind, payload.config
    set_threads(payload.threads)
    examples, items = choose_items(
        read_items(spec.path(payload.dataset), split=payload.split),
        shots=0 if kind is EvaluationKind.PERPLEXITY else config.shots,
        limit=config.limit,
        seed=config.seed,
    )
    reporter.progress(0, len(items), unit="items", message="Loading the network")
    subject = load_subject(spec.path(payload.checkpoint))
    chat = _uses_chat(subject, items, kind=kind, config=config)
    by_window = kind is EvaluationKind.PERPLEXITY and not chat and perplexity.counts_windows(items)
    ledger = Ledger(spec.folder / "items.jsonl", reporter, fingerprint=payload.fingerprint)
    ledger.expect(len(items))
    ledger.clusters = dict(zip([item.hash for item in items], cluster_values([item.row for item in items]) or [], strict=False))
    left = items if by_window else [item for item in items if item.hash not in ledger.values]
    for batch in score_items(subject, left, kind=kind, config=config, chat=chat, examples=examples, ledger=ledger):
        ledger.add(batch)
    unit = "windows" if by_window else "documents" if kind is EvaluationKind.PERPLEXITY else "items"
    values = list(ledger.values.values())
    facts = EvaluationFacts(
        used_chat_template=chat,
        unit=unit,
        items=len(values),
        context=subject.context,
        number_format=subject.number_format,
        device=subject.network.device.type,
        **_facts_of_kind(kind, values),
    )
    return EvaluateResult(scores=tuple(estimate_scores(kind, values, unit=unit)), facts=facts)


def _facts_of_kind(kind: EvaluationKind, values: list[dict[str, float]]) -> dict[str, float]:
    if kind is EvaluationKind.MULTIPLE_CHOICE:
        return {"chance": sum(v["chance"] for v in values) / len(values)}
    if kind is EvaluationKind.PERPLEXITY:
        tokens, lost = (int(sum(v.get(name, 0) for v in values)) for name in ("tokens", "lost_bytes"))
        return {"tokens": tokens, **({"lost_bytes": lost} if lost else {})}
    return {}


def _uses_chat(subject: Subject, items: list[Item], *, kind: EvaluationKind, config: EvaluationConfig) -> bool:
    """Decide on the chat template: `auto` uses it for generated answers and conversations, never for choices or running text."""
    if kind is EvaluationKind.PERPLEXITY and conversation_of(items[0].row) is None:
        return False
    if kind is EvaluationKind.MULTIPLE_CHOICE and config.chat == "auto":
        return False
    return subject.uses_chat(config.chat)


def score_items(
    subject: Subject,
    items: list[Item],
    *,
    kind: EvaluationKind,
    config: EvaluationConfig,
    chat: bool,
    examples: list[Item],
    ledger: Ledger,
) -> Iterator[list[Scored]]:
    """Yield scored items batch by batch. Raises InvalidInput for rows that the kind can't score."""
    size, check = config.batch_size, ledger.check_stop
    if kind is EvaluationKind.PERPLEXITY:
        if chat:
            return perplexity.score_conversations(subject, items, batch_size=size, check_stop=check)
        return perplexity.score_texts(subject, items, windows=config.windows, batch_size=size, check_stop=check)
    if kind is EvaluationKind.MULTIPLE_CHOICE:
        multiple_choice.check_rows([*examples, *items])
        return multiple_choice.score_choices(subject, items, examples=examples, chat=chat, batch_size=size, check_stop=check)
    generation.check_rows([*examples, *items])
    return generation.score_answers(
        subject,
        items,
        examples=examples,
        chat=chat,
        max_tokens=config.max_tokens,
        numeric=config.numeric,
        batch_size=size,
        check_stop=check,
    )
