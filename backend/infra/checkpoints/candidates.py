"""Describe a folder or file as a base, or explain why it can't be one. Reads only small files and headers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput
from backend.infra.checkpoints.weight_headers import (
    OTHER_QUANTISATION,
    count_stored_parameters,
    read_gguf,
    read_safetensors,
)

PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GGUF = "model.gguf"
"""File of a checkpoint's folder: the GGUF file that it was converted from."""
MAX_FP32_PARAMETERS = 500_000_000
"""Number of parameters above which the weights of a GGUF file are stored in bf16, as exact dequantised values take 4
bytes each.
"""
TERMS = ("LICENSE", "LICENCE", "NOTICE")
MAX_JSON_BYTES = 50_000_000
MAX_CARD_BYTES = 1_000_000
SHOWN = 3


@dataclass(frozen=True)
class BaseFacts:
    """Facts about a base from its small files and headers. `licence` is None if none is stated, `bytes` counts the
    weights, `parameters` is None if only a download can tell. `quantisation` and `bits_per_weight` are a GGUF file's,
    if its header was read.
    """

    kind: Literal["folder", "gguf"]
    family: str
    parameters: int | None
    bytes: int
    licence: str | None
    quantisation: str = ""
    bits_per_weight: float | None = None

    @property
    def memory_bytes(self) -> tuple[int, int]:
        """Memory of the loaded weights in 16 and in 32 bits a number."""
        parameters = self.parameters or self.bytes // 2
        return 2 * parameters, 4 * parameters


def converted_bytes(parameters: int) -> int:
    """Return the size of the safetensors that a GGUF file is converted to."""
    return parameters * (4 if parameters <= MAX_FP32_PARAMETERS else 2)


def describe_base(path: Path) -> BaseFacts:
    """Describe a folder or a `.gguf` file. Raises InvalidInput, with cause and cure, if it can't be a base (see
    `describe_folder`).
    """
    return describe_gguf(path) if path.is_file() else describe_folder(path)


def describe_gguf(file: Path) -> BaseFacts:
    """Describe a GGUF file. Raises InvalidInput if it is none, is cut short, is one part of several, or has numbers in
    a format that can't be read.
    """
    if file.suffix != ".gguf":
        raise InvalidInput(f"{file.name} is neither a folder nor a .gguf file.", field="source")
    if is_part_of_gguf(file.name):
        raise InvalidInput(
            f"{file.name} is one part of a divided file.",
            remedy="Join the parts with llama.cpp's gguf-split --merge, and add the whole.",
            field="source",
        )
    header = read_gguf(file)
    if not header.family or not header.tensors:
        raise InvalidInput(
            f"{file.name} holds no model.", remedy="Give a GGUF file of a language model.", field="source"
        )
    unreadable = sorted({tensor.dtype for tensor in header.tensors.values()} - readable_formats())
    if unreadable:
        raise InvalidInput(
            f"{file.name} holds numbers of format {', '.join(unreadable)}, which can't be converted to safetensors.",
            remedy=OTHER_QUANTISATION,
            field="source",
        )
    return BaseFacts(
        "gguf",
        header.family[:60],
        header.parameters,
        file.stat().st_size,
        header.licence,
        header.quantisation,
        header.bits_per_weight,
    )


@cache
def readable_formats() -> frozenset[str]:
    """Return the formats of numbers in a GGUF file that the gguf library dequantises."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    readable = set()
    for kind in GGMLQuantizationType:
        with suppress(KeyError, NotImplementedError):
            dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
            readable.add(kind.name)
    return frozenset(readable)


def is_part_of_gguf(name: str) -> bool:
    """Return whether a file's name marks it as one part of several: `x-00001-of-00003.gguf`."""
    return re.search(r"-\d+-of-\d+\.gguf$", name) is not None


