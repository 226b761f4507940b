"""The beginning of a split that is too large to be copied, for a job that reads its first rows alone: a file as long as
the split's with its first bytes and its last ones, which say where rows lie. What is between reads as zeros.
"""

from __future__ import annotations

HEAD = "head"
"""Folder, in the job's own, of such a file, which has the split's name."""
BEGINNING = "beginning"
"""File beside it: the number of first bytes that it has."""
