"""Compute the loss inside the network's forward pass, so that the logits of all tokens are never in memory.

The network is called as usual, so it may be compiled, have adapters, or be wrapped for several devices. During the call
its head passes hidden states on, and transformers' hook for a loss function computes logits and loss together
(`linear_loss`). Equality with the network's own logits is tested on a few tokens; a network whose head is more than a
matrix product returns logits as usual.

A plain loss holds three copies of the logits when the backward pass begins, most of a run's memory with a large
vocabulary. In `linear_loss` the gradient of each chunk is computed in place of its logits in the forward pass, and what
is saved has the size of the hidden states and the head (Wijmans et al. 2024, arXiv 2411.09009; Hsu et al. 2024, arXiv
2410.10989). One in-place pass over the logits is also faster than autograd's several. `linear_logprobs` is
differentiable one token at a time: logits that fit one chunk are kept for the backward pass; larger ones are recomputed
there, a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import peft
import torch
import torch.nn.functional as F

from backend.domain.estimates.memory import LOGITS_AT_ONCE_BYTES, chunk_rows
from jobs.batches.base import IGNORE, MicroBatch
from jobs.batches.preference import Sequences
from jobs.modeling.unusable import UNUSABLE
from jobs.training.network.experts import router_loss_weight

TEST_TOKENS, TOLERANCE = 9, 1e-3
LossFunction = Callable[..., torch.Tensor]


class Penalties(NamedTuple):
    """Terms of the loss besides the cross-entropy.

    `label_smoothing` is the share of a target spread over the vocabulary (Szegedy et al. 2016, arXiv 1512.00567,
    section 7), `z_loss` the weight of the squared log-partition (Chowdhery et al. 2022, arXiv 2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


NO_PENALTIES = Penalties()


class TokenLosses(NamedTuple):
    """`total`: the loss with penalties, summed over tokens, differentiable. `nll`: each token's in nats, detached."""

    total: torch.Tensor
    nll: torch.Tensor


class OutputHead:
    """The output head of `model`, a network with or without adapters."""

    def __init__(self, model: Any) -> None:
        network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        self._network, self._head = network, network.get_output_embeddings()
        self._cap = getattr(network.config, "final_logit_softcapping", None)
        self.joins_loss = isinstance(self._head, torch.nn.Linear) and self._is_product(model)

    def losses(
        self,
        network: torch.nn.Module,
        batch: MicroBatch,
        *,
        penalties: Penalties = NO_PENALTIES,
        more: Mapping[str, object] | None = None,
    ) -> tuple[TokenLosses, Any]:
        """Run a network (this one, wrapped or compiled) on a batch; return its losses and its output.

        If the batch has `columns` the head runs on those positions only. `more` are further arguments of the call.
        """
        targets, arguments = batch.targets, {**batch.arguments, **(more or {})}
        if batch.columns is not None:
            targets, arguments["logits_to_keep"] = targets[:, batch.columns], batch.columns
        if not self.joins_loss:
            output = network(**arguments)
            return logits_loss(output.logits.flatten(0, 1), targets.flatten(), penalties), output
        with self._joined(self._losses_of(penalties)):
            output = network(**arguments, labels=targets)
        return TokenLosses(output.loss[0], output.loss[1:].detach()), output

    def logprobs(
        self,
        network: torch.nn.Module,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        columns: torch.Tensor,
        *,
        temperature: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run a network (this one, wrapped or compiled); return the log-probability of every target, differentiable,
        and the router loss.

        `inputs` and `targets` are (rows, tokens), already shifted by one; the head runs on `columns` only, and the
        log-probabilities are (rows, columns), 0 where a target is IGNORE. The router loss is that of a mixture of
        experts in training, else None.
        """
        weight = router_loss_weight(network) if network.training else 0.0
        arguments: dict[str, object] = {"output_router_logits": True} if weight else {}
        arguments |= {"input_ids": inputs, "use_cache": False, "logits_to_keep": columns}
        targets = targets[:, columns]
        if self.joins_loss:
            with self._joined(self._logprobs_of(temperature)):
                output = network(**arguments, labels=targets)
            logprobs = output.loss
        else:
            output = network(**arguments)
            logprobs = _logits_logprobs(output.logits.flatten(0, 1), targets.flatten(), temperature=temperature)
        return logprobs.view(targets.shape), weight * output.aux_loss if weight else None

    def answer_logprobs(self, network: torch.nn.Module, batch: Sequences) -> torch.Tensor:
        """Sum the log-probabilities of each row's targets, (rows,)."""
        return self.logprobs(network, batch.inputs, batch.targets, batch.columns)[0].sum(dim=1)

    def _losses_of(self, penalties: Penalties) -> LossFunction:
        head, cap = self._head, self._cap

        def losses_of(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            hidden = logits.flatten(0, 1)
            total, nll = linear_loss(
                hidden, head.weight, labels.flatten(), bias=head.bias, cap=cap, penalties=penalties
            )
            return torch.cat([total[None], nll])

        return losses_of

    def _logprobs_of(self, temperature: float) -> LossFunction:
        head, cap = self._head, self._cap

        def logprobs_of(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            hidden = logits.flatten(0, 1)
            return linear_logprobs(
                hidden, head.weight, labels.flatten(), bias=head.bias, cap=cap, temperature=temperature
            )

        return logprobs_of

    @contextmanager
    def _joined(self, loss_of: LossFunction) -> Iterator[None]:
        network, head, cap = self._network, self._head, self._cap
        adds_router_loss = hasattr(network, "router_aux_loss_coef")  # the caller adds it instead
        coefficient, before = getattr(network, "router_aux_loss_coef", None), vars(network).get("_loss_function")
        network.loss_function, head.forward = loss_of, _pass_on
        if cap is not None:
            network.config.final_logit_softcapping = None
        if adds_router_loss:
            network.router_aux_loss_coef = 0.0
        try:
            yield
        finally:
            del head.forward
            del network._loss_function
            if before is not None:
                network.loss_function = before
            if cap is not None:
                network.config.final_logit_softcapping = cap
            if adds_router_loss:
                network.router_aux_loss_coef = coefficient

    @torch.no_grad()
    def _is_product(self, model: Any) -> bool:
        """Test on a few tokens whether the joined loss equals that of the logits. Mode and random state stay."""
        network, device = self._network, self._head.weight.device
        is_training = network.training
        network.eval()
        ids = (torch.arange(TEST_TOKENS + 1, device=device) * 7 % self._head.weight.shape[0])[None]
        inputs, targets = ids[:, :-1], ids[:, 1:]
        try:
            plain = logits_loss(model(input_ids=inputs, use_cache=False).logits.flatten(0, 1), targets.flatten()).nll
            with self._joined(self._losses_of(NO_PENALTIES)):
                joined = model(input_ids=inputs, use_cache=False, labels=targets).loss[1:]
            return joined.shape == plain.shape and bool(
                ((joined - plain).abs() <= TOLERANCE * plain.abs().clamp(min=1)).all()
            )
        except UNUSABLE:
            return False
        finally:
            network.train(is_training)


def _pass_on(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


FP16_LIMIT = 2.0**15
"""Half of fp16's range."""


def linear_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    cap: float | None = None,
    penalties: Penalties = NO_PENALTIES,
    at_once_bytes: int = LOGITS_AT_ONCE_BYTES,
) -> TokenLosses:
    """Compute the loss of logits `hidden @ weight.T + bias`, soft-capped at ±`cap` if given.

    Shapes: hidden (tokens, width), weight (vocabulary, width), targets (tokens,), where IGNORE adds nothing. Products
    are computed in autocast's type if it is enabled, the rest in fp32.
    """
    low = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )
    rows = chunk_rows(len(hidden), len(weight), at_once_bytes=at_once_bytes)
    differentiate = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    settings = _LossSettings(cap, penalties, rows, low, differentiate)
    return TokenLosses(*_LinearLoss.apply(hidden, weight, bias, targets, settings))  # type: ignore[no-untyped-call]


def logits_loss(logits: torch.Tensor, targets: torch.Tensor, penalties: Penalties = NO_PENALTIES) -> TokenLosses:
    """Compute the same loss from logits (tokens, vocabulary), for networks whose head is more than a matrix product."""
    logits = logits.float()
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    total = nll.sum()
    if penalties.label_smoothing:
        total = F.cross_entropy(
            logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=penalties.label_smoothing
        )
    if penalties.z_loss:
        total = total + penalties.z_loss * (logits.logsumexp(dim=1).square() * (targets != IGNORE)).sum()
    return TokenLosses(total, nll.detach())


class _LossSettings(NamedTuple):
    cap: float | None
    penalties: Penalties
    rows: int
    low: torch.dtype
    differentiate: bool


class _LinearLoss(torch.autograd.Function):
    """Compute the gradients of the sum in the forward pass; scale them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        settings: _LossSettings,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cap, penalties, rows, low, differentiate = settings
        needs_grad = [differentiate and needed for needed in ctx.needs_input_grad[:3]]
        head = weight.to(low)
        by_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        by_weight = torch.zeros_like(weight) if needs_grad[1] else None
        by_bias = torch.zeros_like(bias) if needs_grad[2] and bias is not None else None
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), rows):
                part = slice(at, at + rows)
                read = hidden[part].to(low)
                logits = F.linear(read, head, None if bias is None else bias.to(low)).float()
                total += _loss_and_gradient(
                    logits, targets[part], nll[part], cap=cap, penalties=penalties, differentiate=differentiate
                )
                slope = logits.to(low) if differentiate else logits
                if by_hidden is not None:
                    (
                        torch.mm(slope, head, out=by_hidden[part])
                        if low == hidden.dtype
                        else by_hidden[part].copy_(slope @ head)
                    )
                if by_weight is not None:
                    (
                        by_weight.addmm_(slope.t(), read)
                        if low == weight.dtype
                        else by_weight.add_(_over_tokens(slope, read))
                    )
                if by_bias is not None:
                    by_bias.add_(logits.sum(dim=0))
                del logits, slope  # or they would be in memory beside the next chunk's
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if gradient is None else gradient.mul_(slopes[0]) for gradient in ctx.saved_tensors]
        return (*scaled, None, None)


def _over_tokens(slope: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Return `slope.T @ read`; in fp16 scaled down by a power of two, as sums over many tokens may overflow."""
    if slope.dtype != torch.float16:
        return slope.t() @ read
    bound = read.abs().amax().float() * len(read)  # slopes hardly exceed 1
    scale = (bound / FP16_LIMIT).clamp_min(1.0).log2().ceil().exp2()
    return (slope.t() @ (read / scale).to(read.dtype)).float() * scale


def _loss_and_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    nll: torch.Tensor,
    *,
    cap: float | None,
    penalties: Penalties,
    differentiate: bool,
) -> torch.Tensor:
    """Write the tokens' cross-entropies to `nll`, replace `logits` by the loss's gradient, and return its sum."""
    smoothing, z_loss = penalties
    steepness = None
    if cap is not None:
        logits.div_(cap).tanh_()
        steepness = 1 - logits.square() if differentiate else None
        logits.mul_(cap)
    counted = (targets != IGNORE).to(logits.dtype)
    picked = targets.clamp_min(0)[:, None]
    highest = logits.amax(dim=1)
    target_logits = logits.gather(1, picked)[:, 0]
    mean_logits = logits.mean(dim=1) if smoothing else None
    mass = logits.sub_(highest[:, None]).exp_().sum(dim=1)
    partition = mass.log() + highest
    torch.mul(partition - target_logits, counted, out=nll)
    losses = nll
    if mean_logits is not None:
        losses = (1 - smoothing) * nll + smoothing * (partition - mean_logits) * counted
    if z_loss:
        losses = losses + z_loss * partition.square() * counted
    if differentiate:
        logits.mul_(((1 + 2 * z_loss * partition) / mass * counted)[:, None])
        if smoothing:
            logits.sub_((smoothing / logits.shape[1] * counted)[:, None])
        logits.scatter_add_(1, picked, ((smoothing - 1) * counted)[:, None])
        if steepness is not None:
            logits.mul_(steepness)
    return losses.sum()


def linear_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    cap: float | None = None,
    temperature: float = 1.0,
    at_once_bytes: int = LOGITS_AT_ONCE_BYTES,
) -> torch.Tensor:
    """Compute the log-probability of each target under logits `hidden @ weight.T + bias`, soft-capped at ±`cap`, over
    `temperature`.

    Shapes: hidden (tokens, width), weight (vocabulary, width), targets (tokens,), where IGNORE gives 0. In fp32;
    products in autocast's type if it is enabled.
    """
    trained = (targets != IGNORE).nonzero()[:, 0]
    hidden, trained_targets = hidden[trained], targets[trained]
    low = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )
    rows = chunk_rows(len(hidden), len(weight), at_once_bytes=at_once_bytes)
    settings = _LogprobSettings(cap, temperature, rows, low)
    if len(hidden) <= rows:
        logits = _logits(hidden.to(low), weight.to(low), None if bias is None else bias.to(low), settings)
        logprobs = logits.gather(1, trained_targets[:, None])[:, 0] - logits.logsumexp(dim=1)
    else:
        compute = _LinearLogprobs.apply
        logprobs = compute(hidden, weight, bias, trained_targets, settings)  # type: ignore[no-untyped-call]
    return torch.zeros(len(targets), dtype=torch.float32, device=hidden.device).index_copy(0, trained, logprobs)


