"""The subject of an evaluation: a checkpoint with network, tokenizer and use of its chat template, or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.domain.evaluation.endpoints import EndpointTarget
from jobs.evaluation.engines.base import Messages
from jobs.modeling.chat import Message, encode_prompt, turn_end
from jobs.modeling.checkpoints import check_folder, hash_weights, load_network, read_card, stored_dtype
from jobs.modeling.devices import pick_device, scoring_dtype
from jobs.modeling.loglikelihood import longest_input
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import encode_plain_prompt


@dataclass(frozen=True)
class EvaluatedNetwork:
    """The evaluated network and tokenizer. `taught_chat`: has its own chat template and was not only pretrained.

    `configured_ends` are the end tokens of its generation config, and the one that its template puts after an answer.
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    taught_chat: bool
    configured_ends: tuple[int, ...] = ()
    weights_hash: str | None = None
    stored_dtype: str | None = None

    @property
    def context(self) -> int:
        """Context length in tokens."""
        return longest_input(self.network)

    @property
    def number_format(self) -> str:
        """The weights' number format, such as `float32`."""
        return str(self.network.dtype).removeprefix("torch.")

    def uses_chat(self, setting: Literal["auto", "on", "off"]) -> bool:
        """Return True if the chat template is used under a setting."""
        return self.taught_chat if setting == "auto" else setting == "on"

    def prompt_ids(self, messages: Sequence[Message], *, chat: bool) -> list[int]:
        """Return the ids of a prompt: rendered by the template, or the plain text (see `encode_plain_prompt`)."""
        if chat:
            return encode_prompt(self.tokenizer, messages)
        return encode_plain_prompt(self.tokenizer, "\n\n".join(message["content"] for message in messages))

    @property
    def begins_with_bos(self) -> bool:
        """Return whether a text begins with the begin token: the tokenizer decides."""
        begin = self.tokenizer.bos_token_id
        return begin is not None and encode_plain_prompt(self.tokenizer, "a")[:1] == [begin]


@dataclass(frozen=True)
class EndpointSubject:
    """An endpoint under evaluation: it tokenizes and renders chats itself, and its context is not known."""

    target: EndpointTarget
    key: str | None = field(default=None, repr=False)
    tokenizer: None = None
    context: None = None
    stored_dtype: None = None

    def uses_chat(self, setting: Literal["auto", "on", "off"]) -> bool:
        """Return True if the endpoint is asked by messages under a setting."""
        return self.target.capabilities.chat if setting == "auto" else setting == "on"

    def prompt_messages(self, messages: Sequence[Message]) -> Messages:
        """Return a conversation as the endpoint takes it."""
        return tuple({"role": str(message["role"]), "content": str(message["content"])} for message in messages)


def load_subject(folder: Path, *, dtype: str = "auto") -> EvaluatedNetwork:
    """Load a checkpoint for scoring. Raises NotFound or InvalidInput for an unusable folder.

    `auto` is the checkpoint's own number format; on a CPU float32, which holds every value of it.
    """
    device = pick_device()
    tokenizer = load_tokenizer(folder)
    check_folder(folder)
    stored = stored_dtype(folder)
    network = load_network(folder, device=device, dtype=scoring_dtype(dtype, stored=stored, device=device))
    named = network.generation_config.eos_token_id if network.generation_config is not None else None
    ends = tuple(named) if isinstance(named, list | tuple) else (named,) if named is not None else ()
    closing = turn_end(tokenizer)
    ends = ends if closing is None else (*ends, closing)
    own_template = bool(tokenizer.chat_template) and tokenizer.chat_template != PLAIN_TEMPLATE
    config = read_card(folder).get("config")
    only_text = isinstance(config, dict) and config.get("objective") == "pretrain"
    return EvaluatedNetwork(network, tokenizer, own_template and not only_text, ends, hash_weights(folder), stored)
