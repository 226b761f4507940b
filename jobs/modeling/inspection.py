"""What a checkpoint folder holds, read from its small files and the headers of its weights. Loads no weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from backend.domain.chat_template import PLAIN_TEMPLATE
from backend.domain.checkpoint_shape import CONTEXT_NAMES
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput
from jobs.modeling.checkpoints import STATE_FOLDER, base_folder_of, check_folder, is_adapter

LARGEST_HEADER_BYTES = 100 * 2**20
BUFFERS = (".attn.bias", ".masked_bias", ".inv_freq", ".e_score_correction_bias")
"""Endings of tensors that lie beside the weights and are no parameters."""


def read_tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> (dtype, shape) from the header of a safetensors file.

    Raises InvalidInput if the header is damaged.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER_BYTES, file.stat().st_size):
            raise InvalidInput(f"{file.name} is not a safetensors file: its header claims {length} bytes.")
        try:
            header = json.loads(stream.read(length))
            return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"{file.name} has a damaged safetensors header: {error}") from error


def inspect_folder(folder: Path) -> dict[str, Any]:
    """Describe a checkpoint: family, parameters, context, vocabulary, number format, licence, chat template, size on disk.

    For an adapter, `parameters` are the adapter's and the rest is its base's. Raises InvalidInput or NotFound as `check_folder`.
    """
    check_folder(folder)
    adapter = is_adapter(folder)
    described = base_folder_of(folder) if adapter else folder
    config = json.loads((described / "config.json").read_text())
    text = config.get("text_config") or config
    tensors = {name: entry for file in sorted(folder.glob("*.safetensors")) for name, entry in read_tensor_shapes(file).items()}
    shapes = [entry for name, entry in tensors.items() if not name.endswith(BUFFERS)]
    formats = sorted({dtype for dtype, _ in shapes})
    template = _read_template(folder)
    return {
        "family": config.get("model_type", "unknown"),
        "architecture": (config.get("architectures") or [None])[0],
        "parameters": sum(math.prod(shape) for _, shape in shapes),
        "context": next((text[name] for name in CONTEXT_NAMES if text.get(name)), None),
        "vocab_size": text.get("vocab_size"),
        "dtype": ", ".join(formats),
        "licence": _read_licence(folder),
        "has_chat_template": template is not None and template != PLAIN_TEMPLATE,
        "adapter": adapter,
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and STATE_FOLDER not in path.parts),
        "files": sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and STATE_FOLDER not in path.parts
        ),
    }


def _read_template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    try:
        template = json.loads(config.read_text()).get("chat_template")
    except ValueError as error:
        raise InvalidInput(f"tokenizer_config.json of {folder.name} is not JSON: {error}") from error
    return template if isinstance(template, str) else ("\n".join(str(t) for t in template) if template else None)


def _read_licence(folder: Path) -> str | None:
    """The `license` of the README's front matter, which hub checkpoints carry."""
    file = folder / "README.md"
    if not file.is_file():
        return None
    parts = file.read_text(errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = parse_yaml(parts[1], what="The front matter")
    except InvalidInput:
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return str(licence) if licence else None