def _logits_logprobs(logits: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Compute the same from logits (tokens, vocabulary), for networks whose head is more than a matrix product."""
    logits = logits.float() / temperature
    logprobs = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0] - logits.logsumexp(dim=1)
    return torch.where(targets != IGNORE, logprobs, 0.0)


class _LogprobSettings(NamedTuple):
    cap: float | None
    temperature: float
    rows: int
    low: torch.dtype


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, settings: _LogprobSettings
) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = F.linear(hidden, weight, bias).float()
    if settings.cap is not None:
        logits = torch.tanh(logits / settings.cap) * settings.cap
    return logits / settings.temperature if settings.temperature != 1.0 else logits


class _LinearLogprobs(torch.autograd.Function):
    """Save the hidden states and one number per token, the log-partition; recompute the logits in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        settings: _LogprobSettings,
    ) -> torch.Tensor:
        head, shift = weight.to(settings.low), None if bias is None else bias.to(settings.low)
        logprobs, partition = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
        for at in range(0, len(hidden), settings.rows):
            part = slice(at, at + settings.rows)
            logits = _logits(hidden[part].to(settings.low), head, shift, settings)
            partition[part] = logits.logsumexp(dim=1)
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - partition[part]
        ctx.save_for_backward(hidden, weight, bias, targets, partition)
        ctx.settings = settings
        return logprobs

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, partition = ctx.saved_tensors
        settings, slope = ctx.settings, slopes[0]
        head, shift = weight.to(settings.low), None if bias is None else bias.to(settings.low)
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), settings.rows):
                part = slice(at, at + settings.rows)
                read = hidden[part].to(settings.low)
                logits = _logits(read, head, shift, settings)
                steepness = (
                    None if settings.cap is None else 1 - (logits * settings.temperature / settings.cap).square()
                )
                change = logits.sub_(partition[part, None]).exp_().neg_()
                change.scatter_add_(1, targets[part, None], torch.ones_like(change[:, :1]))
                change.mul_(slope[part, None] / settings.temperature)
                if steepness is not None:
                    change.mul_(steepness)
                down = change.to(settings.low)
                if by_hidden is not None:
                    by_hidden[part] = (down @ head).to(hidden.dtype)
                if by_weight is not None:
                    by_weight.add_((down.t() @ read).to(weight.dtype))
                if by_bias is not None:
                    by_bias.add_(change.sum(dim=0).to(by_bias.dtype))
        return by_hidden, by_weight, by_bias, None, None
