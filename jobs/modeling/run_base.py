"""The job that adds a base: a folder, a GGUF file or a Hub id becomes a checkpoint among our own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

from backend.errors import InvalidInput, NotFound, Unavailable
from jobs.modeling.checkpoints import is_adapter, load_network
from jobs.modeling.convert_gguf import convert_gguf
from jobs.modeling.copying import copy_checkpoint
from jobs.modeling.inspection import inspect_folder
from jobs.reporter import JobSpec, Reporter

HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "README.md")


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Bring the payload's base to `out`, load it once, and describe it (`inspect_folder`, plus `folder`).

    Payload: `source` (a path, absolute or among the artifacts) or `hub` (an id); `kind` "folder", "gguf" or "hub" (found by itself when
    absent); `out`. Raises InvalidInput for what is not safetensors or GGUF, or is an adapter without its base.
    """
    out = spec.path(spec.payload["out"])
    hub = spec.payload.get("hub") or (spec.payload["source"] if spec.payload.get("kind") == "hub" else None)
    if hub:
        source = _download(str(hub), spec.folder / "hub", reporter)
    else:
        source = spec.artifacts / spec.payload["source"]  # an absolute path stays what it is
        if not source.exists():
            raise NotFound(f"There is no {source}.", remedy="Check the path on the worker's machine.", field="source")
    meta = {"job": spec.id, "source": str(hub or source.name)}
    if source.is_file():
        if source.suffix != ".gguf":
            raise InvalidInput(f"{source.name} is neither a folder nor a .gguf file.", field="source")
        reporter.log(f"Converting {source.name} to safetensors.")
        convert_gguf(source, out, meta=meta)
    else:
        if is_adapter(source):
            raise InvalidInput(
                f"{source.name} is an adapter: its base is not in the folder.",
                remedy="Merge it where it was made, and add the merged checkpoint.",
                field="source",
            )
        reporter.log(f"Copying {source.name}.")
        copy_checkpoint(source, out, meta=meta)
    if hub:
        shutil.rmtree(source, ignore_errors=True)
    try:
        _check_loads(out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return {**inspect_folder(out), "folder": spec.payload["out"]}


def _check_loads(folder: Path) -> None:
    """Load the network once and run it on a few tokens: a base that can't be used is refused when it is added, not when it is needed."""
    network = load_network(folder)
    with torch.inference_mode():
        logits = network(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits
    if not torch.isfinite(logits).all():
        raise InvalidInput("The network computes numbers that are not finite.", remedy="The files may be damaged: fetch them again.")


def _download(hub: str, folder: Path, reporter: Reporter) -> Path:
    """Fetch a Hub repository's data files; its code is left behind."""
    reporter.log(f"Downloading {hub} from the Hub.")
    try:
        return Path(snapshot_download(hub, local_dir=folder / hub.replace("/", "--"), allow_patterns=list(HUB_FILES)))
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"The Hub has no checkpoint {hub}, or it is private.", remedy="Check the id; for a private one set HF_TOKEN."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise Unavailable(
            f"{hub} could not be downloaded: {str(error).splitlines()[0][:200]}", remedy="Check the network, or add the base from a folder."
        ) from error
