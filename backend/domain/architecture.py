"""The shape of a network, and what is impossible about it. Knows arithmetic, no tensors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ArchitectureConfig(BaseModel):
    """A decoder of the Llama family: RoPE, RMSNorm, SwiGLU, grouped-query attention."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["llama"] = "llama"
    num_layers: int = Field(default=4, ge=1, le=256, description="Decoder blocks.")
    width: int = Field(default=128, ge=8, le=65536, description="Size of the residual stream (hidden_size).")
    num_heads: int = Field(default=4, ge=1, le=512, description="Query heads.")
    num_kv_heads: int = Field(default=4, ge=1, le=512, description="Key and value heads; fewer than heads is grouped-query attention.")
    context: int = Field(default=256, ge=8, le=1_048_576, description="Longest sequence in tokens.")
    vocab_size: int = Field(default=2048, ge=2, le=1_000_000, description="Entries of the tokenizer.")
    feed_forward: int = Field(default=384, ge=8, le=262_144, description="Inner size of the feed-forward (intermediate_size).")
    tie_embeddings: bool = Field(default=True, description="Use one matrix for the input embedding and the output head.")
    rope_theta: float = Field(default=10_000.0, gt=1.0, description="Base of the rotary frequencies.")
    norm_eps: float = Field(default=1e-5, gt=0.0, le=0.1, description="Epsilon of RMSNorm.")

    @property
    def head_dim(self) -> int:
        """Width of one head, in numbers."""
        return self.width // self.num_heads

    @model_validator(mode="after")
    def _check_divisibility(self) -> Self:
        problems: list[str] = []
        if self.width % self.num_heads:
            near = [n for n in range(1, self.width + 1) if self.width % n == 0 and (self.width // n) % 2 == 0]
            best = min(near, key=lambda n: abs(n - self.num_heads)) if near else 1
            problems.append(f"width {self.width} can't be shared among {self.num_heads} heads: {self.width} / {self.num_heads} is not whole; {best} heads would work")
        elif (self.width // self.num_heads) % 2:
            problems.append(f"a head of {self.width // self.num_heads} numbers is odd, and rotary positions turn numbers in pairs: choose width / heads even")
        if self.num_kv_heads > self.num_heads:
            problems.append(f"{self.num_kv_heads} key/value heads are more than the {self.num_heads} query heads that use them")
        elif self.num_heads % self.num_kv_heads:
            problems.append(f"{self.num_heads} heads can't be shared evenly among {self.num_kv_heads} key/value heads: use a divisor of {self.num_heads}")
        if problems:
            raise ValueError("; ".join(problems))
        return self
