"""Names of open shapes: objects whose keys someone else decides, or whose values no schema has checked yet.

Where the keys are the product's own, a model, a typed dict or a dataclass says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""An object of JSON whose form a file, another program, an API or a page's script decides."""

Row = dict[str, Any]
"""A row of a dataset: its columns are those of its file."""

RowMapping = Mapping[str, Any]
"""A row that is only read."""

FieldValues = dict[str, Any]
"""Values of a schema's fields, by name or path, as a person, a file or a command gives them: not checked yet."""
