"""Entry of a generation job: completions of one checkpoint for a list of prompts.

Payload: `checkpoint` (folder), `prompts` [{id, messages}], `max_tokens`, `temperature`, `top_p`, `seed`, `chat` (auto, on, off).
Reports a `completion` event for each prompt; the result counts them. All are also stored in the job's folder, where
a later attempt reads them.
"""

from __future__ import annotations

import json

from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.payloads import GeneratePayload
from backend.domain.jobs.results import GenerateResult
from jobs.evaluation.completions import complete
from jobs.evaluation.engines.base import Sampling
from jobs.evaluation.ledger import check_stop
from jobs.evaluation.subject import load_subject
from jobs.modeling.devices import set_threads
from jobs.reporter import JobSpec, Reporter

FILE = "completions.jsonl"


def run(spec: JobSpec[GeneratePayload], reporter: Reporter) -> GenerateResult:
    """Write the completions; see the module's first lines. Raises RoundhouseError subclasses."""
    payload = spec.payload
    set_threads(payload.threads)
    file = spec.folder / FILE
    done = _read_done(spec)
    prompts = [prompt for prompt in payload.prompts if prompt.id not in done]
    reporter.progress(len(done), len(payload.prompts), unit="completions", message="Loading the network")
    subject = load_subject(spec.path(payload.checkpoint))
    chat = subject.uses_chat(payload.chat)
    sampling = Sampling(max_tokens=payload.max_tokens, temperature=payload.temperature, top_p=payload.top_p, seed=payload.seed)
    ids = [subject.prompt_ids(prompt.messages, chat=chat) for prompt in prompts]
    for record in done.values():
        reporter.emit(record)  # the previous attempt's parent may not have read them; recording twice is harmless
    for batch in complete(subject, ids, sampling=sampling, check_stop=lambda: check_stop(reporter)):
        with file.open("a") as out:
            for index, answer in batch:
                record = CompletionEvent(
                    prompt_id=prompts[index].id,
                    text=answer.text,
                    tokens=answer.tokens,
                    prompt_tokens=answer.prompt_tokens,
                    finish_reason=answer.finish_reason,
                )
                reporter.emit(record)
                out.write(json.dumps(record.model_dump(exclude={"type", "time"})) + "\n")
                done[record.prompt_id] = record
        reporter.progress(len(done), len(payload.prompts), unit="completions")
    tokens = sum(record.tokens for record in done.values())
    return GenerateResult(count=len(done), tokens=tokens, used_chat_template=chat, file=spec.relative(file) if file.exists() else None)


def _read_done(spec: JobSpec[GeneratePayload]) -> dict[str, CompletionEvent]:
    file = spec.folder / FILE
    done: dict[str, CompletionEvent] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            record = CompletionEvent.model_validate_json(line)
        except ValueError:
            continue  # incomplete line of a killed attempt
        done[record.prompt_id] = record
    return done
