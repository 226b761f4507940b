"""Recognise the errors by which Python and torch report that memory ran out."""

from __future__ import annotations

import torch

ALLOCATION_MESSAGES = ("can't allocate memory", "not enough memory")
"""Parts of the messages of torch's CPU allocator, which raises a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATION_MESSAGES)
