"""Models on other servers with the OpenAI API (vLLM, SGLang, llama-server, Ollama) as deployments. Pure rules.

A key is not part of a config: `key_env` and `key_file` name where the gateway and the workers read it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.fields import Shown, setting
from backend.domain.json_values import FieldValues
from backend.domain.openai_servers import Capabilities, check_key_source, check_url, price_tokens
from backend.domain.validation import read_values
from backend.errors import InvalidInput

UPSTREAM = "upstream"
"""Origin of its row among checkpoints."""
METADATA = frozenset(ipaddress.ip_address(address) for address in ("100.100.100.200", "fd00:ec2::254", "192.0.0.192"))
"""Addresses of cloud metadata services outside the link-local ranges."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


LIMITS = Shown(group="Limits and prices")


class Upstream(BaseModel):
    """A model on another server, and how the gateway calls it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        max_length=300,
        title="Address",
        description="Address of the API, such as http://127.0.0.1:8080/v1.",
        json_schema_extra=Shown(empty="http://127.0.0.1:8080/v1"),
    )
    model: str = Field(
        min_length=1,
        max_length=200,
        title="Model at that server",
        description="Name of the model at that server.",
        json_schema_extra=Shown(empty="Qwen/Qwen2.5-7B-Instruct"),
    )
    key_env: str | None = setting(
        None,
        "Key variable",
        "Environment variable of gateway, workers and pages that holds the key. The key itself is not stored.",
        empty="None",
    )
    key_file: str | None = setting(
        None,
        "Key file",
        "File that holds the key, for gateway and workers; instead of a variable.",
        max_length=500,
        shown=LIMITS,
        empty="None",
    )
    max_requests: int = setting(
        64,
        "Requests at once",
        "Requests at once from a gateway; more are refused with 429.",
        ge=1,
        le=4096,
        shown=LIMITS,
    )
    first_token_s: float = setting(
        120.0,
        "First token limit",
        "Seconds to wait for the first token.",
        gt=0,
        le=3600,
        shown=LIMITS,
        unit="s",
        option="--first-token-limit",
    )
    between_tokens_s: float = Field(default=60.0, gt=0, le=3600, description="Seconds to wait between two tokens.")
    answer_limit_s: float = setting(
        600.0,
        "Answer limit",
        "Seconds that an answer may take.",
        gt=0,
        le=86_400,
        shown=LIMITS,
        unit="s",
        option="--answer-limit",
    )
    check_every_s: float = setting(
        60.0,
        "Health check every",
        "Seconds between two health checks, each of one token.",
        ge=5,
        le=86_400,
        shown=LIMITS,
        unit="s",
        option="--check-every",
    )
    context: int | None = setting(
        None,
        "Context length",
        "Context length in tokens, where the server does not state it.",
        ge=1,
        shown=LIMITS,
        empty="As the server says",
    )
    input_price: float | None = setting(
        None, "Price of prompt tokens", "US dollars for a million prompt tokens.", ge=0, shown=LIMITS, empty="Not set"
    )
    output_price: float | None = setting(
        None, "Price of answer tokens", "US dollars for a million answer tokens.", ge=0, shown=LIMITS, empty="Not set"
    )
    capabilities: Capabilities = Field(
        default=Capabilities(), description="What the server answers; found when it is connected."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        return check_address(check_url(url))

    @staticmethod
    def read(config: Mapping[str, Any]) -> Upstream:
        """Read a config. Raises InvalidInput that names the field, and never a value that may be a key."""
        check_key_source(key_env=config.get("key_env"), key_file=config.get("key_file"))
        return read_values(Upstream, config)

    @property
    def host(self) -> str:
        """Host and port, as pages show them."""
        return urlsplit(self.url).netloc

    @property
    def title(self) -> str:
        """Name among checkpoints: model and server."""
        return f"{self.model} on {self.host}"[:160]

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a request in US dollars; None without both prices."""
        return price_tokens(
            prompt_tokens, completion_tokens, input_price=self.input_price, output_price=self.output_price
        )

    def changed(self) -> FieldValues:
        """Return the fields that differ from their defaults, as YAML holds them."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"capabilities"})


def check_address(url: str) -> str:
    """Return an address whose host is a name or an allowed IP address. Raises InvalidInput for one never called."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return url
    if is_forbidden(address):
        raise InvalidInput(
            f"{host} is a link-local, metadata, multicast or unspecified address, which is not called.",
            remedy="Give the address of the server that runs the model; loopback and private networks are allowed.",
            field="url",
        )
    return url


def is_forbidden(address: Address) -> bool:
    """Return whether the gateway never calls an address: it belongs to a cloud's metadata, or to no single machine."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return is_forbidden(mapped)
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in METADATA
