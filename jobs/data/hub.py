"""Bring a dataset from the Hugging Face Hub to a local JSON Lines file. Runs no code of the dataset's author."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.errors import InvalidInput, JobFailed, NotFound, Unavailable
from jobs.reporter import Reporter

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
MAX_ROWS = 5_000_000


def download_hub_dataset(
    dataset_id: str, *, target: Path, reporter: Reporter, config: str | None = None, split: str = "train", max_rows: int = MAX_ROWS
) -> Path:
    """Stream one split of a Hub dataset into `target` (a .jsonl file) and return it.

    Raises InvalidInput for an id that is none, NotFound if the Hub has no such dataset, config or split, Unavailable when the Hub does not
    answer, JobFailed when stopped on request.
    """
    if not _ID.fullmatch(dataset_id) or ".." in dataset_id:
        raise InvalidInput(f"{dataset_id!r} is not the id of a dataset.", remedy="Write it as owner/name, as on the Hub.", field="hub")
    if Path(dataset_id).exists():  # the library would read a local folder of that name
        raise InvalidInput(f"{dataset_id!r} is also a local folder here.", remedy="Import its files instead.", field="hub")
    last = time.monotonic()
    with target.open("w", encoding="utf-8") as file:
        for count, row in enumerate(_stream(dataset_id, config=config, split=split), start=1):
            file.write(json.dumps(row, ensure_ascii=True, default=str) + "\n")
            if count >= max_rows:
                reporter.log(f"Stopped after {max_rows} rows.")
                break
            if count % 64 == 0 and time.monotonic() - last > 0.5:
                last = time.monotonic()
                reporter.progress(count, max_rows, unit="row", message=f"{count} rows fetched from {dataset_id}")
                if reporter.should_stop():
                    raise JobFailed("The import was stopped on request.")
    return target


def _stream(dataset_id: str, *, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Yield rows; turn what the libraries raise into our errors."""
    import datasets
    import httpx
    from datasets.exceptions import DatasetNotFoundError, DefunctDatasetError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name = f"{dataset_id} ({', '.join(part for part in (config, split) if part)})"
    offline = f"The Hub does not answer, so {name} can't be fetched."
    remedy = "Check the connection, or download the files elsewhere and import them from disk."
    try:
        yield from datasets.load_dataset(dataset_id, config, split=split, streaming=True)
    except OfflineModeIsEnabled as error:
        raise Unavailable(offline, remedy="HF_HUB_OFFLINE is set; unset it, or import files from disk.") from error
    except DatasetNotFoundError as error:
        raise NotFound(f"The Hub has no dataset {dataset_id!r} that can be read without a key.", remedy="Check its spelling.") from error
    except (httpx.TransportError, ConnectionError, HfHubHTTPError, TimeoutError) as error:
        raise Unavailable(f"{offline} ({type(error).__name__})", remedy=remedy) from error
    except (ValueError, RuntimeError, DefunctDatasetError) as error:  # unknown config or split, or a dataset that needs its own code
        raise NotFound(f"The dataset {name} can't be read: {str(error)[:300]}", remedy="Check the config and the split.") from error
