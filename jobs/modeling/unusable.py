"""Errors of libraries on files that can't be used. Imports no PyTorch."""

from __future__ import annotations

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

UNUSABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""Errors that transformers raises on invalid configs, tokenizers and weights, which are untrusted."""


def is_unusable(error: BaseException) -> bool:
    """Return whether a library's error reports invalid input. The tokenizers library raises plain `Exception`, and a
    panic, which is none.
    """
    return type(error) is Exception or type(error).__name__ == "PanicException" or isinstance(error, UNUSABLE)


def one_line(error: BaseException) -> str:
    """Return the message of a library's error as one line of at most 300 characters."""
    message = " ".join(str(error).split())[:300]
    return f"{message} is missing." if isinstance(error, KeyError) else message or type(error).__name__
