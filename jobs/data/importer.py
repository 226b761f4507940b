"""Import a dataset: recognise, convert, reject with reasons, split, hash, publish, in bounded memory.

This thread cuts blocks; another parses and splits them (Arrow's parsers and NumPy release the GIL), helped by this one
when it falls behind; others hash and write them in order (jobs.data.writing).
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.domain.attributes import attributes_of, view_of
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition import recognise
from backend.domain.data.rows.conversations import count_media, describe_dropped, describe_filtered, media_columns
from backend.domain.data.rows.mapping import check_mapping, settle_answers
from backend.domain.data.rows.trees import TREE, is_message_table
from backend.domain.jobs.payloads import ShardCluster
from backend.domain.jobs.results import ImportResult
from backend.errors import InvalidInput, JobFailed
from jobs.data.checkpoint import State, import_key, join_parts, part_folder, workplace
from jobs.data.columns import plan_columns
from jobs.data.filters import RowFilters, leave_out_similar, sign_rows
from jobs.data.message_trees import MessageTrees
from jobs.data.parsing import Parsed, Parser, iter_source
from jobs.data.readers import RowBlock, SourcePosition, SourceRows
from jobs.data.refusals import bad_rows, check_tally, nothing_usable
from jobs.data.reports.duplicates import DuplicateFinder
from jobs.data.shard_runs import ShardOptions, run_shards
from jobs.data.sharding import ShardParser, ShardPlan, ShardRows, add_shards, shard_bounds
from jobs.data.sources import SavedDataset, open_source, read_head
from jobs.data.splitting import DividedRows, Splitter
from jobs.data.writing import DatasetWriter, publish_version, sync_all
from jobs.reporter import Reporter

REPORT_EVERY_S = 0.5
BLOCKS_AHEAD = 3
FORMAT_VERSION = 3


def import_files(
    source: Path,
    options: ImportOptions,
    *,
    out_root: Path,
    reporter: Reporter,
    split: str | None = None,
    cluster: ShardCluster | None = None,
    part_s: float = 20.0,
) -> ImportResult:
    """Import a file, a folder, a zip or a saved dataset into `<out_root>/<first 16 of the content hash>/`.

    `kind` and `mapping` of the options are recognised when left out. The same content, kind and split give the same
    folder. With `keep_good` bad rows are listed, with their raw beginning, in `rejected.jsonl`; otherwise the first one
    ends the import. Above a share of `max_rejected` of all rows nothing is published. `split` names one split of a
    saved dataset; without it its train and validation splits are kept. With `shards` files are read by other processes
    (jobs.data.sharding), on the `cluster` that the options name. About every `part_s` seconds the finished rows are
    stored as a part, from which an import of the same unchanged source resumes within a day. Raises InvalidInput if the
    source, the kind or the mapping can't be used, too many rows are bad or none is good; NotFound; JobFailed on a stop
    request.
    """
    filters = view_of(RowFilters, options)
    shards = ShardOptions(options.shards, options.workers, options.executor, cluster) if options.shards else None
    rows = open_source(source, kind=options.kind, split=split, encoding=options.encoding)
    sample, bad = read_head(rows)
    if not sample:
        raise nothing_usable(source.name, [row.as_dict(raw=0) for row in bad])
    plan = _plan(rows, sample, kind=options.kind, mapping=options.mapping)
    _log_plan(reporter, rows, plan)
    settings = {
        "format": FORMAT_VERSION,
        "kind": plan.kind,
        "mapping": plan.mapping,
        **attributes_of(options, "val_fraction", "seed", "keep_good", "encoding"),
        "sides": rows.sides,
    }
    shard_plan = None
    if shards is not None:
        shard_plan = _plan_shards(source, rows, plan, options, filters=filters)
        settings["shards"] = shard_plan.model_dump(mode="json")
    elif filters.has_any:
        settings["filters"] = asdict(filters)
    with workplace(out_root, import_key(rows.listing, settings)) as folder:
        source_rows: SourceRows = rows
        parser: Parser | ShardParser = plan.parser
        if shards is not None and shard_plan is not None:
            run_shards(folder, shard_plan, shards, reporter)
            source_rows, parser = ShardRows(folder, shard_plan, rows), ShardParser(plan.kind, plan.mapping)
            filters = RowFilters()
        elif plan.is_message_table:
            source_rows = MessageTrees(rows, plan.mapping, folder=folder)
        splitter, header = _divide(rows, plan, options, has_sides=source_rows.sides is not None)
        work = _Work(
            source_rows,
            parser,
            splitter,
            filters=filters,
            folder=folder,
            header=header,
            keep_good=options.keep_good,
            part_s=part_s,
            reporter=reporter,
        )
        writer = work.run()
        check_tally(source.name, writer.tally, max_rejected=options.max_rejected)
        files = join_parts(folder, work.state.parts + 1, kind=plan.kind)
        is_cut = writer.tally.train_rows + writer.tally.val_rows > writer.tally.rows
        if options.drop_near_duplicates:
            finder = DuplicateFinder(folder / "near")
            if shard_plan is None or splitter.is_small:
                sign_rows(files, finder)
            else:
                add_shards(finder, folder, shard_plan)
            files, writer = _without_similar(files, finder, writer, header=header, plan=plan, reporter=reporter)
        result = _result(work, writer, rows, plan, files=files, out_root=out_root)
        result = result.model_copy(update={"is_cut": True}) if is_cut and options.drop_near_duplicates else result
        target = Path(result.folder)
        meta = {
            **result.dump(),
            "folder": target.name,
            **attributes_of(options, "val_fraction", "seed"),
            "format": FORMAT_VERSION,
        }
        (files / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        fresh = publish_version(files, target=target)
    reporter.log(_summary(result, fresh=fresh))
    if writer.tally.dropped:
        reporter.log(describe_filtered(writer.tally.dropped))
    return result.model_copy(update={"bytes": sum(file.stat().st_size for file in target.iterdir())})


def _plan_shards(
    source: Path, rows: SourceRows, plan: _Plan, options: ImportOptions, *, filters: RowFilters
) -> ShardPlan:
    """Return the plan of shards. Raises InvalidInput for a source whose rows depend on rows of other files."""
    if isinstance(rows, SavedDataset) or plan.is_message_table:
        what = "A table of messages" if plan.is_message_table else "A dataset with splits of its own"
        raise InvalidInput(f"{what} can't be read in shards.", remedy="Import it with 0 shards.", field="shards")
    return view_of(
        ShardPlan,
        options,
        source=str(source.absolute()),
        files_key=import_key(rows.listing, {}),
        kind=plan.kind,
        mapping=plan.mapping,
        by_first_message=plan.has_trees,
        filters=filters,
        compares=options.drop_near_duplicates,
        bounds=shard_bounds([member.bytes for member in rows.listing.members], options.shards),
    )


def _without_similar(
    files: Path, finder: DuplicateFinder, writer: DatasetWriter, *, header: str, plan: _Plan, reporter: Reporter
) -> tuple[Path, DatasetWriter]:
    """Return the folder and the writer of the rows without near duplicates: those given, if there are none."""
    reported = time.monotonic()

    def tell(share: float) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_EVERY_S:
            reported = time.monotonic()
            rows = writer.tally.train_rows + writer.tally.val_rows
            reporter.progress(round(share * rows), rows, unit="row", message="Comparing rows that look alike")
            if reporter.should_stop():
                raise JobFailed("The import was stopped on request.", remedy="Import the same source again to resume.")

    out = part_folder(files.parent, 99_998)
    fewer, is_limited = leave_out_similar(
        files, finder, out=out, header=header, kind=plan.kind, tally=writer.tally, tell=tell
    )
    if is_limited:
        reporter.log("So many rows look alike that not all were compared: near duplicates remain.")
    return (out, fewer) if fewer.tally.dropped != writer.tally.dropped else (files, writer)


def _divide(rows: SourceRows, plan: _Plan, options: ImportOptions, *, has_sides: bool) -> tuple[Splitter, str]:
    """Return the splitter of an import, and a header with its settings for the content hash."""
    how = (
        f" split {rows.split_rows}"
        if isinstance(rows, SavedDataset) and has_sides
        else " by first message"
        if plan.has_trees
        else ""
    )
    settings = attributes_of(options, "val_fraction", "seed")
    splitter = Splitter(kind=plan.kind, by_first_message=plan.has_trees, has_sides=has_sides, **settings)
    return splitter, f"{FORMAT_VERSION} {plan.kind} {options.val_fraction:.6f} {options.seed}{how}"


@dataclass(frozen=True)
class _Plan:
    """The plan of an import: kind, mapping, reason, columns and parser."""

    kind: DatasetKind
    mapping: dict[str, str]
    reason: str
    columns: list[str]
    parser: Parser
    dropped_media: dict[str, int]

    @property
    def is_message_table(self) -> bool:
        return is_message_table(self.mapping)

    @property
    def has_trees(self) -> bool:
        return self.is_message_table or TREE in self.mapping.values()


def _plan(
    rows: SourceRows, sample: list[dict[str, object]], *, kind: DatasetKind | None, mapping: Mapping[str, str] | None
) -> _Plan:
    final_kind, final_mapping, reason = _decide(sample, kind=kind, mapping=mapping)
    final_mapping = settle_answers(iter_source(rows, final_mapping), final_mapping, kind=final_kind)
    columns = list(dict.fromkeys(str(column) for row in sample for column in row))
    if is_message_table(final_mapping):
        parser = Parser(final_kind, {TREE: TREE}, None)
    else:
        parser = Parser(final_kind, final_mapping, plan_columns(sample, kind=final_kind, mapping=final_mapping))
    media = media_columns(sample, kind=final_kind, mapping=final_mapping)
    dropped_media = count_media(iter_source(rows, media), media) if media else {}
    return _Plan(final_kind, final_mapping, reason, columns, parser, dropped_media)


def _log_plan(reporter: Reporter, rows: SourceRows, plan: _Plan) -> None:
    reporter.log(f"Reading {rows.name} as {plan.kind}: {plan.reason}.")
    if rows.sides is not None and not plan.is_message_table:
        reporter.log("The source's own splits are kept.")
    if plan.dropped_media:
        reporter.log(describe_dropped(plan.dropped_media))
    for item in rows.ignored[:20]:
        reporter.log(f"Left out {item.file}: {item.reason}.")


def _result(
    work: _Work, writer: DatasetWriter, rows: SourceRows, plan: _Plan, *, files: Path, out_root: Path
) -> ImportResult:
    tally = writer.tally
    return ImportResult(
        **attributes_of(tally, "rows", "train_rows", "val_rows", "rejected_count", "text_bytes"),
        kind=plan.kind.value,
        mapping=dict(plan.mapping),
        rejected=tuple(tally.rejected),
        rejected_reasons=tuple(sorted(tally.reasons.values(), key=lambda one: -one["rows"])),
        content_hash=writer.content_hash,
        folder=str(out_root / writer.content_hash[:16]),
        bytes=sum(file.stat().st_size for file in files.iterdir()),
        columns=tuple(plan.columns),
        unigram_byte_entropy_bits=tally.byte_entropy_bits(),
        reason=plan.reason,
        **({"filtered_rows": dict(tally.dropped)} if tally.dropped else {}),
        files=len(rows.listing.members),
        ignored=tuple(asdict(item) for item in rows.ignored),
        resumed=work.resumed,
        dropped_media=plan.dropped_media,
    )


class _Work:
    """Reads all rows of the source into parts."""

    def __init__(
        self,
        rows: SourceRows,
        parser: Parser | ShardParser,
        splitter: Splitter,
        *,
        filters: RowFilters,
        folder: Path,
        header: str,
        keep_good: bool,
        part_s: float,
        reporter: Reporter,
    ) -> None:
        self._rows, self._parser, self._splitter, self._reporter = rows, parser, splitter, reporter
        self._filters = filters
        self._folder, self._header, self._keep_good, self._part_s = folder, header, keep_good, part_s
        self.state = State.load(folder)
        self.resumed = self.state.parts > 0
        self._writer = self._open_part()

    def _open_part(self) -> DatasetWriter:
        self._part_began = time.monotonic()
        self._part = part_folder(self._folder, self.state.parts)
        writer = DatasetWriter(self._part, kind=self._parser.kind, tally=self.state.tally)
        writer.note(self._header)
        return writer

    def run(self) -> DatasetWriter:
        """Read all rows; return the closed writer of the last part. Raises InvalidInput, JobFailed."""
        self._began = self._reported = time.monotonic()
        start, skip = self.state.mark, self.state.rows_done
        if self.resumed:
            self._splitter.is_small = False
            self._reporter.log(f"Resuming after {self.state.tally.rows:,} rows of an earlier attempt.")
        before = start
        self._from: int | None = None
        blocks = self._rows.blocks(start, columns=() if self._parser.keeps_records else tuple(self._parser.mapping))
        try:
            for parsed, divided in _divided(blocks, self._rows, self._parser, self._splitter, self._filters):
                done = min(skip, len(parsed.keys))
                skip -= done
                if parsed.bad and not self._keep_good:
                    raise bad_rows(self._rows.name, parsed.bad)
                self._take(divided, done=done, before=before)
                for bad in parsed.bad:
                    self._writer.reject(bad)
                dropped = self._writer.tally.dropped
                for reason, count in parsed.dropped.items():
                    dropped[reason] = dropped.get(reason, 0) + count
                before = parsed.block.after
                self._report(parsed.block.position)
            self._splitter.finish(self._writer)
        finally:
            self._writer.close()
        self._reporter.progress(self._rows.size, self._rows.size, unit="byte", message="all rows read")
        return self._writer

    def _take(self, rows: DividedRows, *, done: int, before: SourcePosition) -> None:
        """Write a block's rows; close the part at the end of a leaf, if it is due."""
        end = len(rows.keys)
        if not end:
            return
        if not self._splitter.is_small and time.monotonic() - self._part_began > self._part_s:
            stop = done + self._writer.leaf_room(rows.keys.part(done, end))
            self._write(rows, done, stop)
            done = stop
            if self._writer.is_between_leaves:
                self._writer.close()
                sync_all(self._part)
                self.state = State(self.state.parts + 1, self._writer.tally, before, stop)
                self.state.save(self._folder)
                self._writer = self._open_part()
        self._write(rows, done, end)

    def _write(self, rows: DividedRows, start: int, stop: int) -> None:
        if (start, stop) != (0, len(rows.keys)):
            rows = self._splitter.divide(
                rows.table.slice(start, stop - start), rows.keys.part(start, stop), side=rows.side
            )
        if len(rows.keys):
            self._splitter.take(rows, self._writer)

    def _report(self, position: int) -> None:
        """Report progress and rate twice a second. Raises JobFailed on a stop request."""
        now = time.monotonic()
        if self._from is None:
            self._from = position
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        rate = (position - self._from) / (now - self._began)
        message = f"{self._writer.tally.rows:,} rows read"
        self._reporter.progress(position, self._rows.size, unit="byte", rate=rate or None, message=message)
        if self._reporter.should_stop():
            resumable = "Finished rows are kept for a day: import the same source again to resume."
            raise JobFailed(
                "The import was stopped on request.",
                remedy=resumable if self.state.parts else "Nothing was kept.",
            )


