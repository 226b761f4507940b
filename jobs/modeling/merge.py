"""Merge an adapter into its base, for exports and for tools without adapter support."""

from __future__ import annotations

from pathlib import Path

from backend.errors import InvalidInput
from jobs.modeling.checkpoints import is_adapter, is_scorer, load_network, read_card, save_checkpoint
from jobs.modeling.scorers import load_scorer
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import padding_id


def merge_adapter(folder: Path, out_folder: Path) -> dict[str, object]:
    """Write the merged network in fp32, with its tokenizer; return the new card.

    Raises InvalidInput if the folder is no adapter.
    """
    if not is_adapter(folder):
        raise InvalidInput(
            f"{folder.name} is not an adapter: there is nothing to merge.", remedy="Export it with format hf."
        )
    card = read_card(folder)
    meta = {key: value for key, value in card.items() if key not in ("files", "versions", "base_path", "format")}
    meta["merged_from"] = {"step": card.get("step"), "run_folder": card.get("run_folder")}
    tokenizer = load_tokenizer(folder)
    network = load_scorer(folder, pad_id=padding_id(tokenizer)) if is_scorer(folder) else load_network(folder)
    return save_checkpoint(out_folder, model=network, tokenizer=tokenizer, meta=meta)
