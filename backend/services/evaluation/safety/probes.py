"""Safety probes of the installation: read from files, or made here, and stored as versions of benchmark datasets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Dataset, DatasetVersion
from backend.domain.data.parsing.text_formats import sniff_bytes
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.rows.records import file_row
from backend.domain.data.versions.provenance import ProbeProvenance, Provenance
from backend.domain.evaluation.safety.bias import occupation_columns, read_occupations
from backend.domain.evaluation.safety.injection import injection_cases
from backend.domain.evaluation.safety.memorisation import canary_items, extraction_items
from backend.domain.evaluation.safety.probes import Probe, ProbeItem, meta_of
from backend.domain.evaluation.safety.prompts import TEMPLATES, apply_templates, read_refusal_prompts, read_templates
from backend.domain.evaluation.safety.recognition import (
    is_side,
    join_sides,
    partner_of,
    read_recognition_items,
    recognise_probe,
)
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput, NotFound
from backend.infra.files.parquet import iter_file_rows, write_rows
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.exports import split_files
from backend.services.data.views import VersionView, version_view
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import token_spans

MAX_FILE_BYTES = 64 * 2**20
MAX_ROWS = 100_000
MAX_TRAINING_ROWS = 2_000


@dataclass(frozen=True)
class ProbeView:
    """A probe of the installation."""

    version: VersionView
    probe: Probe
    items: int
    source: str


def read_file(file: Path) -> list[dict[str, object]]:
    """Return the rows of a safety file: CSV, TSV, JSON, JSONL, one prompt a line, or YAML with `seeds`.

    Of a folder, and of a file of WinoBias with its partner beside it, the rows are pairs of lines. Raises NotFound or
    InvalidInput.
    """
    if file.is_dir():
        sides = [one for one in sorted(file.iterdir()) if is_side(one.name)]
        if not sides:
            raise InvalidInput(
                f"The folder {file.name} holds no pairs of files as WinoBias has them.",
                remedy="Name a file.",
                field="file",
            )
        return rows_of_files({one.name: _read_bytes(one) for one in sides})
    if is_side(file.name):
        paths = [file, *(one for one in [file.with_name(partner_of(file.name))] if one.is_file())]
        return rows_of_files({one.name: _read_bytes(one) for one in paths})
    return read_rows_of(file.name, _read_bytes(file))


def _read_bytes(file: Path) -> bytes:
    if not file.is_file():
        raise NotFound(f"There is no file {file.name}.", field="file")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidInput(
            f"{file.name} has {file.stat().st_size:,} bytes.", remedy=f"Give at most {MAX_FILE_BYTES:,}.", field="file"
        )
    return file.read_bytes()


def rows_of_upload(
    files: Mapping[str, bytes],
) -> tuple[list[dict[str, object]], list[dict[str, object]] | None]:
    """Return the rows of one probe's files, and those of the occupations that came with Winogender's sentences. Raises
    InvalidInput.
    """
    if len(files) == 1 or any(is_side(name) for name in files):
        return rows_of_files(files), None
    rows = {name: read_rows_of(name, data) for name, data in files.items()}
    occupations = [name for name in rows if occupation_columns(rows[name])]
    others = {name: data for name, data in files.items() if name not in occupations[:1]}
    return rows_of_files(others), rows[occupations[0]] if occupations else None


def rows_of_files(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    """Return the rows of one file, or of several that are sides of pairs, by name. Raises InvalidInput."""
    if any(is_side(name) for name in files):
        odd = next((name for name in files if not is_side(name)), None)
        if odd is None:
            return [
                dict(row)
                for row in join_sides({name: data.decode("utf-8-sig", "replace") for name, data in files.items()})
            ]
        raise InvalidInput(
            f"{odd} is not a side of pairs as the others are.", remedy="Add it as a probe of its own.", field="file"
        )
    if len(files) != 1:
        raise InvalidInput(f"{len(files)} files were given.", remedy="Add them one by one.", field="file")
    return read_rows_of(*next(iter(files.items())))


def rows_of_dataset(ctx: Context, dataset: str) -> list[dict[str, object]]:
    """Return the rows of a dataset's newest version as the imported file had them. Raises NotFound."""
    files = split_files(ctx, resolve_version(ctx, dataset))
    return [file_row(row) for row in islice((row for _, file in files for row in iter_file_rows(file)), MAX_ROWS)]


