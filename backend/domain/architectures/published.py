"""Published decoders by name: architectures to start from."""

from __future__ import annotations

from importlib.resources import files

import yaml

from backend.domain.architectures.config import ArchitectureConfig

_TABLE = yaml.safe_load(files(__package__).joinpath("published.yaml").read_text("utf-8"))
PUBLISHED = {name: ArchitectureConfig(**values) for name, values in _TABLE["architectures"].items()}
"""Name to architecture, from small to large within a family."""
