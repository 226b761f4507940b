"""Entry of a generation job: completions of one checkpoint or endpoint for a list of prompts.

Payload: `checkpoint` (folder) or `url` and `model`, `prompts` [{id, messages, sample}], `max_tokens`, `temperature`,
`top_p`, `seed`, `chat` (auto, on, off). Reports a `completion` event for each prompt; the result counts them. All are
also stored in the job's folder, where a later attempt reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence

from backend.domain.attributes import view_of
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.payloads import GeneratePayload, GenerationPrompt
from backend.domain.jobs.results import GenerateResult
from backend.errors import JobFailed
from jobs.evaluation.completions import complete
from jobs.evaluation.engines.base import Answer, PromptRequest, Sampling
from jobs.evaluation.engines.openai_http import EndpointEngine
from jobs.evaluation.engines.plain import sample_sampling
from jobs.evaluation.ledger import check_stop
from jobs.evaluation.subject import load_subject
from jobs.modeling.devices import set_threads
from jobs.reporter import JobSpec, Reporter

FILE = "completions.jsonl"
Completed = tuple[GenerationPrompt, Answer]


def run(spec: JobSpec[GeneratePayload], reporter: Reporter) -> GenerateResult:
    """Write the completions; see the module's first lines. Raises RoundhouseError subclasses, JobFailed if an endpoint
    left prompts out.
    """
    payload, file = spec.payload, spec.folder / FILE
    done = _read_done(spec)
    prompts = [prompt for prompt in payload.prompts if (prompt.id, prompt.sample) not in done]
    for record in done.values():
        reporter.emit(record)  # the previous attempt's parent may not have read them; recording twice is harmless
    source: _Endpoint | _Network = (
        _Endpoint(payload, reporter, job=spec.id) if payload.url is not None else _Network(spec, reporter)
    )
    failures: list[str] = []
    for batch in source.answer(prompts):
        with file.open("a") as out:
            for prompt, answer in batch:
                if answer.failed:
                    failures.append(answer.failed)
                    continue
                record = view_of(CompletionEvent, answer, prompt_id=prompt.id, sample=prompt.sample)
                reporter.emit(record)
                out.write(json.dumps(record.model_dump(exclude={"type", "time"})) + "\n")
                done[record.prompt_id, record.sample] = record
        reporter.progress(len(done), len(payload.prompts), unit="completions")
    if failures:
        raise JobFailed(
            f"{len(failures)} of {len(payload.prompts)} completions failed, the first with: {failures[0]}",
            remedy="Generate the rest.",
        )
    tokens = sum(record.tokens for record in done.values())
    return GenerateResult(
        count=len(done),
        tokens=tokens,
        used_chat_template=source.uses_chat,
        file=spec.relative(file) if file.exists() else None,
    )


class _Network:
    """Answers by a checkpoint, in batches."""

    def __init__(self, spec: JobSpec[GeneratePayload], reporter: Reporter) -> None:
        payload = spec.payload
        set_threads(payload.threads)
        reporter.progress(0, len(payload.prompts), unit="completions", message="Loading the model")
        self._reporter, self._sampling = reporter, view_of(Sampling, payload)
        self._subject = load_subject(spec.path(payload.checkpoint or ""))
        self.uses_chat: bool | None = self._subject.uses_chat(payload.chat)

    def answer(self, prompts: Sequence[GenerationPrompt]) -> Iterator[list[Completed]]:
        for sample in sorted({prompt.sample for prompt in prompts}):
            chosen = [prompt for prompt in prompts if prompt.sample == sample]
            ids = [self._subject.prompt_ids(prompt.messages, chat=bool(self.uses_chat)) for prompt in chosen]
            sampling = sample_sampling(self._sampling, sample)
            for batch in complete(self._subject, ids, sampling=sampling, check_stop=lambda: check_stop(self._reporter)):
                yield [(chosen[index], answer) for index, answer in batch]


class _Endpoint:
    """Answers by a chat endpoint, several at once, with retries."""

    uses_chat: bool | None = None

    def __init__(self, payload: GeneratePayload, reporter: Reporter, *, job: str) -> None:
        key = os.environ.get(payload.key_env) if payload.key_env else None
        self._sampling = view_of(Sampling, payload)
        self._engine = EndpointEngine(
            payload.url or "",
            model=payload.model,
            key=key,
            job=job if payload.is_own else None,
            check_stop=lambda: check_stop(reporter),
        )

    def answer(self, prompts: Sequence[GenerationPrompt]) -> Iterator[list[Completed]]:
        requests = [
            PromptRequest(tuple(prompt.messages), sampling=sample_sampling(self._sampling, prompt.sample))
            for prompt in prompts
        ]
        for batch in self._engine.generate(requests):
            yield [(prompts[index], answer) for index, (answer,) in batch]


def _read_done(spec: JobSpec[GeneratePayload]) -> dict[tuple[str, int], CompletionEvent]:
    file = spec.folder / FILE
    done: dict[tuple[str, int], CompletionEvent] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            record = CompletionEvent.model_validate_json(line)
        except ValueError:
            continue  # incomplete line of a killed attempt
        done[record.prompt_id, record.sample] = record
    return done
