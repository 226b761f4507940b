"""Engines of a replica: Roundhouse's, or the server of another project that the replica starts. Pure rules.

Another project's server gets token ids and gives token ids: chat templates, stop strings, calls of tools and the API
are the replica's for every engine. What a server lacks is refused before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from backend.errors import InvalidInput

EngineName = Literal["auto", "roundhouse", "batching", "serial", "llama.cpp", "vllm", "sglang"]
ENGINE_TITLES: dict[str, str] = {
    "auto": "Automatic",
    "roundhouse": "Roundhouse",
    "batching": "Roundhouse, batches only",
    "serial": "Roundhouse, one request at a time",
    "llama.cpp": "llama.cpp",
    "vllm": "vLLM",
    "sglang": "SGLang",
}


@dataclass(frozen=True)
class ServerTraits:
    """Traits of another project's server: the model types of transformers that it gets, the precisions of its
    weights, the requests that it answers at once, what it lacks, by the option of a deployment that asks for it,
    the model types whose sliding windows of attention it heeds, whether its replica merges an adapter into its base,
    the head sizes that it computes on a CPU, all if empty, whether it serves the GGUF file of a base as it is, of any
    family, whether several GPUs share its layers, and the seconds that a check of it may take.
    """

    families: tuple[str, ...]
    precisions: tuple[str, ...]
    most_running: int
    lacks: Mapping[str, str] = field(default_factory=dict)
    windowed_families: tuple[str, ...] = ()
    merges_adapters: bool = True
    head_sizes: tuple[int, ...] = ()
    reads_gguf: bool = False
    shares_layers: bool = False
    check_s: float = 120.0


SERVERS: dict[str, ServerTraits] = {
    "llama.cpp": ServerTraits(
        # of the families of GGUF those whose answers are tested against the network's own
        families=("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt2", "gemma3_text"),
        precisions=("float32",),
        most_running=8,
        lacks={
            "draft": "a draft is checked by Roundhouse's engine alone",
            "adapters": "it serves no LoRA adapters here",
        },
        windowed_families=("gemma3_text",),  # its Mistral is its Llama, which has none
        reads_gguf=True,
    ),
    "vllm": ServerTraits(
        families=("llama", "mistral", "qwen3", "gpt2"),  # those whose answers are tested against the network's own
        precisions=("float32", "bfloat16"),
        most_running=256,
        lacks={
            "draft": "a draft is checked by Roundhouse's engine alone",
            "adapters": "it serves no LoRA adapters here",
        },
        windowed_families=("mistral",),  # its Qwen3 and Llama read no `layer_types`, and attend to everything
        merges_adapters=False,
        head_sizes=(32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512),
        shares_layers=True,
        check_s=240.0,
    ),
    "sglang": ServerTraits(
        families=("llama", "qwen3", "gpt2"),  # those whose answers are tested
        precisions=("float32", "bfloat16"),
        most_running=256,
        lacks={
            "draft": "a draft is checked by Roundhouse's engine alone",
            "adapters": "it serves no LoRA adapters here",
        },
        merges_adapters=False,
        shares_layers=True,
        check_s=240.0,
    ),
}
"""Servers of other projects by the engine's name."""

SHARING = " or ".join(name for name, traits in SERVERS.items() if traits.shares_layers)
"""The engines whose layers several GPUs share."""


def places_of(engine: str, max_running: int) -> int:
    """Return the requests that a replica answers at once: another project's server holds memory for each place.

    >>> places_of("llama.cpp", 16), places_of("roundhouse", 16)
    (8, 16)
    """
    server = SERVERS.get(engine)
    return max_running if server is None else min(max_running, server.most_running)


def refuse_lacking(
    engine: str,
    *,
    family: str | None,
    precision: str,
    has_draft: bool,
    has_adapters: bool,
    is_scorer: bool,
    is_adapter: bool = False,
    has_gguf: bool = False,
    gpus: int = 1,
    head_size: int | None = None,
    has_window: bool = False,
) -> None:
    """Raise InvalidInput, with the option and the cure, for what an engine lacks. `family` None is not known yet,
    `head_size` None not or not on a CPU.
    """
    server = SERVERS.get(engine)
    if gpus > 1 and not (server and server.shares_layers):
        raise InvalidInput(
            f"engine {engine} serves on one GPU, not on {gpus}.",
            remedy=f"Leave gpus out, or deploy it with engine {SHARING}.",
            field="gpus",
        )
    if server is None:
        return
    if is_scorer:
        raise InvalidInput(
            f"engine {engine} writes text, and this is a reward model.",
            remedy="Deploy it with engine roundhouse.",
            field="engine",
        )
    if family is not None and family not in server.families and not (has_gguf and server.reads_gguf):
        raise InvalidInput(
            f"engine {engine} can't serve a model of the family {family}; it serves {', '.join(server.families)}.",
            remedy="Deploy it with engine roundhouse.",
            field="engine",
        )
    if has_window and family not in server.windowed_families and not (has_gguf and server.reads_gguf):
        raise InvalidInput(
            f"engine {engine} does not heed the sliding window of a model of the family {family}.",
            remedy="Deploy it with engine roundhouse.",
            field="engine",
        )
    if is_adapter and not server.merges_adapters:
        raise InvalidInput(
            f"engine {engine} serves whole models, and this is an adapter.",
            remedy="Merge it (export it as merged, and add the folder as a base), or deploy it with engine roundhouse.",
            field="engine",
        )
    if head_size is not None and server.head_sizes and head_size not in server.head_sizes:
        raise InvalidInput(
            f"engine {engine} computes no heads of {head_size} numbers on a CPU, only of"
            f" {', '.join(map(str, server.head_sizes))}.",
            remedy="Deploy it with engine roundhouse.",
            field="engine",
        )
    if precision not in server.precisions:
        raise InvalidInput(
            f"engine {engine} serves no precision {precision} here, only {', '.join(server.precisions)}.",
            remedy=f"Choose precision {server.precisions[0]}, or engine roundhouse.",
            field="precision",
        )
    for option, is_asked in (("draft", has_draft), ("adapters", has_adapters)):
        if is_asked and option in server.lacks:
            raise InvalidInput(
                f"engine {engine} has no {option}: {server.lacks[option]}.",
                remedy=f"Deploy it without {option}, or with engine roundhouse.",
                field="draft" if option == "draft" else "engine",
            )
