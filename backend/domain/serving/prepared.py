"""Folders of the weights that replicas have prepared for serving, below the artifacts."""

from __future__ import annotations

FOLDER = "prepared"


def prepared_folder(checkpoint: str) -> str:
    """Return the folder of a checkpoint's prepared weights, by the checkpoint's folder relative to the artifacts.

    >>> prepared_folder("runs/abc/checkpoints/step-100")
    'prepared/runs/abc/checkpoints/step-100'
    """
    return f"{FOLDER}/{checkpoint.strip('/')}"