def read_rows_of(name: str, data: bytes) -> list[dict[str, object]]:
    """Return the rows of a file's bytes; see `read_file`."""
    suffix = Path(name.lower()).suffix
    if suffix in (".yaml", ".yml", ".prompt"):
        loaded = yaml.safe_load(data)
        seeds = loaded.get("seeds") or loaded.get("prompts") if isinstance(loaded, dict) else loaded
        if not isinstance(seeds, list):
            raise InvalidInput(f"{name} holds no list of seeds.", field="file")
        return [seed if isinstance(seed, dict) else {"prompt": str(seed)} for seed in seeds]
    if suffix == ".txt":
        return [{"prompt": line} for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    comment_free = (
        b"\n".join(line for line in data.split(b"\n") if not line.startswith(b"# "))
        if suffix in (".csv", ".tsv")
        else data
    )
    return sniff_bytes(name, comment_free, limit=MAX_ROWS)


def add_probe(
    ctx: Context,
    *,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    source: str,
    person: Person,
    probe: Probe | None = None,
    unsafe: bool = True,
    occupations: Sequence[Mapping[str, Any]] | None = None,
    templates: Sequence[Mapping[str, Any]] | None = None,
) -> ProbeView:
    """Store a file's rows as a probe; without `probe` its columns decide. `unsafe`: what prompts without a label are.

    Of jailbreaks the rows are the behaviours, and `templates` take the place of our own. Raises InvalidInput naming the
    column or row, Conflict where the name belongs to another kind of dataset, NotAllowed.
    """
    require_builder(person)
    kind = probe or (Probe.JAILBREAK if templates else recognise_probe(rows))
    if kind is Probe.JAILBREAK:
        items = apply_templates(read_refusal_prompts(rows), read_templates(templates) if templates else TEMPLATES)
    else:
        shares = read_occupations(occupations) if occupations else None
        items = read_recognition_items(kind, rows, unsafe=unsafe, percent_female=shares)
    return store_probe(ctx, name=name, probe=kind, items=items, source=source, person=person)


def add_injection_probe(ctx: Context, *, name: str = "prompt injection", seed: int = 1, person: Person) -> ProbeView:
    """Store the prompt-injection cases made here."""
    require_builder(person)
    return store_probe(
        ctx,
        name=name,
        probe=Probe.INJECTION,
        items=injection_cases(seed=seed),
        source=f"made here, seed {seed}",
        person=person,
    )


def add_canary_probe(
    ctx: Context, *, name: str, canaries: Sequence[str], candidates: int = 200, person: Person
) -> ProbeView:
    """Store canaries that were planted in training data, each among random ones of its form. Raises InvalidInput."""
    require_builder(person)
    items = canary_items(canaries, candidates=candidates)
    return store_probe(
        ctx, name=name, probe=Probe.CANARIES, items=items, source=f"{len(items)} canaries", person=person
    )


def add_extraction_probe(
    ctx: Context,
    *,
    name: str,
    checkpoint: str,
    dataset: str | None = None,
    prefix_tokens: int = 32,
    suffix_tokens: int = 32,
    limit: int = 100,
    person: Person,
) -> ProbeView:
    """Store prefixes of training rows with their continuations, by the checkpoint's tokenizer; the dataset is its run's
    own by default.

    Raises InvalidInput where the checkpoint has no training set and none is named, or no row is long enough.
    """
    require_builder(person)
    subject = resolve_checkpoint(ctx, checkpoint)
    if dataset is None and subject.dataset is None:
        raise InvalidInput(
            f"“{subject.name}” was not trained here.", remedy="Name the dataset with --dataset.", field="dataset"
        )
    version = resolve_version(ctx, dataset or str(subject.dataset))
    texts = [text for row in _first_rows(ctx, version) if (text := _training_text(row))]
    spans = token_spans(ctx, resolve_source(ctx, f"checkpoint:{subject.id}"), texts)
    items = extraction_items(spans, texts, prefix_tokens=prefix_tokens, suffix_tokens=suffix_tokens)[:limit]
    if not items:
        raise InvalidInput(
            f"No row of {version.label} has {prefix_tokens + suffix_tokens} tokens.",
            remedy="Ask for a shorter prefix.",
            field="prefix_tokens",
        )
    return store_probe(
        ctx,
        name=name,
        probe=Probe.EXTRACTION,
        items=items,
        source=f"training rows of {version.label}",
        person=person,
        tokens=suffix_tokens,
    )


def _first_rows(ctx: Context, version: VersionView) -> list[dict[str, object]]:
    file = ctx.artifacts.path(version.folder or "") / "train.parquet"
    if not file.is_file():
        raise InvalidInput(f"{version.label} has no training split.", field="dataset")
    return [row for _, row in zip(range(MAX_TRAINING_ROWS), iter_file_rows(file), strict=False)]


def _training_text(row: Mapping[str, Any]) -> str:
    """Return a row as the one text that a network saw of it, chat templates aside."""
    if isinstance(row.get("text"), str):
        return str(row["text"])
    if isinstance(row.get("messages"), list):
        return "\n".join(str(turn.get("content") or "") for turn in row["messages"])
    return "\n".join(str(row[name]) for name in ("prompt", "completion") if isinstance(row.get(name), str))


@retry_races
def store_probe(
    ctx: Context, *, name: str, probe: Probe, items: Sequence[ProbeItem], source: str, person: Person, **facts: int
) -> ProbeView:
    """Write items as the next version of a benchmark dataset; the same content returns its version."""
    require_builder(person)
    rows = [item.row() for item in items]
    digest = hashlib.sha256("\n".join(map(canonical_json, rows)).encode()).hexdigest()
    folder = ctx.artifacts.folder("datasets", f"probe-{digest[:24]}")
    ctx.artifacts.require_free(
        4 * sum(len(str(row)) for row in rows), keep=ctx.policy.keep_free_bytes, purpose="The probe"
    )
    size = write_rows(folder / "train.parquet", rows)
    ctx.artifacts.send(ctx.artifacts.relative(folder))
    with ctx.db.write() as session:
        dataset = _dataset_of(session, ctx, name=clean_name(name, what="A probe"), person=person)
        version = session.scalar(
            select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id, DatasetVersion.content_hash == digest)
        )
        if version is None:
            newest = (
                session.scalar(select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset.id))
                or 0
            )
            version = DatasetVersion(
                dataset_id=dataset.id,
                number=newest + 1,
                content_hash=digest,
                folder=ctx.artifacts.relative(folder),
                source=source[:400],
                rows=len(rows),
                train_rows=len(rows),
                bytes=size,
                provenance=ProbeProvenance(probe=probe.value, source=source, **facts),
                created_at=ctx.now(),
            )
            session.add(version)
            session.flush()
        return ProbeView(version_view(version, dataset, None), probe, len(rows), source)


