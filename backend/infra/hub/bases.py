"""Look up bases on the Hub: the files of a revision, those to download, and why it can't be a base. Uses the Hub at
`HF_ENDPOINT`, with the key in `HF_TOKEN` if set. Downloads no weights.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from backend.errors import InvalidInput, Unavailable
from backend.infra.checkpoints.candidates import (
    INDEX,
    PICKLE_ENDINGS,
    TERMS,
    TOKENIZER_FILES,
    WEIGHTS,
    BaseFacts,
    adapter_refusal,
    check_config,
    is_part_of_gguf,
    is_plain_name,
    licence_words,
    names_in_index,
    pickle_refusal,
)
from backend.infra.checkpoints.weight_headers import MAX_HEADER_BYTES, count_stored_parameters, parse_header
from backend.infra.files.remote import ANSWER_S
from backend.infra.hub.errors import BASE, endpoint, hub_errors

DATA_ENDINGS = (".json", ".jinja", ".txt", ".model", ".md")
MAX_DATA_BYTES = 100_000_000
SHOWN = 3


@dataclass(frozen=True)
class HubFile:
    """A file of a revision; `sha256` only of large files, for which the Hub has it."""

    name: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class HubRevision:
    """A repository at one commit. `requested`: the named branch, tag or commit; `parameters`, `gguf_family`: as
    reported by the Hub.
    """

    id: str
    commit: str
    requested: str
    licence: str | None
    files: dict[str, HubFile]
    parameters: int | None = None
    gguf_family: str = ""


@dataclass(frozen=True)
class HubBase:
    """A revision as a base: its facts and the files to download, small ones first."""

    revision: HubRevision
    facts: BaseFacts
    data: list[HubFile]
    weights: list[HubFile]

    @property
    def bytes(self) -> int:
        """Size of the download."""
        return sum(file.bytes for file in [*self.data, *self.weights])


def look_up_base(hub: str, *, revision: str | None = None) -> HubBase:
    """Look up a base by id and revision (default: main).

    Raises NotFound for an unknown id or revision, InvalidInput, with cause and cure, for one that can't be a base, and
    Unavailable within seconds if the Hub does not answer, refuses access or fails.
    """
    hub_revision = look_up(hub, revision=revision)
    weights = _weights_of(hub_revision)
    if weights.name.endswith(".gguf"):
        facts = BaseFacts(
            "gguf", hub_revision.gguf_family, hub_revision.parameters, weights.bytes, hub_revision.licence
        )
        return HubBase(hub_revision, facts, [], [weights])
    data = [file for file in hub_revision.files.values() if _is_data(file)]
    if not any(name in hub_revision.files for name in TOKENIZER_FILES):
        raise InvalidInput(f"{hub} holds no tokenizer.", remedy="Choose a checkpoint that brings one.", field="source")
    with tempfile.TemporaryDirectory() as place, hub_errors(hub, BASE):
        folder = Path(place, hub.rpartition("/")[2])
        folder.mkdir()
        for file in data:
            if file.name in ("config.json", "tokenizer_config.json", INDEX):
                (folder / file.name).write_bytes(_read(hub_revision, file, end=file.bytes))
        config = check_config(folder)
        shards = _shards(folder, hub_revision) if weights.name == INDEX else [weights]
        parameters = hub_revision.parameters or (_count(hub_revision, shards[0]) if len(shards) == 1 else None)
    size = sum(file.bytes for file in shards)
    return HubBase(
        hub_revision,
        BaseFacts("folder", str(config["model_type"]), parameters, size, hub_revision.licence),
        data,
        shards,
    )


def look_up(hub: str, *, revision: str | None = None) -> HubRevision:
    """Look up the contents of a revision (default: main). Raises NotFound, or Unavailable without an answer."""
    requested = revision or "main"
    with hub_errors(hub, BASE, revision=requested):
        info = HfApi(endpoint=endpoint()).model_info(hub, revision=requested, files_metadata=True, timeout=ANSWER_S)
        files = {
            sibling.rfilename: HubFile(
                sibling.rfilename, int(sibling.size or 0), sibling.lfs.sha256 if sibling.lfs else None
            )
            for sibling in info.siblings or []
        }
        card = vars(info.card_data) if info.card_data else {}
        counts = info.gguf or {}
        parameters = info.safetensors.total if info.safetensors else counts.get("total")
        parameters = parameters if isinstance(parameters, int) else None
    if not info.sha or not re.fullmatch("[0-9a-f]{40}", info.sha):
        raise Unavailable(f"The Hub did not say which commit {requested} of {hub} is.", remedy=BASE.remedy)
    return HubRevision(
        hub, info.sha, requested, licence_words(card), files, parameters, str(counts.get("architecture") or "")[:60]
    )


@contextmanager
def open_file(
    revision: HubRevision, file: HubFile, *, start: int = 0, end: int | None = None, silence_s: float = ANSWER_S
) -> Iterator[httpx2.Response]:
    """Request a file of a commit from byte `start` to before `end`; the status is 206 if the server supports ranges,
    else 200. Raises the library's errors for a refusal, or a connection that fails or times out after `silence_s`.
    """
    range_header = (
        {"Range": f"bytes={start}-{'' if end is None else max(start, end - 1)}"} if start or end is not None else {}
    )
    url = hf_hub_url(revision.id, file.name, revision=revision.commit, endpoint=endpoint())
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **range_header}
    with get_session().stream("GET", url, headers=headers, timeout=silence_s) as response:
        hf_raise_for_status(response)
        yield response


def _read(revision: HubRevision, file: HubFile, *, start: int = 0, end: int) -> bytes:
    """Return bytes `start` to `end` of a file."""
    with open_file(revision, file, start=start, end=end) as response:
        skipped = 0 if response.status_code == 206 else start
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) >= skipped + end - start:
                break
    return bytes(content[skipped : skipped + end - start])


def _count(revision: HubRevision, file: HubFile) -> int | None:
    """Count parameters in the header of a file of weights. Raises InvalidInput if it is damaged or cut short."""
    length = int.from_bytes(_read(revision, file, end=8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, file.bytes - 8):
        raise InvalidInput(
            f"{file.name} of {revision.id} is not a safetensors file: its header claims {length:,} bytes."
        )
    header = _read(revision, file, start=8, end=8 + length)
    return count_stored_parameters(parse_header(header, name=file.name, data_bytes=file.bytes - 8 - length))


def _is_data(file: HubFile) -> bool:
    named = file.name.endswith(DATA_ENDINGS) or file.name in TERMS
    return named and is_plain_name(file.name) and file.bytes <= MAX_DATA_BYTES


def _weights_of(revision: HubRevision) -> HubFile:
    """Return the single weight file, or the index of several. Raises InvalidInput if the repository holds no base."""
    names = revision.files
    if "adapter_config.json" in names:
        raise adapter_refusal(revision.id, None)
    for name in (WEIGHTS, INDEX):
        if name in names and "config.json" in names:
            return names[name]
    gguf = sorted(
        name for name in names if name.endswith(".gguf") and is_plain_name(name) and not is_part_of_gguf(name)
    )
    if len(gguf) == 1:
        return names[gguf[0]]
    if gguf:
        raise InvalidInput(
            f"{revision.id} holds {len(gguf)} GGUF files:"
            f" {', '.join(gguf[:SHOWN])}{' ...' if len(gguf) > SHOWN else ''}.",
            remedy="Download the one you want, and add that file.",
            field="source",
        )
    pickled = sorted(
        name
        for name in names
        if name.endswith(PICKLE_ENDINGS) and "/" not in name and not name.startswith("training_args")
    )
    if pickled:
        raise pickle_refusal(
            revision.id,
            pickled,
            "Look for a revision with safetensors, or convert it where you trust it and add the folder.",
        )
    raise InvalidInput(
        f"{revision.id} holds no base: a config.json with {WEIGHTS} or {INDEX}, or one .gguf file.",
        remedy="Check the id.",
        field="source",
    )


def _shards(folder: Path, revision: HubRevision) -> list[HubFile]:
    """Return the files that the index names. Raises InvalidInput if it leads out or names missing files."""
    names = names_in_index(folder)
    missing = [name for name in names if name not in revision.files]
    if missing:
        raise InvalidInput(
            f"{revision.id} lacks {len(missing)} of its {len(names)} weight files: {', '.join(missing[:SHOWN])}."
        )
    return [revision.files[name] for name in names]
