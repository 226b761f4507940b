"""Load the network to train: fresh from an architecture, from a base, or from the checkpoint to resume; with the
attention that its run asks for, and with its first blocks frozen.

FSDP2 shares a network out over the processes of a run, block by block (Zhao et al. 2023, arXiv 2304.11277), while it is
loaded: each process builds it without weights and reads its own share from the base, so none ever holds all. One
process alone reads a frozen base so, into fewer bits.

Read whole, and shared out afterwards, is what has no weights yet or needs them at once: a new network, DoRA and PiSSA,
which start from the base's matrices, scoring networks, a base that is an adapter, and a mixture of experts, whose
matrices transformers joins while it reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from torch import nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import RunConfig, context_problems
from backend.errors import InvalidInput
from jobs.modeling.blocks import find_blocks
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import (
    build_without_weights,
    check_folder,
    is_adapter,
    load_network,
    load_scorer,
    read_tensor_shapes,
)
from jobs.modeling.loglikelihood import longest_input
from jobs.modeling.tokenizers import padding_id
from jobs.modeling.unusable import one_line
from jobs.reporter import Reporter
from jobs.training.context import TrainingContext
from jobs.training.distributed import ProcessGroup
from jobs.training.network.adapters import add_adapters, held_type, hold_frozen, load_quantised

Attention = Literal["auto", "sdpa", "eager", "flex", "flash"]
IMPLEMENTATIONS = {"sdpa": "sdpa", "eager": "eager", "flex": "flex_attention", "flash": "flash_attention_2"}
ATTENTION_REMEDY = "Choose attention auto, which takes the fastest available."
EMBEDDINGS = ("embed", "wte", "wpe")
"""Parts of the names of embeddings, and of norms that belong to them, in transformers' decoders."""


def load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    """Load the network to train in fp32, with new adapters if the method has them, which may freeze a base in 16 bits,
    and set up attention, freezing and recomputation. With sharding fsdp it is shared out.
    """
    model = _load_model(ctx, resume_from=resume_from)
    hold_frozen(model, held_type(ctx))
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    choose_attention(network, ctx.config.attention, device=ctx.device, autocast=ctx.autocast)
    freeze_blocks(model, ctx.config.freeze_blocks, reporter=ctx.reporter)
    if ctx.config.recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if _is_shared_out(ctx.config, ctx.process_group):
        share_out(model, device=ctx.device, count=ctx.process_group.count)
    if is_unread(model):
        folder = ctx.base if ctx.config.method != "full" else resume_from or ctx.base
        assert folder is not None
        read_weights(model, folder, device=ctx.device)
        ctx.meter.forget_files()
    return model


def _load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    config, tokenizer = ctx.config, ctx.tokenizer
    if config.objective.pretrains and ctx.base is None and resume_from is None:
        return build_network(
            check_architecture(ctx),
            seed=config.seed,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dropout=config.dropout,
        )
    is_shared = _is_shared_out(config, ctx.process_group)
    build = _build_unread if is_shared or held_type(ctx) is not None else _load_full
    if config.method != "full":
        network = load_base(ctx, build)
        if is_unread(network):
            return add_to_unread(network, lambda: add_adapters(network, config, resume_from=resume_from))
        return add_adapters(network, config, resume_from=resume_from)
    return load_base(ctx, build) if resume_from is None else build(ctx, resume_from)


def _build_unread(ctx: TrainingContext, folder: Path) -> PreTrainedModel:
    """Build a network whose weights are read later, each process its share or all in fewer bits; load one that has to
    be read whole.
    """
    network = build_unread(folder, ctx.config)
    if network is None:
        if _is_shared_out(ctx.config, ctx.process_group):
            ctx.reporter.log("Each process reads the whole network, and keeps its share.")
        return _load_full(ctx, folder)
    return network


def _load_full(ctx: TrainingContext, folder: Path) -> PreTrainedModel:
    """Load a network with all its weights: a causal one, or for objective reward one that scores."""
    config = ctx.config
    if not config.objective.facts.writes:
        return load_scorer(folder, pad_id=padding_id(ctx.tokenizer), seed=config.seed, dropout=config.dropout)
    return load_network(folder, dropout=config.dropout)


