"""Export jobs: a GGUF file of an adapter, a push to a Hub as one commit, a stop that leaves no files, a key that is
stored nowhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from backend.errors import InvalidInput, JobFailed, Unavailable
from jobs.modeling.checkpoints import base_folder_of, load_network, load_scorer
from jobs.modeling.entries import export as run_export
from jobs.modeling.precision_check import TEXT_TOKENS
from jobs.training import run as training
from tests.support.data.hub_server import HubServer, run_hub
from tests.support.training_rooms import Recorder, Rooms

KEY = "hf_secretsecretsecret"


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    rooms = Rooms(tmp_path_factory.mktemp("artifacts"))
    steps: dict[str, Any] = {"max_steps": 3, "checkpoint_every": 3, "learning_rate": 3e-2, "method": "lora"}
    training.run(rooms.training("sft", run="tuned", job="tuned", **steps), Recorder())
    return rooms


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with run_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", KEY)
        yield server


def export(rooms: Rooms, out: str, *, format: str, reporter: Any = None, **payload: Any) -> dict[str, Any]:
    fields = {
        "checkpoint_id": "c",
        "checkpoint": "tuned/checkpoints/step-000003",
        "format": format,
        "name": "tuned",
        "out": out,
        "card": "# Tuned\n",
        **payload,
    }
    return run_export.run(rooms.spec(fields, job=out, kind="export"), reporter or Recorder()).dump()


@torch.inference_mode()
def test_an_adapter_is_merged_and_exported_as_one_file(rooms: Rooms) -> None:
    recorder = Recorder()
    result = export(rooms, "file", format="gguf", numbers="f32", reporter=recorder)
    assert sorted(path.name for path in (rooms.root / "file").iterdir()) == ["README.md", "tuned-f32.gguf"]
    assert (result["folder"], result["files"], result["adapter"], result["pushed"]) == (
        "file",
        ["tuned-f32.gguf"],
        False,
        None,
    )
    assert recorder.progressed[-1][0] == recorder.progressed[-1][1] > 10
    ids = torch.arange(20)[None]
    back = AutoModelForCausalLM.from_pretrained(
        str(rooms.root / "file"), gguf_file="tuned-f32.gguf", dtype=torch.float32
    )
    merged = load_network(rooms.root / "tuned/checkpoints/step-000003")
    torch.testing.assert_close(back(input_ids=ids).logits, merged(input_ids=ids).logits, atol=1e-3, rtol=0)


def test_a_quantised_export_says_its_bits_and_what_they_cost(rooms: Rooms) -> None:
    recorder = Recorder()
    result = export(rooms, "eight", format="gguf", numbers="q8_0", reporter=recorder)
    check = result["check"]
    assert (result["quantisation"], check["precision"]) == ("Q8_0", "q8_0")
    assert 8.5 <= result["bits_per_weight"] < 9
    assert 1 <= check["perplexity_ratio"] < 1.01
    assert check["greedy_agreement"] > 0.9
    card = (rooms.root / "eight/README.md").read_text()
    assert card.startswith(
        f"# Tuned\n\n## File\n\nGGUF: Q8_0, {result['bits_per_weight']} bits per weight (q8_0: perplexity x 1.0"
    )
    exact = export(rooms, "exact", format="gguf", numbers="f32")
    assert (exact["bits_per_weight"], exact["check"]) == (32.0, None)


def test_numbers_that_need_llama_cpp_are_refused_where_it_is_missing(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(Unavailable, match=r"q4_k_m is written by llama.cpp's code.*roundhouse\[llama-cpp\].*q8_0"):
        export(rooms, "few", format="gguf", numbers="q4_k_m")
    assert not (rooms.root / "few").exists()


@pytest.mark.parametrize(
    ("format", "large"),
    [("hf", "adapter_model.safetensors"), ("merged", "model.safetensors"), ("gguf", "tuned-f16.gguf")],
)
def test_a_push_is_one_commit_and_the_key_is_not_uploaded(
    rooms: Rooms, hub: HubServer, format: str, large: str
) -> None:
    recorder = Recorder()
    result = export(
        rooms, f"pushed-{format}", format=format, push={"repo": "me/tuned", "private": True}, reporter=recorder
    )
    there, here = hub.root / "models/me/tuned", rooms.root / f"pushed-{format}"
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in here.iterdir()
    }
    assert (there / large).is_file()
    assert (there / "README.md").read_text().startswith("# Tuned\n")
    assert (hub.created, hub.keys) == ({"me/tuned": True}, {f"Bearer {KEY}", ""})
    assert sum(request.endswith("/commit/main") for request in hub.requests) == 1
    assert result["pushed"]["url"] == f"{hub.url}/me/tuned"
    output = json.dumps([result, recorder.lines, recorder.events])
    assert KEY not in output
    assert not any(KEY.encode() in path.read_bytes() for path in here.iterdir())


def test_a_push_without_a_valid_key_is_refused_and_leaves_no_files(
    rooms: Rooms, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = {"repo": "me/tuned", "private": True}
    hub.status = 403
    with pytest.raises(Unavailable, match="refuses me/tuned with status 403"):
        export(rooms, "refused", format="hf", push=push)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(Unavailable, match="needs a key of the Hub"):
        export(rooms, "keyless", format="hf", push=push)
    assert not (rooms.root / "refused").exists()
    assert not (rooms.root / "keyless").exists()


class Impatient(Recorder):
    """A reporter that asks to stop from the first progress on."""

    def should_stop(self) -> Any:
        return "cancel" if self.progressed else None


@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_a_stopped_export_leaves_no_files(rooms: Rooms, format: str) -> None:
    with pytest.raises(JobFailed, match="stopped on request"):
        export(rooms, f"stopped-{format}", format=format, reporter=Impatient())
    assert not (rooms.root / f"stopped-{format}").exists()


class StopsWhileWriting(Recorder):
    """A reporter that asks to stop once some tokens of the texts that measure a quantisation are written."""

    def should_stop(self) -> Any:
        return "cancel" if any(0 < done < total == TEXT_TOKENS for done, total in self.progressed) else None


def test_a_quantised_export_says_how_far_its_texts_are_and_stops_among_them(rooms: Rooms) -> None:
    recorder = Recorder()
    export(rooms, "told", format="gguf", numbers="q8_0", reporter=recorder)
    assert [done for done, total in recorder.progressed if total == TEXT_TOKENS] == [0, *range(2, TEXT_TOKENS + 1)]
    with pytest.raises(JobFailed, match="stopped on request"):
        export(rooms, "stopped-texts", format="gguf", numbers="q8_0", reporter=StopsWhileWriting())
    assert not (rooms.root / "stopped-texts").exists()


def test_an_unknown_format_is_refused(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match=r"'hf', 'merged' or 'gguf' \(got 'onnx'\)"):
        export(rooms, "onnx", format="onnx")


def test_a_merged_reward_adapter_scores_as_before(rooms: Rooms) -> None:
    steps: dict[str, Any] = {"max_steps": 2, "learning_rate": 3e-2, "method": "lora", "eval_every": 2}
    checkpoint = training.run(rooms.training("reward", run="judge", job="judge", **steps), Recorder()).checkpoint
    result = export(rooms, "whole judge", format="merged", checkpoint=checkpoint)
    assert (result["adapter"], result["architecture"]) == (False, "LlamaForSequenceClassification")
    whole, ids = (
        AutoModelForSequenceClassification.from_pretrained(str(rooms.root / "whole judge")),
        torch.arange(3, 20)[None],
    )
    with torch.inference_mode():
        base = load_scorer(base_folder_of(rooms.root / checkpoint), pad_id=2)
        before = peft.PeftModel.from_pretrained(base, str(rooms.root / checkpoint)).eval()(input_ids=ids).logits
        torch.testing.assert_close(whole(input_ids=ids).logits, before, atol=1e-5, rtol=0)
