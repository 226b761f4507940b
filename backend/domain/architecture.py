"""The shape of a network, and what is impossible about it. Knows arithmetic, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.domain.families import FamilyName
from backend.domain.shape_rules import ImpossibleShape, fill_defaults, find_problems


class ArchitectureConfig(BaseModel):
    """The shape of a decoder of one of `families.FAMILIES`.

    Fields that a family has not are None. What it has and nobody gave is filled with the family's own. `head_size` alone may stay
    None: then a head has width / num_heads numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: FamilyName = Field(default="llama", description="The family, built as the transformers class of that name.")
    num_layers: int = Field(default=4, ge=1, le=256, description="Decoder blocks.")
    width: int = Field(default=128, ge=8, le=65536, description="Size of the residual stream (hidden_size).")
    num_heads: int = Field(default=4, ge=1, le=512, description="Query heads.")
    num_kv_heads: int = Field(
        default=4, ge=1, le=512, description="Key and value heads; fewer than heads is grouped-query attention. As many when left out."
    )
    context: int = Field(default=256, ge=8, le=1_048_576, description="Longest sequence in tokens.")
    vocab_size: int = Field(default=2048, ge=2, le=1_000_000, description="Entries of the tokenizer.")
    feed_forward: int = Field(default=384, ge=8, le=262_144, description="Inner size of the feed-forward (intermediate_size).")
    tie_embeddings: bool = Field(default=True, description="Use one matrix for the input embedding and the output head.")
    norm_eps: float = Field(default=1e-5, gt=0.0, le=0.1, description="Epsilon of the norms.")
    head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers in a head; width / heads when left out.")
    rope_theta: float | None = Field(default=None, gt=1.0, description="Base of the rotary frequencies.")
    local_rope_theta: float | None = Field(default=None, gt=1.0, description="Base of the rotary frequencies in local layers.")
    nope_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer has no positions.")
    window: int | None = Field(default=None, ge=2, le=1_048_576, description="Tokens that a sliding layer sees.")
    global_every: int | None = Field(default=None, ge=1, le=256, description="Every n-th layer sees the whole context.")
    num_experts: int | None = Field(default=None, ge=1, le=4096, description="Feed-forwards that a layer's router picks from.")
    experts_per_token: int | None = Field(default=None, ge=1, le=4096, description="Experts that the router picks for a token.")
    expert_feed_forward: int | None = Field(default=None, ge=1, le=262_144, description="Inner size of one expert.")
    shared_experts: int | None = Field(default=None, ge=1, le=256, description="Experts that every token uses.")
    dense_layers: int | None = Field(default=None, ge=0, le=256, description="First layers, with one feed-forward and no experts.")
    query_rank: int | None = Field(default=None, ge=0, le=65_536, description="Latent size of queries; 0 leaves them uncompressed.")
    kv_rank: int | None = Field(default=None, ge=1, le=65_536, description="Latent size of keys and values: what the cache holds.")
    rope_head_size: int | None = Field(default=None, ge=2, le=1024, description="Numbers of a head that carry the position.")
    nope_head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers of a head that carry no position.")
    value_head_size: int | None = Field(default=None, ge=1, le=1024, description="Numbers of a head's values.")

    @property
    def head_dim(self) -> int:
        """Numbers in one head's queries and keys."""
        if self.nope_head_size is not None and self.rope_head_size is not None:
            return self.nope_head_size + self.rope_head_size
        return self.head_size or self.width // self.num_heads

    @property
    def value_dim(self) -> int:
        """Numbers in one head's values."""
        return self.value_head_size or self.head_dim

    @property
    def expert_size(self) -> int:
        """Inner size of one expert: its own where the family has it, else the feed-forward's."""
        return self.expert_feed_forward or self.feed_forward

    def is_global(self, layer: int) -> bool:
        """Whether a layer, counted from 0, sees the whole context."""
        if self.window is None or self.window >= self.context:
            return True
        return self.global_every is not None and (layer + 1) % self.global_every == 0

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts."""
        return self.num_experts is not None and layer >= (self.dense_layers or 0)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        return fill_defaults(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = find_problems(self)
        if problems:
            raise ImpossibleShape(problems)
        if self.head_size is not None and self.head_size * self.num_heads == self.width:
            object.__setattr__(self, "head_size", None)  # the same network is the same config
        return self


class HasRank(Protocol):
    """Anything with a LoRA rank, such as `run_config.LoraConfig`."""

    @property
    def rank(self) -> int: ...


class FlopsPerToken(BaseModel):
    """Floating-point operations for one token at the report's context."""

    model_config = ConfigDict(frozen=True)

    forward: int
    training: int