def _divided(
    blocks: Iterator[RowBlock], rows: SourceRows, parser: Parser | ShardParser, splitter: Splitter, filters: RowFilters
) -> Iterator[tuple[Parsed, DividedRows]]:
    """Parse and split blocks in a thread, a few ahead; yield them in order. If it falls behind, this thread helps."""

    def divide(block: RowBlock) -> tuple[Parsed, DividedRows]:
        parsed = filters.apply(parser.parse(block))
        rows.reuse(block.data)
        return parsed, splitter.divide(parsed.table, parsed.keys, side=block.side)

    waiting: deque[Future[tuple[Parsed, DividedRows]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="parse") as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(divide, block))
                if len(waiting) > BLOCKS_AHEAD:
                    if not waiting[0].done() and waiting[-1].cancel():
                        waiting[-1] = Future()
                        waiting[-1].set_result(divide(block))
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decide(
    sample: list[dict[str, object]], *, kind: DatasetKind | None, mapping: Mapping[str, str] | None
) -> tuple[DatasetKind, dict[str, str], str]:
    if mapping:
        final = kind or recognise(sample).kind
        check_mapping(final, mapping)
        return final, dict(mapping), "columns as chosen"
    recognition = recognise(sample, kind=kind)
    return recognition.kind, recognition.mapping, recognition.reason


def _summary(result: ImportResult, *, fresh: bool) -> str:
    known = "" if fresh else " The same content already exists."
    return (
        f"{result.rows:,} rows: {result.train_rows:,} for training, {result.val_rows:,} for validation, "
        f"{result.rejected_count:,} rejected.{known}"
    )
