"""Checkpoints on disk: published atomically with hashes, read from safetensors alone, and described from their configs
and the headers of their weights.

A checkpoint is a folder that any Hugging Face tool loads, plus `roundhouse.json`. An adapter's folder names its base
there, as a path relative to itself. A reward model is a sequence classification network of transformers with a single
label. Nothing is unpickled, and no code of a checkpoint is run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from accelerate import init_empty_weights
from accelerate.utils import other as accelerate_other
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from backend.domain.architectures.hf_config import CONTEXT_NAMES
from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.domain.jobs.results import CheckpointDescription
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput, JobFailed, NotFound
from backend.infra.checkpoints.candidates import GGUF, PICKLE_ENDINGS, read_licence
from backend.infra.checkpoints.weight_headers import BUFFERS, read_gguf, read_safetensors
from backend.infra.files.hashes import hash_file
from jobs.modeling.build import allow_any_experts, set_dropout
from jobs.modeling.devices import is_out_of_memory
from jobs.modeling.pissa import save_as_lora
from jobs.modeling.publishing import publish_folder
from jobs.modeling.unusable import UNUSABLE, one_line

CARD = "roundhouse.json"
STATE_FOLDER = "training_state"
SAFELY: dict[str, bool] = {"trust_remote_code": False, "local_files_only": True}
"""Options of transformers' loaders for folders, which are untrusted."""


def save_checkpoint(
    folder: Path,
    *,
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    meta: dict[str, Any],
    weights: dict[str, torch.Tensor] | None = None,
    write_more: Callable[[Path], None] | None = None,
) -> dict[str, object]:
    """Publish a checkpoint at `folder` atomically, replacing an existing one; return its card.

    `meta` (lineage, metrics, ...) goes into the card beside file hashes and versions. `write_more` may add files, such
    as the training state, before the rename; `weights` are saved instead of the network's own. Raises JobFailed if the
    disk is full.
    """
    transformers.utils.logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir()
        _write_model(model, partial, base=meta.get("base"), weights=weights)
        tokenizer.save_pretrained(partial)
        if write_more is not None:
            write_more(partial)
        card = write_card(partial, meta=meta)
        publish_folder(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise JobFailed(
                f"The disk is full: checkpoint {folder.name} could not be written.",
                remedy="Free space, then resume: earlier checkpoints are intact.",
            ) from error
        raise
    return card


def _write_model(
    model: torch.nn.Module, folder: Path, *, base: str | None, weights: dict[str, torch.Tensor] | None
) -> None:
    more: dict[str, object] = {} if weights is None else {"state_dict": weights}
    if isinstance(model, peft.PeftModel):
        configs = list(model.peft_config.values())
        places = [config.base_model_name_or_path for config in configs]
        for config in configs:  # relative to the artifacts: this machine's paths mean nothing elsewhere
            config.base_model_name_or_path = base
        try:
            # "auto" would look the base up on the Hub
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **more)
            save_as_lora(model, folder)
        finally:
            for config, place in zip(configs, places, strict=True):
                config.base_model_name_or_path = place
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's template, not documentation
        return
    assert isinstance(model, PreTrainedModel)
    with _without_deepspeed():
        model.save_pretrained(folder, **more)


@contextmanager
def _without_deepspeed() -> Iterator[None]:
    """Keep accelerate from importing DeepSpeed to ask whether a network is its engine: it is slow and warns, and
    the network is none unless a run has imported it.
    """
    known = accelerate_other.is_deepspeed_available
    accelerate_other.is_deepspeed_available = lambda: "deepspeed" in sys.modules
    try:
        yield
    finally:
        accelerate_other.is_deepspeed_available = known


def write_card(folder: Path, *, meta: Mapping[str, object]) -> dict[str, object]:
    """Write `roundhouse.json`: `meta`, the SHA-256 and size of every file, and library versions."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != CARD:
            files[name] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    card = {
        **meta,
        "format": 1,
        "files": files,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True, default=str) + "\n")
    return card


def hash_weights(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, of an adapter with those of its base. The card's hashes are not
    computed again.
    """
    known = read_card(folder).get("files", {})
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        listed = known.get(path.name, {})
        same = listed.get("bytes") == path.stat().st_size
        digest.update(f"{path.name} {listed['sha256'] if same else hash_file(path)}\n".encode())
    if is_adapter(folder):
        digest.update(hash_weights(base_folder_of(folder)).encode())
    return digest.hexdigest()