def load_base(
    ctx: TrainingContext, load: Callable[[TrainingContext, Path], PreTrainedModel] = _load_full
) -> PreTrainedModel:
    """Load the base. Raises InvalidInput if the run's context is longer than the base's."""
    assert ctx.base is not None
    config = ctx.config
    if config.method == "qlora":
        network = load_quantised(ctx.base, bits=config.lora.bits, device=ctx.device, autocast=ctx.autocast)
    else:
        network = load(ctx, ctx.base)
    if config.context > longest_input(network):
        raise InvalidInput(
            f"The base takes at most {longest_input(network)} tokens, and context is {config.context}.",
            remedy=f"Set context to {longest_input(network)} or less.",
            field="context",
        )
    return network


def load_reference(ctx: TrainingContext) -> PreTrainedModel:
    """Load the base to compute with, on the run's device: the numbers that adapters start from."""
    network = load_base(ctx).eval().requires_grad_(False)
    hold_frozen(network, held_type(ctx))
    return network.to(ctx.device)


def check_architecture(ctx: TrainingContext) -> ArchitectureConfig:
    """Return the payload's architecture. Raises InvalidInput if the tokenizer or the run's context does not fit it."""
    architecture = ctx.spec.payload.architecture
    if architecture is None:
        raise InvalidInput(
            "This run has neither an architecture nor a base.", remedy="Choose one of them.", field="architecture"
        )
    if len(ctx.tokenizer) > architecture.vocab_size:
        raise InvalidInput(
            f"The tokenizer has {len(ctx.tokenizer)} entries and the architecture's vocab_size is"
            f" {architecture.vocab_size}.",
            remedy=f"Set vocab_size to {len(ctx.tokenizer)} (more is allowed, unused entries cost memory).",
            field="vocab_size",
        )
    for problem in context_problems(ctx.config.context, architecture.context):
        raise InvalidInput(f"{problem}.", field="context")
    return architecture


def choose_attention(network: Any, attention: Attention, *, device: torch.device, autocast: torch.dtype | None) -> None:
    """Set a network's attention implementation; `auto` leaves the choice to transformers.

    Raises InvalidInput for an implementation that this device, installation or network lacks.
    """
    if attention == "auto":
        return
    if attention in ("flex", "flash") and device.type != "cuda":
        raise InvalidInput(
            f"{attention} attention trains on a GPU only, and this run is on the CPU.",
            remedy=ATTENTION_REMEDY,
            field="attention",
        )
    if attention == "flash" and not is_flash_attn_2_available():
        raise InvalidInput(
            "flash attention needs the package flash-attn, which is not installed here.",
            remedy=f"Install flash-attn on the workers, or: {ATTENTION_REMEDY[0].lower()}{ATTENTION_REMEDY[1:]}",
            field="attention",
        )
    if attention == "flash" and autocast is None:
        raise InvalidInput(
            "flash attention computes in 16 bits, and precision is fp32.",
            remedy="Choose precision bf16.",
            field="attention",
        )
    why = "it has an implementation of its own"
    try:
        network.set_attn_implementation(IMPLEMENTATIONS[attention])
    except (ValueError, ImportError) as error:
        why = one_line(error)
    if network.config._attn_implementation != IMPLEMENTATIONS[attention]:  # some networks ignore the setting
        raise InvalidInput(
            f"{type(network).__name__} can't compute attention by {attention}: {why}.",
            remedy=ATTENTION_REMEDY,
            field="attention",
        )