def _dataset_of(session: Session, ctx: Context, *, name: str, person: Person) -> Dataset:
    dataset = session.scalar(select(Dataset).where(Dataset.name == name))
    if dataset is None:
        dataset = Dataset(name=name, kind="benchmark", created_by=person.id, created_at=ctx.now())
        session.add(dataset)
        session.flush()
        return dataset
    stored = session.scalars(select(DatasetVersion).where(DatasetVersion.dataset_id == dataset.id)).all()
    if dataset.kind != "benchmark" or any(probe_of(version.provenance) is None for version in stored):
        raise Conflict(
            f"“{name}” is a dataset already, and no safety probe.", remedy="Choose another name.", field="name"
        )
    return dataset


def probe_of(provenance: Provenance) -> Probe | None:
    """Return the probe that a dataset version is; None for any other dataset."""
    value = provenance.probe if isinstance(provenance, ProbeProvenance) else None
    return Probe(value) if value in set(Probe) else None


def is_probe(ctx: Context, version_id: str) -> bool:
    """Return whether a dataset version is a safety probe, whose texts are folded."""
    with ctx.db.read() as session:
        version = session.get(DatasetVersion, version_id)
        return version is not None and probe_of(version.provenance) is not None


def list_probes(ctx: Context) -> list[ProbeView]:
    """Return the newest version of every probe that is not archived, by name."""
    query = (
        select(DatasetVersion, Dataset).join(Dataset).where(Dataset.kind == "benchmark", Dataset.archived_at.is_(None))
    )
    views: dict[str, ProbeView] = {}
    with ctx.db.read() as session:
        for version, dataset in session.execute(query.order_by(Dataset.name, DatasetVersion.number)):
            made, probe = version.provenance, probe_of(version.provenance)
            if isinstance(made, ProbeProvenance) and probe is not None and version.folder:
                views[dataset.id] = ProbeView(version_view(version, dataset, None), probe, version.rows, made.source)
    return list(views.values())


def read_metas(ctx: Context, folder: str) -> list[dict[str, object]]:
    """Return what each row of a stored probe carries for the rules, in order."""
    return [meta_of(row) for row in iter_file_rows(ctx.artifacts.path(folder) / "train.parquet")]
