"""A dataset of the Hugging Face Hub: its revision pinned to a commit, its configs and splits, its files by byte range.

Uses the Hub at `HF_ENDPOINT`, with the key in `HF_TOKEN` or the Hub's own key file. Code of the repository is never
downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.data.parsing.text_formats import SUFFIXES
from backend.domain.data.versions.hub_splits import Splits, configs_of, most_common_ending
from backend.errors import InvalidInput, NotFound, Unavailable
from backend.infra.files.remote import ANSWER_S, RemoteFile, RemoteListing, readable
from backend.infra.hub.errors import DATASET, endpoint, hub_errors

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_REVISION = re.compile(r"[\w][\w./-]{0,199}")
SCRIPT_REMEDY = "Its rows may be available as Parquet: give the revision refs/convert/parquet."


@dataclass(frozen=True)
class HubDataset:
    """A dataset at one commit. `configs`: config -> split -> paths of readable files."""

    id: str
    requested: str
    commit: str
    licence: str
    configs: dict[str, Splits]
    files: dict[str, RemoteFile]

    def choose(self, *, config: str | None, split: str | None) -> HubSplit:
        """Return one split, by default of the only config, `train` or the only split. Raises NotFound for an unknown
        one, InvalidInput if a choice is needed; both list the options.
        """
        names = list(self.configs)
        if config is None and len(names) > 1 and "default" not in names:
            raise InvalidInput(
                f"{self.id} has {len(names)} configs: {_listed(names)}.", remedy="Choose one.", field="config"
            )
        name = config or ("default" if "default" in names else names[0])
        if name not in self.configs:
            raise NotFound(
                f"{self.id} has no config {name!r} (there are: {_listed(names)}).",
                remedy="Choose one of them.",
                field="config",
            )
        splits = self.configs[name]
        chosen = split or ("train" if "train" in splits else next(iter(splits)))
        if chosen not in splits:
            raise NotFound(
                f"{self.id} ({name}) has no split {chosen!r} (there are: {_listed(list(splits))}).",
                remedy="Choose one of them.",
                field="split",
            )
        label = " · ".join([self.id, *([name] if name != "default" else []), chosen])
        facts = {"commit": self.commit, "revision": self.requested, "licence": self.licence}
        files = tuple(self.files[path] for path in splits[chosen])
        return HubSplit(self, RemoteListing(label, files, {key: value for key, value in facts.items() if value}))


@dataclass(frozen=True)
class HubSplit:
    """One split of a dataset, to be read."""

    dataset: HubDataset
    listing: RemoteListing

    def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """Return some bytes of a file. Raises Unavailable."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

        url = hf_hub_url(
            self.dataset.id, file.path, repo_type="dataset", revision=self.dataset.commit, endpoint=endpoint()
        )
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        data = bytearray()
        with (
            hub_errors(self.dataset.id, DATASET),
            get_session().stream("GET", url, headers=headers, timeout=20.0, follow_redirects=True) as answer,
        ):
            hf_raise_for_status(answer)
            before = start if answer.status_code == 200 else 0  # a server without range support sends all of it
            for chunk in answer.iter_bytes():
                data += chunk[before:]
                before = max(0, before - len(chunk))
                if len(data) >= end - start:
                    break
        if len(data) < end - start:
            raise Unavailable(
                f"The Hub sent {len(data):,} instead of {end - start:,} bytes of {file.path}.", remedy=DATASET.remedy
            )
        return bytes(data[: end - start])


def find_hub_dataset(dataset_id: str, *, revision: str | None = None) -> HubDataset:
    """Look up a dataset at a revision (default: main). Raises InvalidInput for an invalid id, or a dataset without a
    readable file; NotFound if the Hub has no such dataset or revision; Unavailable, within seconds, if it does not
    answer.
    """
    requested = revision or "main"
    if not _ID.fullmatch(dataset_id) or ".." in dataset_id:
        raise InvalidInput(
            f"{dataset_id[:120]!r} is not the id of a dataset.",
            remedy="Write it as owner/name, as on the Hub.",
            field="hub",
        )
    if not _REVISION.fullmatch(requested) or ".." in requested:
        raise InvalidInput(
            f"{requested[:120]!r} is not a revision.", remedy="Give a branch, a tag or a commit.", field="revision"
        )
    with hub_errors(dataset_id, DATASET, revision=requested):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint()).dataset_info(
            dataset_id, revision=requested, files_metadata=True, timeout=ANSWER_S
        )
    if not info.sha or not re.fullmatch("[0-9a-f]{40}", info.sha):
        raise Unavailable(f"The Hub did not say which commit {requested} of {dataset_id} is.", remedy=DATASET.remedy)
    return _described(dataset_id, requested, info)


def _described(dataset_id: str, requested: str, info: DatasetInfo) -> HubDataset:
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    card = dict(vars(info.card_data)) if info.card_data else {}
    configs: dict[str, Splits] = {}
    for config, splits in configs_of(siblings, card).items():
        readable_splits = {split: most_common_ending(readable(paths)) for split, paths in splits.items()}
        if non_empty := {split: paths for split, paths in readable_splits.items() if paths}:
            configs[config] = non_empty
    if not configs:
        others = sorted({os.path.splitext(name)[1] or name for name in siblings} - {".md", ".gitattributes"})
        script = any(name.endswith(".py") for name in siblings)
        raise InvalidInput(
            f"{dataset_id} holds no file that rows can be read from (found: {_listed(others) or 'nothing'}).",
            remedy=SCRIPT_REMEDY if script else f"Rows are read from {', '.join(SUFFIXES)}.",
            field="hub",
        )
    files = {
        name: RemoteFile(
            name, int(sibling.size or 0), str(sibling.lfs.sha256 if sibling.lfs else sibling.blob_id or info.sha)
        )
        for name, sibling in siblings.items()
    }
    return HubDataset(dataset_id, requested, str(info.sha), _licence(card), configs, files)


def _licence(card: Mapping[str, object]) -> str:
    value = card.get("license") or card.get("license_name") or ""
    return _listed([str(part) for part in value] if isinstance(value, list) else [str(value)] if value else [])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8])[:300] + (f" and {len(names) - 8} more" if len(names) > 8 else "")
