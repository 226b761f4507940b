"""A dataset card: a README.md with YAML front matter, as the Hugging Face Hub reads it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow
import yaml

from backend.domain.data.export_formats import SPLIT_NAMES
from backend.domain.data.versions.card_facts import CardFacts
from backend.domain.markdown_text import plain_markdown
from backend.errors import InvalidInput

LICENCES = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "odc-by",
    "odbl",
    "bsd-3-clause",
    "gpl-3.0",
    "openrail",
    "llama3",
    "gemma",
    "other",
    "unknown",
)
"""The Hub's names of common licences. A licence of another name is written as `other` with that name."""

SIZES = (
    ("n<1K", 1_000),
    ("1K<n<10K", 10_000),
    ("10K<n<100K", 100_000),
    ("100K<n<1M", 10**6),
    ("1M<n<10M", 10**7),
    ("10M<n<100M", 10**8),
)
TASKS = {"benchmark": "question-answering"}
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_PLAIN_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True)
class CardFile:
    """A split's file: its name on the Hub, rows, bytes and SHA-256."""

    split: str
    path: str
    rows: int
    bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class CardSource:
    """Facts of a version for its card. `lineage` holds one sentence per step, the first ancestor first."""

    name: str
    version: int
    kind: str
    kind_words: str
    content_hash: str
    files: tuple[CardFile, ...]
    schema: pyarrow.Schema
    lineage: tuple[str, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    text_bytes: int = 0


def clean_facts(*, licence: str, languages: Sequence[str] | str, notes: str) -> CardFacts:
    """Normalise edited card fields. Raises InvalidInput for a language that is not a code."""
    codes = re.split(r"[,;\s]+", languages) if isinstance(languages, str) else list(languages)
    codes = list(dict.fromkeys(code.strip() for code in codes if code.strip()))
    for code in codes:
        if not _LANGUAGE.fullmatch(code):
            raise InvalidInput(
                f"{code!r} is not a language code.",
                remedy="Write codes of ISO 639, such as en, de or pt-BR.",
                field="languages",
            )
    return CardFacts(licence=" ".join(licence.split())[:120], languages=tuple(codes[:100]), notes=notes[:20_000])


def size_category(rows: int) -> str:
    """Return the Hub's class of a dataset's size."""
    return next((name for name, below in SIZES if rows < below), "100M<n<1B")


def features_of(schema: pyarrow.Schema) -> list[dict[str, object]]:
    """Return a table's columns as the Hub's `dataset_info.features` lists them."""
    return [{"name": column.name, **_feature(column.type)} for column in schema]


def _feature(kind: pyarrow.DataType) -> dict[str, object]:
    if pyarrow.types.is_struct(kind):
        return {
            "struct": [{"name": kind.field(i).name, **_feature(kind.field(i).type)} for i in range(kind.num_fields)]
        }
    if pyarrow.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("struct", inner.get("dtype", inner))}
    return {"dtype": str(kind)}


def card_front_matter(source: CardSource, facts: CardFacts) -> dict[str, object]:
    """Return the facts above the text, as the Hub names them."""
    named = facts.licence.lower() if _PLAIN_LICENCE.fullmatch(facts.licence.lower()) else ""
    licence: dict[str, object] = {"license": named or "unknown"}
    if facts.licence and not named:
        licence = {
            "license": "other",
            "license_name": re.sub(r"[^a-z0-9]+", "-", facts.licence.lower()).strip("-") or "own",
        }
    rows = sum(file.rows for file in source.files)
    stored = sum(file.bytes for file in source.files)
    return {
        **licence,
        **({"language": list(facts.languages)} if facts.languages else {}),
        "pretty_name": f"{source.name}, version {source.version}",
        "size_categories": [size_category(rows)],
        "task_categories": [TASKS.get(source.kind, "text-generation")],
        "tags": ["roundhouse", source.kind],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": SPLIT_NAMES[file.split], "path": file.path} for file in source.files],
            }
        ],
        "dataset_info": {
            "features": features_of(source.schema),
            "splits": [
                {"name": SPLIT_NAMES[file.split], "num_bytes": file.bytes, "num_examples": file.rows}
                for file in source.files
            ],
            "download_size": stored,
            "dataset_size": source.text_bytes or stored,
        },
    }


def card_markdown(source: CardSource, facts: CardFacts) -> str:
    """Return the card: front matter, notes, rows, splits, columns, provenance, hashes."""
    facts_yaml = yaml.safe_dump(card_front_matter(source, facts), sort_keys=False, allow_unicode=True, width=120)
    rows = sum(file.rows for file in source.files)
    splits = [
        f"| {SPLIT_NAMES[file.split]} | {file.rows:,} | {file.bytes:,} | `{file.path}` |" for file in source.files
    ]
    columns = [f"| `{column.name}` | `{_type_words(column.type)}` |" for column in source.schema]
    origin = [f"- {plain_markdown(name)}: {plain_markdown(value)}" for name, value in source.provenance.items()]
    parts = [
        f"---\n{facts_yaml}---\n",
        f"# {plain_markdown(source.name)}, version {source.version}\n",
        f"{rows:,} rows of kind `{source.kind}`: {source.kind_words[:1].lower()}{source.kind_words[1:]}\n",
        *([facts.notes.strip() + "\n"] if facts.notes.strip() else []),
        "## Splits\n\n| split | rows | bytes | file |\n| --- | ---: | ---: | --- |\n" + "\n".join(splits) + "\n",
        "## Columns\n\n| column | type |\n| --- | --- |\n" + "\n".join(columns) + "\n",
        "## Where it came from\n\n"
        + "\n".join([f"{n}. {plain_markdown(step)}" for n, step in enumerate(source.lineage, start=1)])
        + "\n",
        *(["\n".join(origin) + "\n"] if origin else []),
        f"Licence: {plain_markdown(facts.licence) or 'not stated'}.\n",
        "## Hashes\n\n"
        + "\n".join(
            [
                f"- content: `{source.content_hash}`",
                *(f"- `{file.path}`: `{file.sha256}` (SHA-256)" for file in source.files if file.sha256),
            ]
        )
        + "\n",
    ]
    return "\n".join(parts)


def _type_words(kind: pyarrow.DataType) -> str:
    return str(kind).replace("element: ", "").replace("child 0, ", "")
