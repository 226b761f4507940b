"""Checkpoints on disk: published atomically, loaded without running code, described without loading."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from accelerate.utils import other as accelerate_other
from transformers import GPT2Config, GPT2LMHeadModel

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.errors import Conflict, InvalidInput, NotFound
from backend.infra.files.hashes import hash_file
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import inspect_folder, is_complete, load_network, read_card, save_checkpoint
from jobs.modeling.entries import base as run_base
from jobs.modeling.entries import export as run_export
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.networks.base_folders import config_from_checkpoint
from tests.support.training_rooms import TINY, Recorder, Rooms


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(tmp_path)


def test_a_checkpoint_is_written_without_an_import_of_deepspeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its warning headed the log of runs that do not use it, since accelerate asked it whether the network is its."""
    names: list[str] = []

    class Watch(MetaPathFinder):
        def find_spec(self, fullname: str, path: object, target: object = None) -> None:
            names.append(fullname)

    monkeypatch.setattr(accelerate_other, "is_deepspeed_available", lambda: True)  # as where it is installed
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Watch(), *sys.meta_path])
    save_checkpoint(tmp_path / "c", model=build_network(TINY, seed=1), tokenizer=byte_tokenizer(), meta={})
    assert "deepspeed" not in names
    assert accelerate_other.is_deepspeed_available(), "as before"


def test_a_checkpoint_loads_as_saved_with_hashes_of_every_file(rooms: Rooms) -> None:
    network = build_network(TINY, seed=9)
    card = save_checkpoint(
        rooms.root / "c", model=network, tokenizer=rooms.tokenizer, meta={"step": 7, "metrics": {"val_loss": 1.5}}
    )
    loaded = load_network(rooms.root / "c")
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), loaded.parameters(), strict=True))
    assert not loaded.training
    assert load_tokenizer(rooms.root / "c").get_vocab() == rooms.tokenizer.get_vocab()
    assert read_card(rooms.root / "c") == json.loads(json.dumps(card))
    assert (card["step"], card["metrics"]) == (7, {"val_loss": 1.5})
    present = {path.name for path in (rooms.root / "c").iterdir()} - {"roundhouse.json"}
    assert set(card["files"]) == present
    assert all(hash_file(rooms.root / "c" / name) == file["sha256"] for name, file in card["files"].items())
    assert is_complete(rooms.root / "c")
    (rooms.root / "c/tokenizer.json").unlink()
    assert not is_complete(rooms.root / "c")


def test_building_depends_on_the_seed_alone_and_preserves_the_random_state(rooms: Rooms) -> None:
    state = torch.get_rng_state()
    one, same, other = build_network(TINY, seed=1), build_network(TINY, seed=1), build_network(TINY, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_saving_that_fails_leaves_the_earlier_checkpoint_and_no_leftovers(rooms: Rooms) -> None:
    before = read_card(rooms.root / "base")

    def fail(folder: Path) -> None:
        raise OSError("the cable was pulled")

    with pytest.raises(OSError, match="cable"):
        save_checkpoint(
            rooms.root / "base", model=build_network(TINY, seed=1), tokenizer=rooms.tokenizer, meta={}, write_more=fail
        )
    assert read_card(rooms.root / "base") == before
    assert is_complete(rooms.root / "base")
    assert not list(rooms.root.glob(".*"))
    save_checkpoint(
        rooms.root / "base", model=build_network(TINY, seed=1), tokenizer=rooms.tokenizer, meta={"again": True}
    )
    assert read_card(rooms.root / "base")["again"] is True
    assert not list(rooms.root.glob(".*"))


def test_inspection_counts_without_loading(rooms: Rooms) -> None:
    (rooms.root / "base/README.md").write_text("---\nlicense: apache-2.0\ntags: [a]\n---\n# A base\n")
    facts = inspect_folder(rooms.root / "base")
    assert facts.parameters == sum(parameter.numel() for parameter in build_network(TINY, seed=0).parameters())
    assert (facts.family, facts.context, facts.vocab_size, facts.dtype) == ("llama", 64, 320, "F32")
    assert (facts.licence, facts.has_chat_template, facts.adapter) == ("apache-2.0", True, False)
    assert facts.bytes > 4 * facts.parameters
    assert config_from_checkpoint(rooms.root / "base") == TINY


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}))
    (folder / "evil.py").write_text("raise SystemExit('the code of a checkpoint was run')")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _bad_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _damaged_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def _wrong_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64, "head_dim": 16}))


def _unknown_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "perceptron-3000"}))


def _nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


BROKEN = {
    "pickled-weights": (_pickled, "a format that can run code"),
    "own-code": (_own_code, "wants to run its own code"),
    "no-config": (_no_config, r"holds no config\.json"),
    "bad-json": (_bad_json, "is not JSON"),
    "damaged-header": (_damaged_header, "can't be loaded|not a safetensors file"),
    "wrong-shapes": (_wrong_shapes, "can't be loaded"),
    "unknown-family": (_unknown_family, "no causal language model of the family .perceptron"),
    "no-weights": (_nothing, "holds no weights"),
    "no-tokenizer": (_no_tokenizer, "tokenizer"),
}