def describe_folder(folder: Path) -> BaseFacts:
    """Describe a Hugging Face checkpoint's folder.

    Raises InvalidInput for an adapter, code of its own, an unknown family, pickled or quantised weights, damaged or
    missing shards, a missing tokenizer, and links that lead out of the folder.
    """
    check_links(folder, folder.iterdir())
    if (folder / "adapter_config.json").is_file():
        raise adapter_refusal(
            folder.name, read_json_file(folder / "adapter_config.json").get("base_model_name_or_path")
        )
    config = check_config(folder)
    files = weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InvalidInput(
            f"{folder.name} holds no tokenizer.",
            remedy="Put tokenizer.json beside its weights (AutoTokenizer's save_pretrained writes it).",
            field="source",
        )
    text = config.get("text_config")
    layers = (text if isinstance(text, dict) else config).get("num_hidden_layers")
    if isinstance(layers, int) and layers > max(1, len(tensors)):
        raise InvalidInput(
            f"The config of {folder.name} has {layers:,} layers, but its weights have {len(tensors):,} tensors.",
            remedy="Check that config.json belongs to these weights.",
            field="source",
        )
    size = sum(file.stat().st_size for file in files)
    return BaseFacts("folder", str(config["model_type"]), count_stored_parameters(tensors), size, read_licence(folder))


def check_links(folder: Path, paths: Iterable[Path]) -> None:
    """Raise InvalidInput if one of a folder's files is a link that leads out of it, which would let the folder's author
    choose what is read on this machine. Links of the Hub's cache, from snapshots to `blobs`, are allowed.
    """
    inside = folder.resolve()
    allowed = (inside, inside.parent.parent / "blobs")
    for path in sorted(paths):
        if path.is_file() and not any(path.resolve().is_relative_to(root) for root in allowed):
            raise InvalidInput(
                f"{path.relative_to(folder)} in {folder.name} is a link that leads out of the folder.",
                remedy="Put the file itself there if you trust it.",
                field="source",
            )


def adapter_refusal(name: str, base: object) -> InvalidInput:
    """Return the refusal of an adapter; `base` as named in its config."""
    where = (
        f": its base, {str(base)[:100]}, is not in it."
        if isinstance(base, str) and base
        else ": its base is not in it."
    )
    return InvalidInput(
        f"{name} is an adapter{where}",
        remedy="Merge it into its base where it was made, and add the merged checkpoint.",
        field="source",
    )


def pickle_refusal(name: str, files: list[str], remedy: str) -> InvalidInput:
    """Return the refusal of pickled weights."""
    shown = ", ".join(files[:SHOWN]) + (" ..." if len(files) > SHOWN else "")
    return InvalidInput(
        f"{name} holds its weights as {shown}, a format that can run code when it is read.",
        remedy=remedy,
        field="source",
    )


@cache
def known_families() -> frozenset[str]:
    """Return the families of causal language networks that the installed transformers has; empty if unknown. Read from
    its source, since importing it takes seconds and torch.
    """
    package = find_spec("transformers")
    if package is None or package.origin is None:
        return frozenset()
    try:
        tree = ast.parse((Path(package.origin).parent / "models" / "auto" / "modeling_auto.py").read_text())
        table = next(
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
        )
        assert isinstance(table, ast.Call)
        return frozenset(name for name, _ in ast.literal_eval(table.args[0]))
    except (OSError, SyntaxError, ValueError, StopIteration, AssertionError, IndexError):
        return frozenset()


