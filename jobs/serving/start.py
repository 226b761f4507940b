"""Choose an engine for a network and check it by generating one token."""

from __future__ import annotations

import logging
import threading
from typing import Any, Literal

from backend.domain.serving.memory import MAX_RUNNING
from backend.domain.serving.protocol import GenerationErrorEvent, GenerationEvent, SamplingParams
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.devices import is_gpu, is_out_of_memory
from jobs.serving.adapters import AdapterBank
from jobs.serving.batching import BatchingEngine
from jobs.serving.continuous_batching import check_transformers
from jobs.serving.drafts import Draft, why_unfit
from jobs.serving.engine import Engine, TokenDecoder
from jobs.serving.serial import SerialEngine

logger = logging.getLogger(__name__)
EngineKind = Literal["auto", "roundhouse", "batching", "serial"]
WARM_UP_S = 300.0
NEEDS_COMPILER = "Install a C++ compiler on the serving machine, or deploy without a draft."


def start_engine(
    network: Any,
    tokenizer: TokenDecoder,
    *,
    kind: EngineKind = "auto",
    context: int | None = None,
    max_running: int = MAX_RUNNING,
    max_waiting: int = 64,
    bank: AdapterBank | None = None,
    draft: Draft | None = None,
) -> Engine:
    """Return a warm engine, whose prompts with their answers have at most `context` tokens, or the network's own.

    `auto` and `roundhouse` try continuous batching and fall back to one request at a time, which has no use for a
    draft.

    Raises JobFailed when the network can't generate a single token or the version of transformers is unknown, and
    InvalidInput where a draft's tokens can't be checked exactly.
    """
    if draft is not None and (unfit := why_unfit(network)):
        raise InvalidInput(
            f"No draft can be checked by this model: {unfit}.", remedy="Deploy it without a draft.", field="draft"
        )
    reason = why_not_batched(network)
    if reason is not None and kind == "batching":
        raise JobFailed(f"Continuous batching can't serve this model: {reason}.", remedy="Deploy it with engine: auto.")
    if reason is not None:
        logger.warning("Requests are answered one at a time: %s.", reason)
    elif kind != "serial":
        check_transformers()
        engine: Engine | None = None
        try:
            engine = BatchingEngine(
                network,
                tokenizer,
                context=context,
                max_running=max_running,
                max_waiting=max_waiting,
                bank=bank,
                draft=draft,
            )
            generate_one_token(engine)
            if draft is not None and not network.base_model.layers[0].is_compiled:
                raise InvalidInput("Drafts need the compiled decoder layers.", remedy=NEEDS_COMPILER, field="draft")
            return engine
        except InvalidInput:
            if engine is not None:
                engine.close()
            raise
        except Exception as error:  # the library refuses with various exceptions
            if engine is not None:
                engine.close()
            # a GPU that answers one request at a time would go unnoticed
            if is_gpu(network.device) or is_out_of_memory(error):
                raise JobFailed(
                    f"Continuous batching failed on {network.device}: {error}",
                    remedy=(
                        "Deploy with a shorter context, or look at the device; engine: serial answers one request at a"
                        " time."
                    ),
                ) from error
            if kind == "batching":
                raise JobFailed(
                    f"Continuous batching refuses this model: {error}", remedy="Deploy it with engine: auto."
                ) from error
            logger.warning("Continuous batching refuses this model (%s); requests are answered one at a time.", error)
    serial = SerialEngine(network, tokenizer, context=context, max_waiting=max_waiting, bank=bank)
    generate_one_token(serial)
    return serial


def why_not_batched(network: Any) -> str | None:
    """Return the reason why continuous batching can't serve a network, or None."""
    if getattr(network.config.get_text_config(), "kv_lora_rank", None):
        return "latent attention caches latents, and the pages of continuous batching hold heads"
    if not network._supports_attention_backend:
        return f"{type(network).__name__} has its own attention, and continuous batching needs the library's"
    return None


def generate_one_token(engine: Engine, *, timeout_s: float = WARM_UP_S) -> None:
    """Generate one greedy token, or raise JobFailed."""
    done = threading.Event()
    last: list[GenerationEvent] = []

    def on_event(event: GenerationEvent) -> None:
        if event.type != "token":
            last.append(event)
            done.set()

    handle = engine.submit([0], SamplingParams(max_tokens=1, temperature=0, logprobs=1), on_event)
    if not done.wait(timeout_s):
        handle.cancel()
        raise JobFailed(
            f"The engine made no token within {timeout_s:.0f} s.", remedy="Check the machine's load and memory."
        )
    if isinstance(last[0], GenerationErrorEvent):
        raise JobFailed(last[0].message, remedy="The log of this job has the details.")
