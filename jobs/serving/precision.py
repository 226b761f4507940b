"""Serve a network in int8 on a CPU: its linear layers quantised behind a module of our own, and the price in quality, measured.

Activations have 8 bits and one scale per token (dynamic quantisation), weights 7 bits and one scale per output: with 8 bits each, sums
of two products overflow the 16 bits in which CPUs without VNNI add them. Channels of large activations are evened out by SmoothQuant
(Xiao et al., ICML 2023, arXiv:2211.10438, equation 4, alpha 0.5). Embeddings, norms and attention stay float32.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from backend.domain.serving.precision import PrecisionCheck
from backend.errors import InvalidInput

NUM_TEXTS, TEXT_TOKENS, SEED = 8, 48, 11
MIN_INPUTS = 32  # layers narrower than this stay float32: they take no time
WEIGHT_LEVELS, ACTIVATION_LEVELS = 63, 127
LAST_OF_MLP = ("down_proj", "mlp.c_proj", "fc2", "w2", "dense_4h_to_h")  # their inputs have the largest outliers
Layers = dict[str, nn.Module]


class Int8Linear(nn.Module):
    """A linear layer with int8 weights. `weight` [out, in], `bias` [out] or None, `smooth` [in]: activations are divided by it."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, smooth: torch.Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._inverse, self._bias = 1 / smooth, bias
        weight = weight * smooth
        scales = (weight.abs().amax(1) / WEIGHT_LEVELS).clamp(min=1e-8)
        rounded = (weight / scales.unsqueeze(1)).round().clamp(-WEIGHT_LEVELS, WEIGHT_LEVELS).to(torch.int8)
        zeros = torch.zeros(self.out_features, dtype=torch.long)
        with warnings.catch_warnings():  # tensors of quantised types are deprecated; this one lives only until it is packed
            warnings.simplefilter("ignore")
            quantised = torch._make_per_channel_quantized_tensor(rounded, scales.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantised, None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` [..., in] times the weights [..., out]."""
        smooth = inputs * self._inverse
        # The operator has one scale for all tokens. Scaled to [-1, 1] every token has its own, whatever shares the batch.
        largest = torch.linalg.vector_norm(smooth, ord=math.inf, dim=-1, keepdim=True).clamp_(min=1e-12)
        operator = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        result: torch.Tensor = operator(smooth.div_(largest), 1 / ACTIVATION_LEVELS, ACTIVATION_LEVELS + 1, self._packed).mul_(largest)
        return result if self._bias is None else result.add_(self._bias)

    def __deepcopy__(self, memo: object) -> Int8Linear:
        """Return the same layer: it has no state that a copy could need for itself."""
        del memo
        return self


@torch.inference_mode()
def quantise_and_check(network: Any, *, max_perplexity_ratio: float) -> PrecisionCheck:
    """Quantise a network in place; return the change of its perplexity and greedy choices on texts that it wrote in float32.

    The texts are draws at temperature 1 from the network itself, so that the check fits any domain and language and needs no data. Half of
    them calibrate, the other half are measured. Where the ratio exceeds its limit, the last layers of the MLPs stay float32 and it is
    measured again. Raises InvalidInput off the CPU.
    """
    if network.device.type != "cpu":
        raise InvalidInput("int8 is served on CPUs only.", remedy="Deploy with precision float32.", field="precision")
    texts = _write_texts(network)
    calibration, held_out = texts[: NUM_TEXTS // 2], texts[NUM_TEXTS // 2 :]
    ranges = _input_ranges(network, calibration)
    before, choices = _read(network, held_out)
    originals = dict(_linear_layers(network))
    for float_layers in ((), LAST_OF_MLP):
        _replace(network, originals, ranges, float_layers=float_layers)
        after, choices_after = _read(network, held_out)
        check = PrecisionCheck(
            precision="int8",
            perplexity_ratio=round(math.exp(after - before), 5),
            greedy_agreement=round(float((choices == choices_after).double().mean()), 5),
            num_tokens=choices.numel(),
            num_layers=sum(not name.endswith(float_layers) for name in originals) if float_layers else len(originals),
            num_float_layers=sum(name.endswith(float_layers) for name in originals) if float_layers else 0,
        )
        if check.perplexity_ratio <= max_perplexity_ratio:
            break
    return check


def _linear_layers(network: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and _weight(module).shape[1] >= MIN_INPUTS:
            yield name, module


def _weight(module: Any) -> torch.Tensor:
    """Return a layer's weights [out, in]."""
    weight: torch.Tensor = module.weight.detach().float()
    return weight.t() if isinstance(module, Conv1D) else weight


def _replace(network: Any, originals: Layers, ranges: dict[str, torch.Tensor], *, float_layers: tuple[str, ...]) -> None:
    """Put int8 layers in the place of the originals, and the originals back where they stay float32."""
    for name, module in originals.items():
        parent, _, child = name.rpartition(".")
        layer: Any = module
        if not (float_layers and name.endswith(float_layers)):
            weight, bias = _weight(module), getattr(module, "bias", None)
            largest = ranges[name].clamp(min=1e-5).sqrt() / weight.abs().amax(0).clamp(min=1e-5).sqrt()
            layer = Int8Linear(weight, None if bias is None else bias.detach().float(), largest.clamp(min=1e-4))
        setattr(network.get_submodule(parent), child, layer)


def _input_ranges(network: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the largest absolute input of each linear layer by channel; ones for a layer that saw none."""
    ranges, handles = dict[str, torch.Tensor](), []
    for name, module in _linear_layers(network):
        ranges[name] = torch.zeros(_weight(module).shape[1])

        def note(module: Any, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            del module
            ranges[name] = torch.maximum(ranges[name], inputs[0].float().abs().flatten(0, -2).amax(0))

        handles.append(module.register_forward_pre_hook(note))
    network(input_ids=ids[:, :-1], use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: largest if largest.any() else torch.ones_like(largest) for name, largest in ranges.items()}


def _write_texts(network: Any) -> torch.Tensor:
    """Return token ids [texts, tokens]: the begin token or random ones, continued by the network."""
    generator = torch.Generator().manual_seed(SEED)
    config = network.config.get_text_config()
    ids = torch.randint(network.get_input_embeddings().weight.shape[0], (NUM_TEXTS, 1), generator=generator)
    if getattr(config, "bos_token_id", None) is not None:
        ids = torch.full_like(ids, config.bos_token_id)
    more: dict[str, Any] = {"use_cache": False}
    if network._supports_attention_backend:
        name = "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"
        more = {name: DynamicCache(config=network.config), "use_cache": True}
    while ids.shape[1] < TEXT_TOKENS:
        logits = network(input_ids=ids[:, -1:] if more["use_cache"] else ids, **more).logits[:, -1].float()
        ids = torch.cat([ids, torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)], dim=1)
    return ids


def _read(network: Any, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the mean negative log-likelihood in nats, and the most likely token at each position."""
    logits = network(input_ids=ids[:, :-1], use_cache=False).logits.float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return float(nll), logits.argmax(-1)