def stored_dtype(folder: Path) -> str | None:
    """Return the number format that a checkpoint's config names, of an adapter that of its base."""
    if is_adapter(folder):
        return stored_dtype(base_folder_of(folder))
    config = json.loads((folder / "config.json").read_text())
    named = config.get("dtype") or config.get("torch_dtype")
    return str(named).removeprefix("torch.") if named else None


def read_card(folder: Path) -> JsonObject:
    """Return the contents of `roundhouse.json`; empty without one (a checkpoint from outside)."""
    try:
        data = json.loads((folder / CARD).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidInput(f"{folder.name}/{CARD} is damaged: {error}") from error
    return data if isinstance(data, dict) else {}


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint has a card and every file that it lists, with its size."""
    card = read_card(folder)
    files = card.get("files", {})
    return bool(files) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == file["bytes"] for name, file in files.items()
    )


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds low-rank adapters instead of a full network."""
    return (folder / "adapter_config.json").is_file()


def is_scorer(folder: Path) -> bool:
    """Return whether a folder holds a reward model, or the adapter of one."""
    try:
        if is_adapter(folder):
            return bool(json.loads((folder / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS")
        named = json.loads((folder / "config.json").read_text()).get("architectures") or [""]
        return str(named[0]).endswith("ForSequenceClassification")
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return False


def check_folder(folder: Path) -> None:
    """Raise NotFound or InvalidInput unless the folder holds weights that can be loaded without running code."""
    if not folder.is_dir():
        raise NotFound(f"There is no checkpoint folder {folder}.")
    config = folder / ("adapter_config.json" if is_adapter(folder) else "config.json")
    if not config.is_file():
        raise InvalidInput(f"{folder} holds no config.json.", remedy="Give the folder of a Hugging Face checkpoint.")
    try:
        data = json.loads(config.read_text())
    except ValueError as error:
        raise InvalidInput(f"{config.name} of {folder.name} is not JSON: {error}") from error
    if data.get("auto_map"):
        raise InvalidInput(
            f"{folder.name} wants to run its own code (auto_map in config.json).",
            remedy="Roundhouse runs no code from a checkpoint. Use an architecture that transformers knows.",
        )
    if any(folder.glob("*.safetensors")):
        return
    unsafe = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_ENDINGS)
    if unsafe:
        raise InvalidInput(
            f"{folder.name} holds its weights as {', '.join(unsafe[:3])}, a format that can run code when it is read.",
            remedy="If you trust it, convert it to safetensors (model.save_pretrained), then add the result.",
        )
    raise InvalidInput(f"{folder.name} holds no weights (*.safetensors).")


def base_folder_of(folder: Path) -> Path:
    """Return the folder of an adapter's base, as its card names it."""
    base = read_card(folder).get("base_path")
    if not isinstance(base, str):
        raise InvalidInput(
            f"{folder.name} is an adapter, and its base is unknown.",
            remedy="Merge it into its base on the machine where it was made, and add the result.",
        )
    return (folder / base).resolve()


def put_on(base: Any, adapter: Path) -> Any:
    """Merge an adapter into its base's weights."""
    network = peft.PeftModel.from_pretrained(base, str(adapter), local_files_only=True)
    # PEFT freezes the base and leaves it frozen after the merge; a merged network may be trained in full
    return network.merge_and_unload().requires_grad_(True).eval()


def load_network(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    dropout: float | None = None,
) -> PreTrainedModel:
    """Load a checkpoint's network in evaluation mode; an adapter is merged into its base.

    `dropout` is that of training (see `set_dropout`); None keeps the checkpoint's. Raises NotFound or InvalidInput (see
    `check_folder`), and InvalidInput if the weights do not match the config.
    """
    check_folder(folder)
    if is_scorer(folder):
        raise InvalidInput(
            f"{folder.name} holds a reward model, which generates no text.",
            remedy="Choose a checkpoint of another objective.",
        )
    transformers.utils.logging.disable_progress_bar()
    if is_adapter(folder):
        base = load_network(base_folder_of(folder), device=device, dtype=dtype, dropout=dropout)
        return put_on(base, folder)
    return load_as(AutoModelForCausalLM, folder, dtype=dtype, dropout=dropout).to(device).eval()


def load_as(kind: Any, folder: Path, *, dtype: torch.dtype, dropout: float | None) -> Any:
    """Load a folder's weights by one of transformers' automatic classes. Raises InvalidInput for an unusable folder."""
    try:
        config = _read_config(folder, dropout=dropout)
        network = kind.from_pretrained(str(folder), config=config, dtype=dtype, use_safetensors=True, **SAFELY)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInput(f"The model in {folder.name} can't be loaded: {one_line(error)}") from error
    allow_any_experts(network)
    return network


def _read_config(folder: Path, *, dropout: float | None) -> Any:
    config = AutoConfig.from_pretrained(str(folder), **SAFELY)
    if dropout is not None:
        set_dropout(config, dropout)
    return config


def build_without_weights(folder: Path, *, with_buffers: bool = False, dropout: float | None = None) -> PreTrainedModel:
    """Build a checkpoint's network as `load_network` does, of an adapter its base's, with all tensors on torch's meta
    device, or with real buffers.

    Raises InvalidInput if the config can't be read.
    """
    while is_adapter(folder):
        folder = base_folder_of(folder)
    try:
        config = _read_config(folder, dropout=dropout)
        with init_empty_weights(include_buffers=False) if with_buffers else torch.device("meta"):
            network: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        network.tie_weights()
        if (folder / GENERATION_CONFIG_NAME).is_file():
            network.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    except UNUSABLE as error:
        raise InvalidInput(f"The model in {folder.name} can't be built: {one_line(error)}") from error
    allow_any_experts(network)
    return network.eval()


def load_scorer(folder: Path, *, pad_id: int, seed: int = 0, dropout: float | None = None) -> PreTrainedModel:
    """Load a scoring network in fp32 and evaluation mode.

    A causal network gets a new scoring head, drawn from `seed`. The score is read at the last token of a row that is
    not `pad_id`. Raises NotFound or InvalidInput (see `load_network`), and InvalidInput for a family without a scoring
    class.
    """
    check_folder(folder)
    if not is_scorer(folder):
        return _with_new_head(load_network(folder, dropout=dropout), pad_id=pad_id, seed=seed)
    if is_adapter(folder):
        base = load_scorer(base_folder_of(folder), pad_id=pad_id, seed=seed, dropout=dropout)
        return put_on(base, folder)
    scorer = load_as(AutoModelForSequenceClassification, folder, dtype=torch.float32, dropout=dropout)
    if scorer.config.num_labels != 1:
        raise InvalidInput(
            f"The model in {folder.name} sorts texts into {scorer.config.num_labels} classes, and a reward model"
            " gives one score."
        )
    return scorer.eval()


def _with_new_head(network: PreTrainedModel, *, pad_id: int, seed: int) -> PreTrainedModel:
    """Put a scoring head on the body of a causal network."""
    config = network.config
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise InvalidInput(
            f"transformers has no model of the family {config.model_type!r} that scores texts.",
            remedy="Choose a base of another family, such as llama, qwen3 or gpt2.",
            field="base",
        )
    config.num_labels, config.pad_token_id = 1, pad_id
    with torch.device("meta"):  # its body is discarded
        scorer = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    head = getattr(scorer, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise InvalidInput(
            f"A model of the family {config.model_type!r} scores in a way that can't be trained here.", field="base"
        )
    scorer.score = torch.nn.Linear(head.in_features, 1, bias=head.bias is not None)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scorer.score.weight.normal_(0.0, float(getattr(config, "initializer_range", 0.02)), generator=draw)
        if scorer.score.bias is not None:
            scorer.score.bias.zero_()
    setattr(scorer, scorer.base_model_prefix, getattr(network, network.base_model_prefix))
    allow_any_experts(scorer)
    return scorer.eval()


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