class MemoryBytes(BaseModel):
    """What one training process holds, in bytes."""

    model_config = ConfigDict(frozen=True)

    weights: int
    gradients: int
    optimizer: int
    activations: int
    total: int


class ArchitectureReport(BaseModel):
    """What an architecture costs. Counts are exact; `memory_bytes.activations` is an estimate (see `describe`)."""

    model_config = ConfigDict(frozen=True)

    parameters: int
    parameters_by_component: dict[str, int]
    trainable_parameters: int
    context: int
    micro_batch: int
    precision: str
    flops_per_token: FlopsPerToken
    kv_cache_bytes_per_token: int
    memory_bytes: MemoryBytes
    conventions: tuple[str, ...]


CONVENTIONS = (
    "FLOPs: 2 for each weight of a matrix product (the output head counts, tied or not; the embedding look-up does not), "
    "plus 4 x width x context x layers for attention scores and their use, every position taken to see the whole context. "
    "Training is three times forward.",
    "Memory: weights, gradients and AdamW's two moments in fp32 (bf16 is autocast over fp32 weights); with LoRA only adapters have "
    "gradients and moments. Activations are an estimate without activation recompute, logits and their gradient included.",
    "KV cache: keys and values of all layers, 4 bytes a number in fp32, 2 in bf16.",
)

FIELD_HELP: dict[str, str] = {
    "num_layers": "How many blocks are stacked. More layers reason in more steps; cost and parameters grow in proportion.",
    "width": "How many numbers describe a token between blocks. Parameters grow with its square.",
    "num_heads": "How many places attention can look at once. Each head gets width / heads numbers; 32 to 128 is usual.",
    "num_kv_heads": "Heads with keys and values. As many as heads: multi-head. Fewer: grouped-query, a smaller cache. 1: multi-query.",
    "context": "The longest text, in tokens, that the network can read at once. Training cost of attention grows with it.",
    "vocab_size": "How many different tokens there are; must be at least what the tokenizer has.",
    "feed_forward": "Inner width of each block's feed-forward; about 8/3 of width is usual for SwiGLU, 4 x width for GELU.",
    "tie_embeddings": "Share one matrix between reading and predicting tokens. Saves vocab x width parameters, good for small networks.",
    "norm_eps": "Keeps the norms from dividing by zero. Leave it.",
    "head_size": "Numbers in a head, where it shall not be width / heads. Larger heads see finer; attention and cache grow with them.",
    "rope_theta": "Base of the rotary position frequencies. 10,000 suits contexts to some 4,096 tokens; longer ones use larger values.",
    "local_rope_theta": "Base of the rotary frequencies in layers that see only a window. 10,000 suits any window in use.",
    "nope_every": "Every n-th layer has no positions: it looks by content alone, which helps beyond the trained length. 4 is usual.",
    "window": "How many tokens back a sliding layer sees. Its cache stops growing there; layers above still pass on what is older.",
    "global_every": "Every n-th layer sees the whole context, the others a window. 6 is usual: five local, one global.",
    "num_experts": "Feed-forwards in a layer, of which each token uses a few. Adds parameters, hardly any cost for a token.",
    "experts_per_token": "How many experts the router picks for each token. Cost for a token grows with it; 2 to 8 is usual.",
    "expert_feed_forward": "Inner width of one expert. Many small experts learn finer roles than few large ones.",
    "shared_experts": "Experts that every token uses besides the picked ones: what all texts need is learned once.",
    "dense_layers": "How many of the first layers have one whole feed-forward and no experts; early layers route badly.",
    "query_rank": "Queries are squeezed through so many numbers, which saves parameters in wide networks. 0: not at all.",
    "kv_rank": "Keys and values of all heads are squeezed into so many numbers: that, and not the heads, is what the cache holds.",
    "rope_head_size": "How many numbers of each head carry the position; all heads share them in the cache. Even.",
    "nope_head_size": "How many numbers of each head compare content, without position.",
    "value_head_size": "How many numbers each head passes on.",
}