def freeze_blocks(network: PreTrainedModel, count: int, *, reporter: Reporter) -> None:
    """Exclude the embeddings and the first `count` blocks from training; log the number of trained parameters.

    A head tied to the embedding is frozen with it. Raises InvalidInput for more blocks than the network has.
    """
    if not count:
        return
    blocks = find_blocks(network)
    if not blocks:
        raise InvalidInput(
            f"This {type(network).__name__} has no list of decoder blocks to freeze.",
            remedy="Set freeze_blocks to 0, or train adapters.",
            field="freeze_blocks",
        )
    if count > len(blocks):
        raise InvalidInput(
            f"freeze_blocks is {count}, and the model has {len(blocks)} blocks.",
            remedy=f"Freeze at most {len(blocks)}, which leaves the final norm and the head to train.",
            field="freeze_blocks",
        )
    embeddings = [module for name, module in network.base_model.named_modules() if _is_embedding(name, module)]
    for module in [*blocks[:count], *embeddings]:
        module.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in network.parameters())
    head = network.get_output_embeddings()
    is_tied = head is not None and not head.weight.requires_grad
    frozen = "The embeddings (and the tied head)" if is_tied else "The embeddings"
    reporter.log(
        f"{frozen} and {count} of {len(blocks)} blocks are frozen; {trained:,} of {total:,} parameters are trained."
    )


def _is_embedding(name: str, module: torch.nn.Module) -> bool:
    """Return whether a module of the decoder is an embedding or the norm of one. Rotary embeddings hold no parameters
    and do not matter.
    """
    last = name.rpartition(".")[2]
    return isinstance(module, torch.nn.Embedding) or ("." not in name and any(part in last for part in EMBEDDINGS))


_BASE_LAYER = ".base_layer."
"""Part that PEFT inserts into the name of a matrix with an adapter."""


def _is_shared_out(config: RunConfig, group: ProcessGroup) -> bool:
    """Return whether each process of a run holds a share of its network."""
    return group.count > 1 and config.devices.sharding == "fsdp"


def build_unread(folder: Path, config: RunConfig) -> Any | None:
    """Build a checkpoint's network without weights for `read_weights`; None if it has to be read whole."""
    check_folder(folder)
    starts_from_weights = config.method != "full" and config.lora.variant not in ("lora", "rslora")
    if is_adapter(folder) or config.method == "qlora" or starts_from_weights or not config.objective.facts.writes:
        return None
    network = build_without_weights(folder, with_buffers=True, dropout=config.dropout)
    stored = {
        name: shape
        for file in sorted(folder.glob("*.safetensors"))
        for name, (_, shape) in read_tensor_shapes(file).items()
    }
    names: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
        if stored.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
            return None
    return network if all(any(name in stored for name in same) for same in names.values()) else None


def is_unread(network: nn.Module) -> bool:
    """Return whether a network lacks weights, those of adapters aside."""
    return any(parameter.is_meta for parameter in network.parameters())


def add_to_unread(network: nn.Module, add: Callable[[], peft.PeftModel]) -> peft.PeftModel:
    """Call `add`, which puts adapters on a network. PEFT moves each adapter to the device of its matrix: to this one
    of a stand-in, so that its first values are kept.
    """
    with _stand_ins(network):
        model = add()
    for parameter in network.parameters():
        if parameter.is_meta:
            parameter.requires_grad_(False)
    return model


@contextmanager
def _stand_ins(network: nn.Module) -> Iterator[None]:
    replaced = [
        (module, weight)
        for module in network.modules()
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter)
    ]
    for module, weight in replaced:
        module.weight = nn.Parameter(torch.zeros(()).expand(weight.shape))  # its shape without its memory
    try:
        yield
    finally:
        for module, weight in replaced:
            module.weight = weight


def share_out(model: Any, *, device: torch.device, count: int) -> None:
    """Shard a network in place over `count` processes. Types of numbers may differ where they are frozen."""
    mesh = init_device_mesh(device.type, (count,))
    for block in find_blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


@torch.no_grad()
def read_weights(model: Any, folder: Path, *, device: torch.device) -> None:
    """Read the weights of an unread network from a checkpoint's folder, of a shared one this process's share."""
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor)
    network.tie_weights()  # `_apply` made two of a matrix that serves as embedding and head
    stored = {name for file in folder.glob("*.safetensors") for name in read_tensor_shapes(file)}
    shares = {
        original: tensor
        for name, tensor in network.state_dict().items()
        if (original := name.replace(_BASE_LAYER, ".")) in stored
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # each reads on its own
        load_checkpoint(shares, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
