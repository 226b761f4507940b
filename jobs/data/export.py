"""Entry of a dataset export: a version as a folder for other tools, pushed to a Hub on request.

A push loads the version as `datasets.DatasetDict` for `push_to_hub`; that library is imported on use.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from backend.domain.data.export_formats import SPLIT_NAMES, export_path
from backend.domain.data.splits import SPLITS, Split
from backend.domain.jobs.payloads import DatasetExportPayload, HubTarget
from backend.domain.jobs.results import DatasetExportResult, Pushed
from backend.errors import NotFound, Unavailable
from backend.infra.hub.errors import HubRequest, endpoint, hub_errors
from jobs.modeling.dataset_files import iter_rows, num_rows
from jobs.modeling.hub import PUBLIC
from jobs.modeling.publishing import refuse_stopped_export
from jobs.reporter import JobSpec, Reporter

if TYPE_CHECKING:
    from datasets import DatasetDict


PROGRESS_ROWS = 1000
CHUNK_BYTES = 2**24


def run(spec: JobSpec[DatasetExportPayload], reporter: Reporter) -> DatasetExportResult:
    """Write a version to the payload's `out` in `format`, then push its rows as Parquet if `push` is given.

    Raises NotFound if the version's files are gone, Unavailable if the Hub refuses,
    JobFailed on a stop request; a failure leaves no files.
    """
    payload, source, target = spec.payload, spec.path(spec.payload.dataset), spec.path(spec.payload.out)
    if not source.is_dir():
        raise NotFound("The dataset's files are gone.", remedy="Import it again.")
    rows: dict[Split, int] = {split: count for split in SPLITS if (count := num_rows(source, split=split))}
    shutil.rmtree(target, ignore_errors=True)  # leftovers of an earlier attempt
    target.mkdir(parents=True)
    try:
        _write(payload, source, target, rows, reporter)
        if payload.card and payload.format != "datasets":
            (target / "README.md").write_text(payload.card, encoding="utf-8")
        pushed = None
        if payload.push is not None:
            pushed = _push_version(
                source, rows, payload.push, card=payload.card, message=f"Upload {payload.name}", reporter=reporter
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    reporter.log(f"Wrote {sum(rows.values()):,} rows, {size:,} bytes.")
    by_split = {SPLIT_NAMES[split]: count for split, count in rows.items()}
    return DatasetExportResult(folder=payload.out, rows=by_split, bytes=size, pushed=pushed)


def _write(
    payload: DatasetExportPayload, source: Path, target: Path, rows: dict[Split, int], reporter: Reporter
) -> None:
    if payload.format == "datasets":
        reporter.progress(0, 1, unit="", message="Writing with datasets")
        with _load_version(source, rows) as dataset:
            dataset.save_to_disk(str(target))
        return
    for split in rows:
        file = target / export_path(split, format=payload.format)
        file.parent.mkdir(exist_ok=True)
        if payload.format == "jsonl":
            _write_lines(source, split, file, total=rows[split], reporter=reporter)
        else:
            _copy(source / f"{split}.parquet", file, reporter=reporter)


def _write_lines(source: Path, split: Split, file: Path, *, total: int, reporter: Reporter) -> None:
    with file.open("w", encoding="utf-8") as out:
        for number, row in enumerate(iter_rows(source, split=split)):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            if number % PROGRESS_ROWS == 0:
                reporter.progress(number, total, unit="row", message=f"Writing {file.name}")
                refuse_stopped_export(reporter)


def _copy(source: Path, file: Path, *, reporter: Reporter) -> None:
    size, done = source.stat().st_size, 0
    with source.open("rb") as from_, file.open("wb") as to:
        while chunk := from_.read(CHUNK_BYTES):
            to.write(chunk)
            done += len(chunk)
            reporter.progress(done, size, unit="byte", message=f"Writing {file.name}")
            refuse_stopped_export(reporter)


TARGET = HubRequest("repository", "push", "upload the export by hand")
OWN_KEYS = ("configs", "dataset_info")  # front matter keys that `push_to_hub` writes itself


@contextmanager
def _load_version(folder: Path, splits: Mapping[Split, int]) -> Iterator[DatasetDict]:
    """Lend a version's splits as a DatasetDict, memory-mapped from a temporary copy next to the version."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix=".arrow-", dir=folder.parent) as cache:
        yield datasets.DatasetDict(
            {
                SPLIT_NAMES[split]: datasets.Dataset.from_parquet(
                    str(folder / f"{split}.parquet"), split=datasets.NamedSplit(SPLIT_NAMES[split]), cache_dir=cache
                )
                for split in splits
            }
        )


def _push_version(
    folder: Path, splits: Mapping[Split, int], target: HubTarget, *, card: str, message: str, reporter: Reporter
) -> Pushed:
    """Push a version's splits and its card to a dataset repository. A missing repository is created. Raises Unavailable
    without a key, and if the Hub refuses or does not answer.
    """
    key = os.environ.get("HF_TOKEN", "")
    if not key:
        raise Unavailable(
            f"Pushing to {target.repo} needs a key of the Hub, and this worker has none.",
            remedy="Set HF_TOKEN, for the worker, to a key that may write.",
        )
    import datasets
    from huggingface_hub import HfApi, constants

    datasets.config.HF_ENDPOINT = endpoint()  # the library reads the environment on import
    if endpoint() != PUBLIC:  # mirrors and self-hosted servers support the plain transfer of Git LFS only
        constants.HF_HUB_DISABLE_XET = True
    reporter.progress(0, 1, unit="", message=f"Pushing to {target.repo}")
    api = HfApi(endpoint=endpoint(), token=key)
    with hub_errors(target.repo, TARGET), _load_version(folder, splits) as dataset:
        dataset.push_to_hub(target.repo, private=target.private, token=key, commit_message=message)
        written = Path(
            api.hf_hub_download(target.repo, "README.md", repo_type="dataset", force_download=True)
        ).read_text(encoding="utf-8")
        merged = merge_cards(card, written).encode()
        commit = api.upload_file(
            path_or_fileobj=merged,
            path_in_repo="README.md",
            repo_id=target.repo,
            repo_type="dataset",
            commit_message=f"{message}: card",
        )
    reporter.log(f"Pushed to {target.repo}, commit {commit.oid[:12]}.")
    return Pushed(repo=target.repo, url=f"{endpoint()}/datasets/{target.repo}", commit=commit.oid)


def merge_cards(card: str, written: str) -> str:
    """Return our card with its front matter's parts that describe the pushed files, as `push_to_hub` wrote them."""
    front, text = _divide(card)
    pushed, _ = _divide(written)
    front |= {key: pushed[key] for key in OWN_KEYS if key in pushed}
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120)}---\n{text}"


def _divide(card: str) -> tuple[dict[str, object], str]:
    if not card.startswith("---\n"):
        return {}, card
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    value = yaml.safe_load(front)
    return (value if isinstance(value, dict) else {}), text