def check_config(folder: Path) -> dict[str, object]:
    """Return config.json. Raises InvalidInput if it is missing, no object, names no known family, wants its own code or
    is quantised.
    """
    if not (folder / "config.json").is_file():
        inner = min(folder.glob("*/config.json"), default=None)
        remedy = f"Give {inner.parent}, which holds one." if inner else "Give the folder of a Hugging Face checkpoint."
        raise InvalidInput(f"{folder} holds no config.json.", remedy=remedy, field="source")
    config = read_json_file(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        data = config if name == "config.json" else (read_json_file(folder / name) if (folder / name).is_file() else {})
        if data.get("auto_map"):
            raise InvalidInput(
                f"{folder.name} wants to run its own code (auto_map in {name}).",
                remedy="Roundhouse runs no code from a checkpoint. Use an architecture that transformers knows.",
            )
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise InvalidInput(
            f"config.json of {folder.name} names no model_type.",
            remedy="Give the folder of a Hugging Face checkpoint.",
            field="source",
        )
    if known_families() and family not in known_families():
        raise InvalidInput(
            f"{folder.name} can't be loaded: transformers {version('transformers')} has no causal language model "
            f"of the family {family[:60]!r}.",
            remedy="Use an architecture that transformers has, or a newer transformers.",
            field="source",
        )
    if config.get("quantization_config"):
        raise InvalidInput(
            f"The weights of {folder.name} are quantised, and can't be trained on.",
            remedy="Add the original checkpoint, or a GGUF file.",
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that transformers would read: `model.safetensors`, or those that the index names.

    Raises InvalidInput for pickled weights, an index that is damaged, leads out of the folder or names missing files.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    listed = names_in_index(folder)
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (" ..." if len(missing) > SHOWN else "")
        raise InvalidInput(
            f"{len(missing)} of the {len(listed)} weight files are missing: {shown}.", remedy="Download them, too."
        )
    return [folder / name for name in listed]


def names_in_index(folder: Path) -> list[str]:
    """Return the files of weights in the index. Raises InvalidInput if it is damaged or leads out of the folder."""
    names = read_json_file(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InvalidInput(f"{INDEX} of {folder.name} lists no weights.", remedy="Download the file again.")
    listed = sorted({str(name) for name in names.values()})
    for name in listed:
        if not is_plain_name(name) or not name.endswith(".safetensors"):
            raise InvalidInput(f"{INDEX} of {folder.name} names {name[:200]!r}, which is not a file of the folder.")
    return listed


def is_plain_name(name: str) -> bool:
    """Return whether a name is a plain visible file name: no separators, no `..`, no leading dot."""
    return bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def _no_weights(folder: Path) -> InvalidInput:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_ENDINGS)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if pickled and not others:
        return pickle_refusal(
            folder.name,
            pickled,
            "Convert it to safetensors where you trust it (model.save_pretrained writes them), then add that.",
        )
    if others:
        return InvalidInput(
            f"{folder.name} holds {', '.join(others[:SHOWN])}, but neither {WEIGHTS} nor {INDEX}.",
            remedy="Download the missing file.",
        )
    return InvalidInput(
        f"{folder.name} holds no weights (*.safetensors).", remedy="Give the folder of a Hugging Face checkpoint."
    )


def read_json_file(file: Path) -> dict[str, object]:
    """Return the object in a small JSON file. Raises InvalidInput if it is not one."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise InvalidInput(f"{file.name} has {file.stat().st_size:,} bytes: too large for a description.")
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file.name} of {file.parent.name} is not JSON: {str(error)[:200]}") from error
    if not isinstance(data, dict):
        raise InvalidInput(f"{file.name} of {file.parent.name} is not a JSON object.")
    return data


def read_licence(folder: Path) -> str | None:
    """Return the licence that a folder states: in the front matter of its README.md, or else in config.json."""
    card = folder / "README.md"
    if card.is_file():
        with card.open("rb") as file:
            stated = licence_of_card(file.read(MAX_CARD_BYTES).decode("utf-8", "replace"))
        if stated:
            return stated
    if not (folder / "config.json").is_file():
        return None
    try:
        return licence_words(read_json_file(folder / "config.json"))
    except InvalidInput:
        return None


def licence_of_card(text: str) -> str | None:
    """Return the licence of a card's front matter (YAML between two lines of `---`); None where there is none."""
    parts = text.lstrip("\ufeff").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = parse_yaml(parts[1], what="The front matter")
    except InvalidInput:
        return None
    return licence_words(front) if isinstance(front, dict) else None


def licence_words(card: Mapping[str, object]) -> str | None:
    """Return a card's `license`, `license_name` and `license_link` as one line.

    >>> licence_words({"license": "other", "license_name": "gemma", "license_link":
    "https://ai.google.dev/gemma/terms"})
    'gemma (https://ai.google.dev/gemma/terms)'
    """
    stated = card.get("license") or card.get("licence")
    text = ", ".join(str(part) for part in stated) if isinstance(stated, list) else str(stated or "")
    name, link = str(card.get("license_name") or ""), str(card.get("license_link") or "")
    text = name if name and text in ("", "other") else text
    text = f"{text} ({link})" if link and text else text
    return " ".join(text.split())[:200] or None
