"""One forward pass with everything in it: logits, each layer's output, each head's attention. Knows no family by name.

Layers are found as the list of blocks that is as long as the config says; their outputs are caught by hooks, not taken from
`output_hidden_states`, whose last entry has the final norm applied in most families and not in others. For the logit lens
(nostalgebraist 2020) a layer's output is put through the network's own forward with every block replaced by one that returns it: final
norm, scaling, head and soft cap are then the network's own, whatever they are.
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
    """What one pass over `T` tokens gave.

    `logits` [T, vocabulary], fp32 on the CPU; `states` the residual stream before the first layer and after each, or none where no
    blocks were found (`in_tuples`: a block returns its output as the first of several); `attention` [heads, T, T] for each layer that
    reports it; `no_attention` says why there is none.
    """

    logits: Tensor
    states: list[Tensor]
    in_tuples: bool
    attention: list[Tensor]
    no_attention: str = ""


@torch.inference_mode()
def read_network(network: PreTrainedModel, ids: list[int], *, attention: bool = True, states: bool = True) -> Pass:
    """Run the network once over `ids`, always with the same attention code, so that equal networks give equal numbers.

    Raises JobFailed if what it computes is not finite.
    """
    reason = _make_eager(network)
    inputs = torch.tensor([ids], device=network.device)
    with _watching(find_blocks(network) if states else []) as caught:
        output = network(input_ids=inputs, use_cache=False, output_attentions=attention and not reason, return_dict=True)
    logits = output.logits[0].float().cpu()
    broken = (~torch.isfinite(logits)).any(-1).nonzero().flatten()
    if len(broken):
        raise JobFailed(
            f"From token {int(broken[0]) + 1} on the network computes numbers that are not finite.",
            remedy="Look at its weights: tensors that hold NaN or infinity are named there.",
        )
    maps = [one[0].float().cpu() for one in (getattr(output, "attentions", None) or ()) if one is not None]
    square = [one for one in maps if one.dim() == 3 and one.shape[-2:] == (len(ids), len(ids))]
    if not reason and not square:
        reason = f"Networks of the family {network.config.model_type} compute no attention maps."
    return Pass(logits, caught.states, caught.in_tuples, square, "" if square else reason)


def _make_eager(network: PreTrainedModel) -> str:
    """Let the network compute attention step by step, as only then it can be seen. Returns why it can't, if so."""
    try:
        network.set_attn_implementation("eager")
    except (ValueError, ImportError) as error:
        return f"Attention can't be seen in networks of the family {network.config.model_type}: {error}"
    return ""


@dataclass
class _Caught:
    states: list[Tensor]
    in_tuples: bool = False


@contextmanager
def _watching(blocks: list[nn.Module]) -> Iterator[_Caught]:
    """Catch the input of the first block and the output of each, in order."""
    caught = _Caught([])

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.states.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        caught.in_tuples = isinstance(output, tuple)
        caught.states.append(output[0] if caught.in_tuples else output)

    handles = [block.register_forward_hook(after) for block in blocks]
    if blocks:
        handles.append(blocks[0].register_forward_pre_hook(before, with_kwargs=True))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def lens_logits(network: PreTrainedModel, ids: list[int], seen: Pass) -> Iterator[Tensor]:
    """Yield for each of a pass's states the logits [T, vocabulary] that the network's own tail makes of it, fp32 on the CPU."""
    blocks = find_blocks(network)
    inputs = torch.tensor([ids], device=network.device)
    for state in seen.states:
        with _replaced(blocks, (state, None, None) if seen.in_tuples else state):
            logits = network(input_ids=inputs, use_cache=False, return_dict=True).logits
        yield logits[0].float().cpu()


@contextmanager
def _replaced(blocks: list[nn.Module], output: Any) -> Iterator[None]:
    """Let every block return `output`, whatever it is given."""
    for block in blocks:
        block.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
