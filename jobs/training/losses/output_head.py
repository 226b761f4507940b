"""Compute the loss inside the network's forward pass, so that the logits of all tokens are never in memory.

The network is called as usual, so it may be compiled, have adapters, or be wrapped for several devices. During the call
its head passes hidden states on, and transformers' hook for a loss function computes logits and loss together
(`linear_loss`). Equality with the network's own logits is tested on a few tokens; a network whose head is more than a
matrix product returns logits as usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import peft
import torch

from jobs.batches.base import MicroBatch
from jobs.batches.preference import Sequences
from jobs.modeling.unusable import UNUSABLE
from jobs.training.losses.chunked_cross_entropy import NO_PENALTIES, Penalties, TokenLosses, linear_loss, logits_loss
from jobs.training.losses.chunked_logprobs import linear_logprobs, logits_logprobs
from jobs.training.network.experts import router_loss_weight

TEST_TOKENS, TOLERANCE = 9, 1e-3
LossFunction = Callable[..., torch.Tensor]


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
            logprobs = logits_logprobs(output.logits.flatten(0, 1), targets.flatten(), temperature=temperature)
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
