"""Make the tokens of a split in shards, each by a process of its own, and join them to what one process makes."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

from backend.domain.attributes import view_of
from backend.domain.data.splits import SPLITS, Split
from backend.domain.data.token_folders import FOLDER, LOCK, MANIFEST
from backend.domain.jobs.payloads import ImportPayload
from backend.errors import JobFailed
from backend.infra.files.locks import try_lock
from jobs.batches.pretrain import TEXT
from jobs.batches.token_files import POLL_S, StoredTokens, TokenWriter, id_type, open_tokens
from jobs.batches.token_making import SplitFolder, TokenSource, count_pieces, row_pieces
from jobs.data.checkpoint import workplace
from jobs.data.shard_runs import ShardOptions, run_shards
from jobs.data.sharding import TokenPlan, shard_folder
from jobs.modeling.chat import teach_template
from jobs.modeling.dataset_files import split_file
from jobs.modeling.publishing import publish_once
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import JobSpec, Reporter, SilentReporter


def make_tokens_of(spec: JobSpec[ImportPayload], dataset: Path, reporter: Reporter) -> tuple[str, ...]:
    """Make the tokens of all splits of an imported dataset; return their folders. Raises what `run_shards` raises."""
    tokenizer, options = spec.path(str(spec.payload.tokenizer)), view_of(ShardOptions, spec.payload)
    source = _source(dataset, tokenizer, spec.artifacts / FOLDER, reporter)
    splits = [split for split in SPLITS if split_file(dataset, split) is not None]
    return tuple(_make_split(source, tokenizer, split, options).name for split in splits)


def _source(dataset: Path, tokenizer: Path, root: Path, reporter: Reporter) -> TokenSource:
    loaded = load_tokenizer(tokenizer)
    teach_template(loaded, chats=TEXT.renders)  # as a run does
    return TokenSource(dataset, loaded, root, reporter)


def _make_split(source: TokenSource, tokenizer: Path, split: Split, options: ShardOptions) -> SplitFolder:
    """Make a split's tokens, unless they are there."""
    place = source.split_folder(TEXT, split)
    known = place.open()
    if known is not None and known.is_complete:
        return place
    total = count_pieces(source.dataset / f"{split}.parquet")
    shards = max(1, min(options.shards, total))
    bounds = tuple(total * number // shards for number in range(shards + 1))
    plan = TokenPlan(dataset=str(source.dataset), tokenizer=str(tokenizer), split=split, bounds=bounds)
    with workplace(source.dataset.parent, f"{place.path.name}-{shards}") as folder:
        source.reporter.log(f"Making the tokens of the {split} split in {shards:,} shards.")
        run_shards(folder, plan, options, source.reporter)
        _join(source, place, folder, plan)
    return place


def make_shard(folder: Path, number: int) -> None:
    """Make the tokens of one shard. Its folder appears whole or not at all; of two makers one wins."""
    target = shard_folder(folder, number)
    if target.is_dir():
        return
    plan = TokenPlan.load(folder)
    source = _source(Path(plan.dataset), Path(plan.tokenizer), folder, SilentReporter())
    partial = folder / f".{target.name}-{uuid.uuid4().hex[:12]}"
    identity = source.split_folder(TEXT, plan.split).identity
    writer = TokenWriter(partial, identity, dtype=id_type(len(source.tokenizer), has_marks=False))
    try:
        file, (first, last) = source.dataset / f"{plan.split}.parquet", plan.bounds[number : number + 2]
        for numbers, rows in row_pieces(file, mixed=plan.split == "train", first=first, last=last):
            writer.add(numbers, TEXT.encode(source.tokenizer, rows))
        writer.flush(is_complete=True)
        publish_once(partial, target)
    finally:
        writer.close()
        shutil.rmtree(partial, ignore_errors=True)


def _join(source: TokenSource, place: SplitFolder, folder: Path, plan: TokenPlan) -> None:
    """Write the shards one after another, continuing what an earlier attempt left."""
    place.path.mkdir(parents=True, exist_ok=True)
    while True:
        with try_lock(place.path / LOCK) as is_free:
            if is_free:
                dtype = id_type(len(source.tokenizer), has_marks=False)
                _write(TokenWriter(place.path, place.identity, dtype=dtype), place, folder, plan)
                return
        known = place.open()  # a run makes them
        if known is not None and known.is_complete:
            return
        time.sleep(POLL_S)


def _write(writer: TokenWriter, place: SplitFolder, folder: Path, plan: TokenPlan) -> None:
    try:
        if writer.pieces not in plan.bounds:  # a run has begun to make them, and ends in the midst of a shard
            writer.close()
            (place.path / MANIFEST).unlink()
            writer = TokenWriter(place.path, place.identity, dtype=writer.dtype)
        for number in range(plan.bounds.index(writer.pieces), plan.num_shards):
            writer.extend(_open_shard(folder, number, place))
        writer.flush(is_complete=True)
    finally:
        writer.close()


def _open_shard(folder: Path, number: int, place: SplitFolder) -> StoredTokens:
    tokens = open_tokens(shard_folder(folder, number), segments=TEXT.segments, identity=place.identity)
    if tokens is None:
        raise JobFailed(f"The tokens of shard {number} are missing.", remedy="Import the same source again.")
    return tokens
