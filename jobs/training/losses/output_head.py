"""Lets a causal network end in its loss: called with targets it returns that, and the logits of all tokens are never there.

The network is called as ever, so it may be compiled, hold adapters, or be wrapped for several devices. While it is called its head
passes hidden states on, and transformers' own place for a loss function computes logits and loss together (`linear_loss`). Whether that
is what the network computes is tried out on a few tokens; a network whose head is more than a product gives logits, as it always did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch

from jobs.batches.base import MicroBatch
from jobs.batches.preference import Sequences
from jobs.modeling.checkpoints import UNUSABLE
from jobs.training.losses.chunked_cross_entropy import NO_PENALTIES, Penalties, TokenLosses, linear_loss, logits_loss
from jobs.training.losses.chunked_logprobs import linear_logprobs, logits_logprobs
from jobs.training.network.experts import router_loss_weight

TRIED_TOKENS, TOLERANCE = 9, 1e-3
LossFunction = Callable[..., torch.Tensor]


class OutputHead:
    """The head of a network, `model` being the network itself or one with adapters."""

    def __init__(self, model: Any) -> None:
        network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        self._network, self._head = network, network.get_output_embeddings()
        self._cap = getattr(network.config, "final_logit_softcapping", None)
        self.joins_loss = isinstance(self._head, torch.nn.Linear) and self._is_product()

    def losses(
        self, network: torch.nn.Module, batch: MicroBatch, *, penalties: Penalties = NO_PENALTIES, more: dict[str, Any] | None = None
    ) -> tuple[TokenLosses, Any]:
        """Call a network (this one, wrapped or compiled) on a batch; return its losses and its output.

        With the batch's `columns` the head runs on those positions alone. `more` are further arguments of the call.
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
        """Call a network (this one, wrapped or compiled); return the log-probability of every target, each differentiable.

        `inputs` and `targets` are (rows, tokens), shifted by one already; the head runs on `columns` alone, and the result is
        (rows, columns), 0 where a target is IGNORE. The second is what the routers of experts add in training.
        """
        weight = router_loss_weight(network) if network.training else 0.0
        arguments: dict[str, Any] = {"output_router_logits": True} if weight else {}
        arguments |= {"input_ids": inputs, "use_cache": False, "logits_to_keep": columns}
        targets = targets[:, columns]
        if self.joins_loss:
            with self._joined(self._logprobs_of(temperature)):
                output = network(**arguments, labels=targets)
            found = output.loss
        else:
            output = network(**arguments)
            found = logits_logprobs(output.logits.flatten(0, 1), targets.flatten(), temperature=temperature)
        return found.view(targets.shape), weight * output.aux_loss if weight else None

    def answer_logprobs(self, network: torch.nn.Module, batch: Sequences) -> torch.Tensor:
        """Sum the log-probabilities of each row's targets, (rows,)."""
        return self.logprobs(network, batch.inputs, batch.targets, batch.columns)[0].sum(dim=1)

    def _losses_of(self, penalties: Penalties) -> LossFunction:
        head, cap = self._head, self._cap

        def losses_of(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            hidden = logits.flatten(0, 1)
            total, nll = linear_loss(hidden, head.weight, labels.flatten(), bias=head.bias, cap=cap, penalties=penalties)
            return torch.cat([total[None], nll])

        return losses_of

    def _logprobs_of(self, temperature: float) -> LossFunction:
        head, cap = self._head, self._cap

        def logprobs_of(logits: torch.Tensor, labels: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            hidden = logits.flatten(0, 1)
            return linear_logprobs(hidden, head.weight, labels.flatten(), bias=head.bias, cap=cap, temperature=temperature)

        return logprobs_of

    @contextmanager
    def _joined(self, loss_of: LossFunction) -> Iterator[None]:
        network, head, cap = self._network, self._head, self._cap
        weighs_routers = hasattr(network, "router_aux_loss_coef")  # their loss is asked for apart
        coefficient, before = getattr(network, "router_aux_loss_coef", None), vars(network).get("_loss_function")
        network.loss_function, head.forward = loss_of, _pass_on
        if cap is not None:
            network.config.final_logit_softcapping = None
        if weighs_routers:
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
            if weighs_routers:
                network.router_aux_loss_coef = coefficient

    @torch.no_grad()
    def _is_product(self) -> bool:
        """Try on a few tokens whether the joined loss is that of the network's logits. Mode and random state are left alone."""
        network, device = self._network, self._head.weight.device
        training = network.training
        network.eval()
        ids = (torch.arange(TRIED_TOKENS + 1, device=device) * 7 % self._head.weight.shape[0])[None]
        inputs, targets = ids[:, :-1], ids[:, 1:]
        try:
            plain = logits_loss(network(input_ids=inputs, use_cache=False).logits.flatten(0, 1), targets.flatten()).nll
            with self._joined(self._losses_of(NO_PENALTIES)):
                joined = network(input_ids=inputs, use_cache=False, labels=targets).loss[1:]
            return joined.shape == plain.shape and bool(((joined - plain).abs() <= TOLERANCE * plain.abs().clamp(min=1)).all())
        except UNUSABLE:
            return False
        finally:
            network.train(training)


def _pass_on(hidden: torch.Tensor) -> torch.Tensor:
    return hidden
