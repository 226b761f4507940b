"""Dataset versions as `datasets.DatasetDict`, and their upload by `push_to_hub`. The library is imported on use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from backend.domain.data.export_formats import SPLIT_NAMES
from backend.domain.data.splits import Split
from backend.domain.jobs.payloads import HubTarget
from backend.domain.jobs.results import Pushed
from backend.errors import Unavailable
from backend.infra.hub.errors import HubRequest, endpoint, hub_errors
from jobs.modeling.hub import PUBLIC
from jobs.reporter import Reporter

if TYPE_CHECKING:
    from datasets import DatasetDict

TARGET = HubRequest("repository", "push", "upload the export by hand")
OWN_KEYS = ("configs", "dataset_info")  # front matter keys that `push_to_hub` writes itself


@contextmanager
def load_version(folder: Path, splits: Mapping[Split, int]) -> Iterator[DatasetDict]:
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


def push_version(
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
    with hub_errors(target.repo, TARGET), load_version(folder, splits) as dataset:
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
