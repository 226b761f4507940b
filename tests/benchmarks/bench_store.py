"""What a store of artifacts costs: CPU time and seconds to send and to bring a folder of 1 GB, the same again, and the
tokens per second of a run without a store, with one, and with one that keeps the tokens of its dataset.

python -m tests.benchmarks.bench_store [PAIRS_OF_RUNS [STEPS [STEPS_BETWEEN_CHECKPOINTS]]]. With `weed` on the PATH the
store is SeaweedFS, else a folder.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from backend.bootstrap import build_context
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data import token_folders
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.splits import SPLITS
from backend.domain.jobs.states import Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.infra.store.folders import FolderStore
from backend.infra.store.objects import open_objects
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets
from backend.services.data.imports import import_dataset
from backend.services.data.sources import ImportSource, save_upload
from backend.services.data.views import VersionView
from backend.services.jobs.claims import claim_job
from backend.services.jobs.jobs import get_job
from backend.services.tokenizers.tokenizers import list_tokenizers, train_tokenizer
from backend.services.training.runs import launch_run
from jobs.batches.pretrain import TEXT
from jobs.batches.token_making import TokenSource
from jobs.modeling.chat import teach_template
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import SilentReporter
from jobs.runner import execute
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
from tests.support.stores import Store, folder_store, weed_binary, weed_store

SHAPE = ArchitectureConfig(
    num_layers=4, width=256, num_heads=4, num_kv_heads=4, context=128, vocab_size=320, feed_forward=1024
)
TOKENS_PER_STEP = 4 * 128
ROWS, STREAM_GB = 14_000, 0.02  # the first epoch takes its tokens in parts of 17 MB, which fit
FOLDER, FILES, FILE_BYTES = "bases/large", 4, 250_000_000


def say(what: str, act: Callable[[], object]) -> None:
    """Do something; print its seconds and this process's CPU time."""
    cpu, clock = time.process_time(), time.monotonic()
    act()
    print(f"{what}: {time.monotonic() - clock:.2f} s, {time.process_time() - cpu:.2f} s of CPU", flush=True)


def measure_folders(folder: Path, store: Store) -> None:
    """Print what a folder of 1 GB costs."""
    machines = []
    for name in ("sender", "reader"):
        (folder / name).mkdir()
        machines.append(FolderStore(folder / name, open_objects(store.url, store.keys), limit_bytes=10**12))
    sender, reader = machines
    (sender.root / FOLDER).mkdir(parents=True)
    for number in range(FILES):
        (sender.root / FOLDER / f"model-{number}.safetensors").write_bytes(os.urandom(FILE_BYTES))
    say("send 1 GB", lambda: sender.send(FOLDER))
    say("send it again", lambda: sender.send(FOLDER))
    say("bring 1 GB", lambda: reader.bring(FOLDER))
    read_so_far = reader.objects.bytes_read
    say("bring it again", lambda: reader.bring(FOLDER))
    print(f"bytes read the second time: {reader.objects.bytes_read - read_so_far}", flush=True)


def work(ctx: Context, job_id: str | None) -> None:
    """Do a job as a worker does."""
    claim = claim_job(ctx, str(job_id), owner="bench#1", host="bench")
    assert claim is not None
    execute(ctx, claim)
    assert get_job(ctx, str(job_id)).status is Status.FINISHED, get_job(ctx, str(job_id)).error


def seconds_of_steps(ctx: Context, name: str, steps: int, checkpoint_every: int, *, pages: Context) -> float:
    """Train a run; return the seconds from its first to its last step, checkpoints included."""
    config = tiny_run(
        name,
        architecture=SHAPE,
        context=128,
        max_steps=steps,
        checkpoint_every=checkpoint_every,
        eval_every=steps,
        keep_last=2,
        micro_batch=4,
    )
    run = launch_run(pages, config, person=LOCAL)  # a launch copies the dataset to its own machine
    work(ctx, run.job_id)
    (events,) = ctx.artifacts.job_folder(str(run.job_id)).glob("attempt-*/events.jsonl")
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    times = [line["time"] for line in lines if line["type"] == "metrics"]
    return float(times[-1] - times[0])


