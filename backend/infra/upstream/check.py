"""Health checks of models on other servers: one real token, and what a server says of a model."""

from __future__ import annotations

import socket
import time
from urllib.parse import SplitResult, urlsplit

import httpx

from backend.domain.serving.upstream import Upstream
from backend.errors import InvalidInput, Unavailable
from backend.infra.keys import read_key
from backend.infra.upstream.client import REFUSED_ADDRESS, refuse_address

CHECK_S = 30.0
CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "n_ctx")


def refuse_host(url: str) -> None:
    """Raise InvalidInput for a host that resolves to an address that is never called, Unavailable for one that does not
    resolve.
    """
    parts = urlsplit(url)
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The host {parts.hostname} is not known here.", remedy="Check the address.") from error
    try:
        for address in addresses:
            refuse_address(str(address[4][0]))
    except OSError as error:
        raise InvalidInput(f"{parts.hostname} is not called: {REFUSED_ADDRESS}.", field="url") from error


def is_same_server(url: str, own: str) -> bool:
    """Return whether two addresses are one port of one machine, by whatever names. A proxy in front of either hides
    it.
    """
    first, second = urlsplit(url), urlsplit(own)
    return _port(first) == _port(second) and bool(_machines(first) & _machines(second))


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _machines(parts: SplitResult) -> set[str]:
    """Return the addresses of a host, empty for one that does not resolve; those of this machine are one."""
    try:
        entries = socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {"here" if _is_here(family, str(address[0])) else str(address[0]) for family, _, _, _, address in entries}


def _is_here(family: socket.AddressFamily, address: str) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))  # succeeds for addresses of this machine alone
        except OSError:
            return False
    return True


def ask_token(upstream: Upstream, *, timeout_s: float = CHECK_S) -> float:
    """Let a server generate one token, and return the seconds. Raises Unavailable with the reason, without the key.

    A server that is busy (429) is well; its seconds count.
    """
    refuse_host(upstream.url)
    body = {"model": upstream.model, "max_tokens": 1, "temperature": 0}
    path, prompt = "completions", {"prompt": "Hi"}
    if upstream.capabilities.chat:
        path, prompt = "chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}  # type: ignore[dict-item]
    began = time.monotonic()
    response = _send(upstream, "POST", path, body=body | prompt, timeout_s=timeout_s)
    if response.status_code == 429:
        return time.monotonic() - began
    try:
        is_answer = response.status_code == 200 and bool(response.json()["choices"])
    except (ValueError, KeyError, TypeError, RecursionError):
        is_answer = False
    if not is_answer:
        raise Unavailable(
            f"{upstream.host} answered a request of one token with status {response.status_code} and no choice."
        )
    return time.monotonic() - began


def ask_context(upstream: Upstream) -> int | None:
    """Return the context length that a server states of a model in `/models`; None where it states none."""
    try:
        response = _send(upstream, "GET", "models", body=None, timeout_s=CHECK_S)
        entries = response.json()["data"]
        entry = next((e for e in entries if e.get("id") == upstream.model), entries[0] if len(entries) == 1 else {})
        stated = [source.get(name) for source in (entry, entry.get("meta") or {}) for name in CONTEXT_FIELDS]
    except (Unavailable, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None
    return next((value for value in stated if isinstance(value, int) and value > 0), None)


def _send(upstream: Upstream, method: str, path: str, *, body: object, timeout_s: float) -> httpx.Response:
    key = read_key(key_env=upstream.key_env, key_file=upstream.key_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(timeout=httpx.Timeout(timeout_s, connect=5.0), trust_env=False, headers=headers) as client:
            return client.request(method, f"{upstream.url}/{path}", json=body)
    except httpx.TimeoutException as error:
        raise Unavailable(f"{upstream.host} did not answer within {timeout_s:g} s.") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{upstream.host} can't be reached ({type(error).__name__}).") from error
