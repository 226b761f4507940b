"""Requests to an engine, their events caught; and the tokens that `generate` gives for a prompt."""

from __future__ import annotations

import threading
from typing import Any

import torch

from backend.domain.serving.protocol import FinishEvent, GenerationEvent, SamplingParams, TokenEvent
from jobs.serving.engine import FIRST, Choice, Engine
from tests.support.networks.serving_networks import make_tokenizer


class Caught:
    """The events of one request."""

    def __init__(self, engine: Engine, prompt: str | list[int], *, choice: Choice = FIRST, **params: Any) -> None:
        self.events: list[GenerationEvent] = []
        self.done = threading.Event()
        self.first = threading.Event()
        ids = make_tokenizer()(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        self.handle = engine.submit(
            ids, SamplingParams(**{"max_tokens": 24, "temperature": 0, **params}), self._take, choice=choice
        )

    def _take(self, event: GenerationEvent) -> None:
        self.events.append(event)
        self.first.set()
        if event.type != "token":
            self.done.set()

    def wait(self) -> Caught:
        assert self.done.wait(120), "no end within 120 s"
        return self

    @property
    def ids(self) -> list[int]:
        return [i for e in self.events if isinstance(e, TokenEvent) for i in e.token_ids]

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TokenEvent))

    @property
    def finish(self) -> FinishEvent:
        assert isinstance(self.events[-1], FinishEvent), self.events[-1]
        return self.events[-1]


def reference(network: Any, prompt: str, *, tokens: int = 24) -> list[int]:
    ids = make_tokenizer()(prompt)["input_ids"]
    output = network.generate(
        torch.tensor([ids], device=network.device), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return list(output[0, len(ids) :].tolist())
