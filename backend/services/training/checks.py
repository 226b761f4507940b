"""Whether the libraries are here that a run's trackers need."""

from __future__ import annotations

from importlib.util import find_spec

from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput

NAMES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases", "trackio": "Trackio"}


def missing_trackers() -> frozenset[str]:
    """Return the trackers whose library is not installed here."""
    return frozenset(name for name in NAMES if find_spec(name) is None)


def require_trackers(config: RunConfig) -> None:
    """Raise InvalidInput for a tracker whose library is missing."""
    missing = [name for name in config.trackers if name in missing_trackers()]
    if missing:
        raise InvalidInput(
            f"{' and '.join(NAMES[name] for name in missing)} can't be written: the library is not installed.",
            remedy=f"Install it (`pip install 'roundhouse[trackers]'`), or leave {' and '.join(missing)} out of `trackers`.",
            field="trackers",
        )
