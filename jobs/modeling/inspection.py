"""Describe a checkpoint folder from its configs and the headers of its weights. Loads no weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

from backend.domain.architectures.hf_config import CONTEXT_NAMES
from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.domain.jobs.results import CheckpointDescription
from backend.errors import InvalidInput
from backend.infra.checkpoints.candidates import GGUF, read_licence
from backend.infra.checkpoints.weight_headers import BUFFERS, read_gguf, read_safetensors
from jobs.modeling.checkpoints import STATE_FOLDER, base_folder_of, check_folder, is_adapter, read_card


def read_tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return name -> (dtype, shape) from the header of a safetensors file.

    Raises InvalidInput if the header is damaged or the file is truncated.
    """
    return {name: (tensor.dtype, tensor.shape) for name, tensor in read_safetensors(file).items()}


def inspect_folder(folder: Path) -> CheckpointDescription:
    """Describe a checkpoint: family, parameters, context, vocabulary, number format, licence, chat template, size on
    disk.

    For an adapter, `parameters` are the adapter's and the rest is its base's. Raises InvalidInput or NotFound as
    `check_folder`.
    """
    check_folder(folder)
    adapter = is_adapter(folder)
    described = base_folder_of(folder) if adapter else folder
    config = json.loads((described / "config.json").read_text())
    text = config.get("text_config") or config
    tensors = {
        name: entry for file in sorted(folder.glob("*.safetensors")) for name, entry in read_tensor_shapes(file).items()
    }
    shapes = [entry for name, entry in tensors.items() if not name.endswith(BUFFERS)]
    formats = sorted({dtype for dtype, _ in shapes})
    template = _read_template(folder)
    header = read_gguf(folder / GGUF) if (folder / GGUF).is_file() else None
    return CheckpointDescription(
        family=config.get("model_type", "unknown"),
        architecture=(config.get("architectures") or [None])[0],
        parameters=sum(math.prod(shape) for _, shape in shapes),
        context=next((text[name] for name in CONTEXT_NAMES if text.get(name)), None),
        vocab_size=text.get("vocab_size"),
        dtype=", ".join(formats),
        licence=read_licence(folder) or read_card(folder).get("licence"),
        has_chat_template=template is not None and template != PLAIN_TEMPLATE,
        quantisation="" if header is None else header.quantisation,
        bits_per_weight=None if header is None else header.bits_per_weight,
        adapter=adapter,
        bytes=sum(
            path.stat().st_size for path in folder.rglob("*") if path.is_file() and STATE_FOLDER not in path.parts
        ),
        files=tuple(
            sorted(
                path.relative_to(folder).as_posix()
                for path in folder.rglob("*")
                if path.is_file() and STATE_FOLDER not in path.parts
            )
        ),
    )


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