def count_parameters(config: ArchitectureConfig) -> dict[str, int]:
    """Count parameters by component; the sum equals that of the built network (a tied head counts nothing)."""
    kv_width = config.num_kv_heads * config.head_dim
    return {
        "embedding": config.vocab_size * config.width,
        "attention": config.num_layers * config.width * (2 * config.width + 2 * kv_width),
        "feed_forward": config.num_layers * 3 * config.width * config.feed_forward,
        "norms": (2 * config.num_layers + 1) * config.width,
        "output_head": 0 if config.tie_embeddings else config.vocab_size * config.width,
    }


def count_lora_parameters(config: ArchitectureConfig, *, rank: int) -> int:
    """Count what adapters of one rank on every linear layer but the head add: rank x (inputs + outputs) each."""
    kv_width = config.num_kv_heads * config.head_dim
    attention = 2 * (2 * config.width) + 2 * (config.width + kv_width)
    feed_forward = 3 * (config.width + config.feed_forward)
    return config.num_layers * rank * (attention + feed_forward)


def describe(
    config: ArchitectureConfig,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    micro_batch: int = 1,
    context: int | None = None,
    lora: HasRank | None = None,
) -> ArchitectureReport:
    """Say what a network of this shape costs to train, by arithmetic alone.

    `context` (default: the architecture's) is the length of a training sequence in tokens. FLOPs follow PaLM's appendix B
    (Chowdhery et al. 2022, arXiv 2204.02311) with the head's product added. With `lora` the base is frozen.

    Example:
        >>> describe(ArchitectureConfig(num_layers=4, width=128, num_heads=4, num_kv_heads=4)).parameters
        1115264
    """
    length = context or config.context
    parts = count_parameters(config)
    base_parameters = sum(parts.values())
    adapters = count_lora_parameters(config, rank=lora.rank) if lora else 0
    trainable = adapters if lora else base_parameters
    matmul = parts["attention"] + parts["feed_forward"] + config.vocab_size * config.width + adapters
    forward = 2 * matmul + 4 * config.width * length * config.num_layers
    number_bytes = 2 if precision == "bf16" else 4
    weights = 4 * (base_parameters + adapters)
    activations = _activation_bytes(config, tokens=micro_batch * length, number_bytes=number_bytes)
    return ArchitectureReport(
        parameters=base_parameters,
        parameters_by_component={**parts, "total": base_parameters},
        trainable_parameters=trainable,
        context=length,
        micro_batch=micro_batch,
        precision=precision,
        flops_per_token=FlopsPerToken(forward=forward, training=3 * forward),
        kv_cache_bytes_per_token=2 * config.num_layers * config.num_kv_heads * config.head_dim * number_bytes,
        memory_bytes=MemoryBytes(
            weights=weights,
            gradients=4 * trainable,
            optimizer=8 * trainable,
            activations=activations,
            total=weights + 12 * trainable + activations,
        ),
        conventions=CONVENTIONS,
    )


def _activation_bytes(config: ArchitectureConfig, *, tokens: int, number_bytes: int) -> int:
    """Estimate what the backward pass keeps, and the logits with their gradient.

    Counted from the operators that save something in a block (two norms in fp32, rotary turns, fused attention, SwiGLU) and checked
    against the bytes that autograd holds on to: within a fifth. bf16 also holds a copy of each matrix in that format.
    """
    kv_width = config.num_kv_heads * config.head_dim
    per_layer = (5 * config.width + 2 * kv_width + 4 * config.feed_forward) * number_bytes + 4 * 4 * config.width
    logits = 3 * 4 * config.vocab_size  # log-probabilities kept; their gradient and the logits' while backward begins
    parts = count_parameters(config)
    copies = 0 if number_bytes == 4 else number_bytes * (parts["attention"] + parts["feed_forward"] + config.vocab_size * config.width)
    return tokens * (config.num_layers * per_layer + logits + 3 * 4 * config.width) + copies