def make_tokens_of(ctx: Context, version: VersionView) -> list[str]:
    """Make the tokens of a dataset as a run would; return their folders."""
    (tokenizer,) = list_tokenizers(ctx)
    loaded = load_tokenizer(ctx.artifacts.path(str(tokenizer.folder)))
    teach_template(loaded, chats=False)
    root = ctx.artifacts.folder(token_folders.FOLDER)
    source = TokenSource(ctx.artifacts.path(str(version.folder)), loaded, root, SilentReporter())
    for split in SPLITS:
        source.open(TEXT, split)
    return [f"{token_folders.FOLDER}/{source.split_folder(TEXT, split).path.name}" for split in SPLITS]


def measure_runs(folder: Path, store: Store, pairs: int, steps: int, checkpoint_every: int) -> None:
    """Print the tokens per second of the same steps in turn: without a store, with one, and with one that keeps the
    dataset's tokens.
    """
    values: dict[str, Any] = {"artifacts_key": store.keys.key, "artifacts_secret": store.keys.secret}
    values |= {"artifacts_url": store.url, "artifacts_endpoint": store.keys.endpoint, "secret_key": "s" * 40}
    shared = build_context(make_settings(folder / "shared", artifacts_stream_gb=0, **values))
    url = shared.db.engine.url.render_as_string(hide_password=False)
    streamed = build_context(
        make_settings(folder / "streamed", database_url=url, artifacts_stream_gb=STREAM_GB, **values), migrate=False
    )
    plain = build_context(make_settings(folder / "plain"))
    lines = folder / "lines.jsonl"
    draw = random.Random(1)
    lines.write_text("".join(json.dumps({"text": draw.randbytes(500).hex()}) + "\n" for _ in range(ROWS)))
    for ctx in (plain, shared):
        with lines.open("rb") as opened:
            upload = save_upload(ctx, opened, name="lines.jsonl", person=LOCAL)
        work(
            ctx,
            import_dataset(
                ctx, name="lines", source=ImportSource(upload=upload), options=ImportOptions(kind="text"), person=LOCAL
            ).job_id,
        )
        config = TokenizerConfig(kind="byte")
        work(ctx, train_tokenizer(ctx, name="bytes", dataset="lines", config=config, person=LOCAL).job_id)
        tokens = make_tokens_of(ctx, list_datasets(ctx)[0].versions[0])
        for each in tokens:
            ctx.artifacts.send(each)
    shared.artifacts.finish_sending(within_s=600, is_last=True)
    machines = {"no store": plain, "store": shared, "streamed": streamed}
    rates: dict[str, list[float]] = {name: [] for name in machines}
    for number in range(pairs + 1):
        for name in [*machines][number % 3 :] + [*machines][: number % 3]:
            pages = plain if name == "no store" else shared
            seconds = seconds_of_steps(machines[name], f"{name} {number}", steps, checkpoint_every, pages=pages)
            if number:  # the first round warms up
                rates[name].append((steps - 1) * TOKENS_PER_STEP / seconds)
        print({name: round(each[-1]) for name, each in rates.items() if each}, flush=True)
    assert any(streamed.artifacts.root.glob(".store/blocks/*/*")), "nothing was streamed"
    for one, other in (("store", "no store"), ("streamed", "store"), ("streamed", "no store")):
        ratios = sorted(a / b for a, b in zip(rates[one], rates[other], strict=True))
        print(f"tokens/s, {one} over {other}: median {median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


def main() -> None:
    """Measure folders, or with a number of pairs runs, on the store that is here."""
    pairs, steps, checkpoint_every = [*map(int, sys.argv[1:]), *(0, 200, 100)[len(sys.argv) - 1 :]]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        has_weed = weed_binary() is not None
        store = stack.enter_context(weed_store(folder / "weed")) if has_weed else folder_store(folder / "store")
        if pairs:
            measure_runs(folder, store, pairs, steps, checkpoint_every)
        else:
            measure_folders(folder, store)


if __name__ == "__main__":
    main()
