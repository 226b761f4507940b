"""A replica with a draft: vocabularies are compared, answers are those of an engine without one, and gauges count."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.domain.serving.protocol import GenerateRequest, SamplingParams, TokenEvent
from backend.errors import InvalidInput
from jobs.reporter import FileReporter
from jobs.serving.batching import BatchingEngine
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.replica import run
from tests.support.gateway_fixtures import eventually
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_llama, make_tokenizer, save_checkpoint
from tests.support.serving.requests import Caught
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events


def test_a_replica_answers_as_without_its_draft_and_counts_what_was_accepted(library: Library, tmp_path: Path) -> None:
    network = make_llama()
    save_checkpoint(tmp_path / "checkpoint", network=network)
    fuse_layers(network, library=library)
    engine, params = (
        BatchingEngine(network, make_tokenizer()),
        {"max_tokens": 60, "temperature": 1.0, "seed": 3, "ignore_end": True},
    )
    expected = Caught(engine, "Hello", **params).wait().ids
    engine.close()
    replica = RunningReplica(tmp_path, draft="checkpoint")
    request = GenerateRequest(prompt="Hello", params=SamplingParams(**params))
    events = list(stream_events(replica.url, token=TOKEN, request=request))
    assert [token for event in events if isinstance(event, TokenEvent) for token in event.token_ids] == expected
    counted = eventually(lambda: [event for event in replica.events("gauge") if event["drafted_tokens"]])[-1]
    assert 0 < counted["accepted_tokens"] <= counted["drafted_tokens"]
    replica.stop()


def test_a_draft_with_other_tokens_is_refused_at_the_start(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint")
    save_checkpoint(tmp_path / "draft")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "draft")
    values = {"checkpoint": "checkpoint", "draft": "draft", "name": "tiny", "internal_token": TOKEN, "device": "cpu"}
    spec = make_spec("replica", values, root=tmp_path, folder=tmp_path)
    with pytest.raises(InvalidInput, match="draft and checkpoint have different vocabularies"):
        run(spec, FileReporter(tmp_path / "events.jsonl", tmp_path / "control"))
