"""Run one forward pass that returns logits, each layer's output and each head's attention. Independent of the model
family.

Layers are the list of blocks that is as long as the config says; hooks capture their outputs, instead of
`output_hidden_states`, whose last entry has the final norm applied in most families and not in others. For the logit
lens (nostalgebraist 2020) a layer's output passes through the network's own forward with every block replaced by the
identity, so final norm, scaling, head and soft cap are the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backend.errors import JobFailed
from jobs.modeling.blocks import find_blocks


@dataclass(frozen=True)
class Pass:
    """The result of one forward pass over `T` tokens.

    `logits` [T, vocabulary], fp32 on the CPU; `states` the residual stream before the first layer and after each, or
    none where no blocks were recognised (`in_tuples`: a block returns its output as the first of several); `attention`
    [heads, T, T] for each layer that reports it; `no_attention` says why there is none.
    """

    logits: Tensor
    states: list[Tensor]
    in_tuples: bool
    attention: list[Tensor]
    no_attention: str = ""


@torch.inference_mode()
def run_network(network: PreTrainedModel, ids: list[int], *, attention: bool = True, states: bool = True) -> Pass:
    """Run the network once over `ids`, always with eager attention, so that equal networks give equal numbers.

    Raises JobFailed for logits that are not finite.
    """
    reason = _make_eager(network)
    inputs = torch.tensor([ids], device=network.device)
    with _capture(find_blocks(network) if states else []) as captured:
        output = network(
            input_ids=inputs, use_cache=False, output_attentions=attention and not reason, return_dict=True
        )
    logits = output.logits[0].float().cpu()
    broken = (~torch.isfinite(logits)).any(-1).nonzero().flatten()
    if len(broken):
        raise JobFailed(
            f"The model's logits are not finite from token {int(broken[0]) + 1} on.",
            remedy="Inspect its weights: tensors with NaN or infinity are listed there.",
        )
    maps = [one[0].float().cpu() for one in getattr(output, "attentions", None) or () if one is not None]
    square = [one for one in maps if one.dim() == 3 and one.shape[-2:] == (len(ids), len(ids))]
    if not reason and not square:
        reason = f"Models of the family {network.config.model_type} compute no attention maps."
    return Pass(logits, captured.states, captured.in_tuples, square, "" if square else reason)


def _make_eager(network: PreTrainedModel) -> str:
    """Switch the network to eager attention, which alone returns its maps. Returns the reason if it can't."""
    try:
        network.set_attn_implementation("eager")
    except (ValueError, ImportError) as error:
        return f"Models of the family {network.config.model_type} return no attention maps: {error}"
    return ""


@dataclass
class _Captured:
    states: list[Tensor]
    in_tuples: bool = False


@contextmanager
def _capture(blocks: list[nn.Module]) -> Iterator[_Captured]:
    """Capture the input of the first block and the output of each block, in order."""
    captured = _Captured([])

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.states.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        captured.in_tuples = isinstance(output, tuple)
        captured.states.append(output[0] if captured.in_tuples else output)

    handles = [block.register_forward_hook(after) for block in blocks]
    if blocks:
        handles.append(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def lens_logits(network: PreTrainedModel, ids: list[int], forward: Pass) -> Iterator[Tensor]:
    """Yield the logits [T, vocabulary] that final norm and head give each layer's state, fp32 on the CPU."""
    blocks = find_blocks(network)
    inputs = torch.tensor([ids], device=network.device)
    for state in forward.states:
        with _replaced(blocks, (state, None, None) if forward.in_tuples else state):
            logits = network(input_ids=inputs, use_cache=False, return_dict=True).logits
        yield logits[0].float().cpu()


@contextmanager
def _replaced(blocks: list[nn.Module], output: Any) -> Iterator[None]:
    """Make every block return `output`, whatever its input."""
    for block in blocks:
        block.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
