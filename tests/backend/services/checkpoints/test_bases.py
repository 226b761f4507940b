"""What lies under MODEL_PATH and what a source would be, from headers alone; hostile ones are refused in words."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.infra.checkpoints.candidates import describe_base
from backend.services.checkpoints.bases import add_base, list_base_offers, preview_base
from backend.services.context import LOCAL, Context
from backend.services.people.accounts import add_user


def pack(header: object, data: int = 0, *, length: int | None = None) -> bytes:
    """Return a safetensors file with that header; `length` claims another length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensors(count: int = 3, *, rows: int = 4) -> dict[str, object]:
    """Return a header of a few tensors of 4 numbers a row."""
    size = rows * 16
    return {
        f"t{n}": {"dtype": "F32", "shape": [rows, 4], "data_offsets": [n * size, (n + 1) * size]} for n in range(count)
    }


def write_base(folder: Path, *, family: str = "llama", licence: str | None = "mit", **config: object) -> Path:
    """Write the least that looks like a base."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": family, "num_hidden_layers": 1, **config}))
    (folder / "model.safetensors").write_bytes(pack(tensors(), 192))
    (folder / "tokenizer.json").write_text("{}")
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    return folder


def gguf(*, values: bytes = b"", num_values: int = 0, num_tensors: int = 0, more: bytes = b"") -> bytes:
    """Return the beginning of a GGUF file."""
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_values) + values + more


def text(value: str, *, length: int | None = None) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


def test_a_folder_is_described_by_its_header(tmp_path: Path) -> None:
    facts = describe_base(write_base(tmp_path / "a"))
    assert (facts.kind, facts.family, facts.parameters, facts.licence) == ("folder", "llama", 48, "mit")
    assert facts.memory_bytes == (96, 192)
    assert facts.bytes == (tmp_path / "a/model.safetensors").stat().st_size


def test_the_folder_above_that_of_a_base_leads_to_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "hf")
    with pytest.raises(InvalidInput) as refused:
        describe_base(tmp_path)
    assert refused.value.remedy == f"Give {base}, which holds one."


HEADERS = {
    "empty": (b"", "claims 0 bytes"),
    "a length beyond the file": (pack({}, length=10_000), "cut short"),
    "a length beyond reason": (pack({}, length=2**62), "claims 4,611,686"),
    "not JSON": (pack(b"{{{{"), "damaged safetensors header"),
    "a list": (pack([1, 2]), "damaged safetensors header"),
    "deep nesting": (pack(b"[" * 200_000), "damaged safetensors header"),
    "a negative size": (pack({"x": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 4]}}, 4), "a tensor of shape"),
    "a huge size": (pack({"x": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 4]}}, 4), "a tensor of shape"),
    "a size that is not a number": (
        pack(b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', 4),
        "a tensor of shape",
    ),
    "an end that is none": (
        pack(b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}', 4),
        "damaged",
    ),
    "data that is cut": (pack(tensors(), 100), "cut short: its header claims 192 bytes"),
}


@pytest.mark.parametrize(("data", "words"), HEADERS.values(), ids=HEADERS)
def test_a_hostile_safetensors_header_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (write_base(tmp_path / "b") / "model.safetensors").write_bytes(data)
    with pytest.raises(InvalidInput, match=words):
        describe_base(tmp_path / "b")


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
GGUF_FILES = {
    "another format": (b"PK\x03\x04", "is not a GGUF file"),
    "nothing behind the mark": (b"GGUF", "cut short"),
    "an old version": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of version 1"),
    "a count beyond reason": (gguf(num_tensors=2**63), "claims 9,223,"),
    "a text beyond reason": (gguf(num_values=1, values=text("x", length=2**40)), "claims a text of"),
    "a text beyond the file": (gguf(num_values=1, values=text("x", length=9_000)), "cut short"),
    "a list beyond the file": (
        gguf(num_values=1, values=text("x") + struct.pack("<IIQ", 9, 8, 3_000_000)),
        "cut short",
    ),
    "a list beyond reason": (
        gguf(num_values=1, values=text("x") + struct.pack("<IIQ", 9, 8, 2**50)),
        "claims a list of",
    ),
    "lists in lists": (gguf(num_values=1, values=text("x") + struct.pack("<IIQ", 9, 9, 2)), "list of lists"),
    "numbers that are not known": (
        gguf(num_values=1, values=ARCHITECTURE, num_tensors=1, more=text("t") + struct.pack("<IQIQ", 1, 32, 999, 0)),
        r"format that is not known \(999\).* Add a file of another quantisation, such as Q4_K_M",
    ),
    "numbers that can't be converted": (
        gguf(num_values=1, values=ARCHITECTURE, num_tensors=1, more=text("t") + struct.pack("<IQIQ", 1, 32, 41, 0))
        + bytes(64),
        "format Q1_0, which can't be converted to safetensors.* Add a file of another quantisation",
    ),
    "no tensors": (gguf(num_values=1, values=ARCHITECTURE, more=bytes(64)), "holds no model"),
    "tensors that are cut": (
        gguf(num_values=1, values=ARCHITECTURE, num_tensors=1, more=text("t") + struct.pack("<IQIQ", 1, 1000, 0, 0)),
        "cut short: its header claims",
    ),
}


@pytest.mark.parametrize(("data", "words"), GGUF_FILES.values(), ids=GGUF_FILES)
def test_a_hostile_gguf_header_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(InvalidInput, match=words):
        describe_base(tmp_path / "x.gguf")


def test_weight_files_outside_the_folder_are_refused(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "deep/er/base")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InvalidInput, match=r"vocab\.json in base is a link that leads out"):
        describe_base(folder)
    (folder / "vocab.json").unlink()
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    for name in ("../../secret.safetensors", "/etc/passwd", ".hidden.safetensors", "shard.bin", "a\x00.safetensors"):
        index.write_text(json.dumps({"weight_map": {"t0": name}}))
        with pytest.raises(InvalidInput, match="not a file of the folder"):
            describe_base(folder)
    index.write_text(json.dumps({"weight_map": {f"t{n}": f"model-{n}.safetensors" for n in range(3)}}))
    (folder / "model-0.safetensors").write_bytes(pack(tensors(1), 64))
    with pytest.raises(
        InvalidInput, match=r"2 of the 3 weight files are missing: model-1\.safetensors, model-2\.safetensors"
    ):
        describe_base(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "perceptron"}, "no causal language model of the family 'perceptron'"),
        ({"model_type": ["llama"]}, "names no model_type"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "its own code"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_hidden_layers": 10**9}, "has 1,000,000,000 layers"),
    ],
    ids=["family", "no family", "code", "quantised", "layers"],
)
def test_an_invalid_config_is_refused(tmp_path: Path, config: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        describe_base(write_base(tmp_path / "b", **config))


def test_a_scan_lists_usable_bases_and_reasons_for_the_others(ctx: Context, tmp_path: Path) -> None:
    root = tmp_path / "models"
    write_base(root / "one")
    write_base(root / "a/b/c/two", family="gpt2", licence=None)
    (write_base(root / "pickled") / "model.safetensors").rename(root / "pickled/pytorch_model.bin")
    (root / "x.gguf").write_bytes(b"no")
    (root / "just-a-config").mkdir()
    (root / "just-a-config/config.json").write_text("{}")
    (root / "a/loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "again").symlink_to(root / "one")
    write_base(tmp_path / "elsewhere")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    here = replace(ctx, model_path=root)
    offers = list_base_offers(here)
    usable = [(offer.name, offer.facts.family, offer.facts.licence) for offer in offers if offer.facts]
    assert usable == [("a/b/c/two", "gpt2", None), ("one", "llama", "mit")]
    assert {offer.name: offer.problem.split(",")[0] for offer in offers if not offer.facts} == {
        "pickled": "pickled holds its weights as pytorch_model.bin",
        "x.gguf": "x.gguf is not a GGUF file.",
    }
    (root / "one/model.safetensors").write_bytes(b"spoiled")
    assert [offer.name for offer in list_base_offers(here) if offer.facts] == ["a/b/c/two"], (
        "what was read before is read anew"
    )
    assert list_base_offers(replace(ctx, model_path=None)) == []


def test_a_scan_of_thousands_of_files_reads_only_headers_and_only_once(ctx: Context, tmp_path: Path) -> None:
    root = tmp_path / "models"
    for number in range(40):
        folder = write_base(root / f"group{number % 5}/base{number}")
        for page in range(50):
            (folder / f"notes{page}.txt").touch()
    here = replace(ctx, model_path=root)
    assert len(list_base_offers(here)) == 40
    for folder in root.glob("*/*"):  # what is not read again can't be missed: sizes and times stay
        state = (folder / "README.md").stat()
        (folder / "README.md").write_text("---\nlicense: 123\n---\n")
        os.utime(folder / "README.md", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert {offer.facts.licence for offer in list_base_offers(here) if offer.facts} == {"mit"}


def test_preview_and_add_refuse_the_same(ctx: Context, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "b")
    look = preview_base(ctx, str(folder), person=LOCAL)
    assert (look.facts.parameters, look.commit) == (48, None)
    engineer = add_user(ctx, "engineer", "a long password", person=LOCAL)
    for ask in (
        lambda source, person, revision="": preview_base(ctx, source, revision=revision, person=person),
        lambda source, person, revision="": add_base(ctx, name="b", source=source, revision=revision, person=person),
    ):
        with pytest.raises(NotAllowed):
            ask(str(folder), engineer)
        with pytest.raises(InvalidInput, match="has no revisions"):
            ask(str(folder), LOCAL, "v1")
        for revision in ("../main", "a b", "-x"):
            with pytest.raises(InvalidInput, match="is not a revision"):
                ask("owner/name", LOCAL, revision)
        with pytest.raises(InvalidInput, match="names one revision"):
            ask("owner/name@v1", LOCAL, "v2")
        with pytest.raises(NotFound):
            ask("x" * 5000, LOCAL)
        with pytest.raises(NotFound):
            ask("a\x00b", LOCAL)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match="no tokenizer"):
        add_base(ctx, name="b", source=str(folder), person=LOCAL)


def test_the_requested_revision_is_stored(ctx: Context) -> None:
    assert add_base(ctx, name="one", source="owner/name@v1", person=LOCAL).source == "owner/name@v1"
    assert add_base(ctx, name="two", source="owner/name", revision="v2", person=LOCAL).source == "owner/name@v2"
    assert add_base(ctx, name="three", source="owner/name", person=LOCAL).source == "owner/name"