@pytest.mark.parametrize(("damage", "words"), BROKEN.values(), ids=BROKEN)
def test_an_unusable_base_is_refused_and_leaves_no_files(rooms: Rooms, damage: Any, words: str) -> None:
    damage(rooms.root / "base")
    with pytest.raises(InvalidInput, match=words):
        run_base.run(
            rooms.spec({"source": str(rooms.root / "base"), "hub": None, "out": "bases/b"}, kind="add_base"), Recorder()
        )
    assert not (rooms.root / "bases").exists() or not list((rooms.root / "bases").iterdir())


def test_a_base_is_copied_without_code_and_gets_the_plain_template_if_it_has_none(rooms: Rooms, tmp_path: Path) -> None:
    bare = tmp_path / "elsewhere"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    GPT2LMHeadModel(GPT2Config(vocab_size=262, n_positions=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    (bare / "run_me.py").write_text("print('hello')")
    (bare / "optimizer.pt").write_bytes(b"\x80\x04.")
    result = run_base.run(
        rooms.spec({"source": str(bare), "hub": None, "out": "bases/bare"}, kind="add_base"), Recorder()
    )
    assert (result.folder, result.family, result.context, result.has_chat_template) == ("bases/bare", "gpt2", 32, False)
    assert load_tokenizer(rooms.root / "bases/bare").chat_template == PLAIN_TEMPLATE
    names = {path.name for path in (rooms.root / "bases/bare").iterdir()}
    assert not names & {"run_me.py", "optimizer.pt"}
    expected = ArchitectureConfig(family="gpt2", num_layers=1, width=16, num_heads=2, context=32, vocab_size=262)
    assert config_from_checkpoint(rooms.root / "bases/bare") == expected
    with pytest.raises(NotFound):
        run_base.run(rooms.spec({"source": "/nowhere", "hub": None, "out": "bases/x"}, kind="add_base"), Recorder())


def test_an_invalid_gguf_file_is_refused(rooms: Rooms, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 not at all")
    with pytest.raises(InvalidInput, match=r"x\.gguf is not a GGUF file"):
        run_base.run(
            rooms.spec({"source": str(tmp_path / "x.gguf"), "hub": None, "out": "bases/x"}, kind="add_base"), Recorder()
        )


def make_adapter(rooms: Rooms) -> Path:
    """Save adapters with non-zero weights on the rooms' base."""
    network = peft.get_peft_model(
        load_network(rooms.root / "base"), peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = rooms.root / "runs/r/checkpoints/step-000001"
    save_checkpoint(
        folder, model=network, tokenizer=rooms.tokenizer, meta={"base": "base", "base_path": "../../../../base"}
    )
    return folder


def test_an_adapter_loads_on_its_base_wherever_the_artifacts_lie(
    rooms: Rooms, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_adapter(rooms)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        expected = peft.PeftModel.from_pretrained(load_network(rooms.root / "base"), str(folder)).eval()(ids).logits
        assert torch.allclose(load_network(folder)(ids).logits, expected, atol=1e-4)
        assert not torch.allclose(load_network(rooms.root / "base")(ids).logits, expected, atol=0.01)
    facts = inspect_folder(folder)
    assert (facts.adapter, facts.family, facts.context) == (True, "llama", 64)
    assert str(rooms.root) not in (folder / "adapter_config.json").read_text()
    moved = tmp_path_factory.mktemp("moved") / "artifacts"
    shutil.move(rooms.root, moved)
    with torch.inference_mode():
        assert torch.allclose(load_network(moved / "runs/r/checkpoints/step-000001")(ids).logits, expected, atol=1e-4)


def test_exports_keep_or_merge_an_adapter(rooms: Rooms) -> None:
    folder = make_adapter(rooms)
    relative = folder.relative_to(rooms.root).as_posix()
    merged = run_export.run(
        rooms.spec(
            {"checkpoint": relative, "checkpoint_id": "c", "format": "merged", "out": "exports/m"}, kind="export"
        ),
        Recorder(),
    )
    assert (merged.folder, merged.adapter) == ("exports/m", False)
    ids = torch.arange(10)[None]
    with torch.inference_mode():
        assert torch.allclose(
            load_network(rooms.root / "exports/m")(ids).logits, load_network(folder)(ids).logits, atol=1e-5
        )
    exported = run_export.run(
        rooms.spec(
            {"checkpoint": relative, "checkpoint_id": "c", "format": "hf", "out": str(rooms.root / "elsewhere")},
            kind="export",
        ),
        Recorder(),
    )
    assert exported.adapter is True
    assert (rooms.root / "elsewhere/adapter_model.safetensors").is_file()
    with pytest.raises(Conflict, match="exists already and is not empty"):
        run_export.run(
            rooms.spec(
                {"checkpoint": relative, "checkpoint_id": "c", "format": "hf", "out": "exports/m"}, kind="export"
            ),
            Recorder(),
        )
    with pytest.raises(InvalidInput, match="is an adapter: its base, base, is not in it"):
        run_base.run(rooms.spec({"source": relative, "hub": None, "out": "bases/a"}, kind="add_base"), Recorder())
