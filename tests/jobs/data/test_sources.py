"""Datasets from elsewhere: a Hub on loopback, S3 as moto plays it; fetched in pieces, broken off, gone on with, refused
in words.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import parquet

from backend.errors import InvalidInput, JobFailed, NotFound, RoundhouseError, Unavailable
from jobs.data.run import run
from jobs.modeling.dataset_files import num_rows, read_meta
from tests.support.data.data_reporter import RememberingReporter
from tests.support.data.hub_server import HubServer, commit_id, run_hub
from tests.support.jobs import make_spec

ROOT = Path(__file__).parents[3]
# 3 MB, three chunks at least
LONG = "".join(json.dumps({"text": f"row {i} " + "word " * 200}) + "\n" for i in range(3000))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    tales = tmp_path / "hub/datasets/tiny/tales"
    for folder in (
        tales / "short",
        tales / "long",
        tmp_path / "hub/datasets/tiny/tales@old",
        tmp_path / "hub/datasets/tiny/script",
    ):
        folder.mkdir(parents=True)
    card = (
        "configs:\n- config_name: short\n  data_files:\n"
        "  - split: train\n    path: short/train*\n  - split: test\n    path: short/t*.parquet\n"
    )
    (tales / "README.md").write_text(
        f"---\nlicense: cc-by-4.0\n{card}- config_name: long\n  data_dir: long\n---\n# Tales\n"
    )
    (tales / "short/train.jsonl").write_text("".join(json.dumps({"text": f"tale {i}"}) + "\n" for i in range(40)))
    parquet.write_table(pyarrow.table({"text": [f"test {i}" for i in range(7)]}), tales / "short/t-0.parquet")
    (tales / "long/all.jsonl").write_text(LONG)
    (tales / "LICENSE.txt").write_text("Nobody trains on this.")
    (tmp_path / "hub/datasets/tiny/tales@old/all.csv").write_text("text\nan old tale\nanother\n")
    (tmp_path / "hub/datasets/tiny/script/load.py").write_text("raise SystemExit('code of a dataset was run')")
    with run_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="module")
def store() -> Iterator[ThreadedMotoServer]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(store: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    host, port = store.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-logs",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").create_bucket(Bucket="tales")
    yield made
    made.objects.all().delete()
    made.delete()


def fetch(home: Path, reporter: RememberingReporter | None = None, **payload: Any) -> dict[str, Any]:
    """Do an import job as a worker's child does."""
    (home / "data").mkdir(exist_ok=True)
    spec = make_spec("import_dataset", payload, root=home / "data")
    return run(spec, reporter or RememberingReporter()).dump()


def ask(**choice: str) -> dict[str, Any]:
    return {"hub": {"id": "tiny/tales", **choice}}


@pytest.mark.parametrize(
    ("choice", "rows"),
    [
        ({"config": "short"}, 40),
        ({"config": "short", "split": "test"}, 7),
        ({"revision": "old"}, 2),
    ],
    ids=["the split train by itself", "config and split", "revision"],
)
def test_a_split_of_the_hub_becomes_a_version(
    hub: HubServer, tmp_path: Path, choice: dict[str, str], rows: int
) -> None:
    result = fetch(tmp_path, **ask(**choice))
    assert (result["rows"], result["kind"]) == (rows, "text")
    folder = f"tiny/tales{'@old' if 'revision' in choice else ''}"
    assert result["commit"] == commit_id(hub.root / "datasets" / folder)
    assert result["revision"] == choice.get("revision", "main")
    assert num_rows(tmp_path / "data" / result["folder"], split="train") == result["train_rows"]
    assert not list((tmp_path / "data/fetched").glob("*/files")), "what was imported need not stay"


def test_a_broken_connection_costs_an_attempt_and_not_the_import(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts["long/all.jsonl"] = [300_000]
    reporter = RememberingReporter()
    assert fetch(tmp_path, reporter, **ask(config="long"))["rows"] == 3000
    assert any("Trying again" in line for line in reporter.lines)


def test_a_stopped_download_resumes_where_it_ended(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="stopped on request") as stopped:
        fetch(tmp_path, RememberingReporter(stop_after=1), **ask(config="long"))
    assert "kept for a day" in stopped.value.remedy
    (part,) = (tmp_path / "data/fetched").rglob("*.part")
    have = part.stat().st_size
    assert 0 < have < len(LONG)
    hub.requests.clear()
    reporter = RememberingReporter()
    result = fetch(tmp_path, reporter, **ask(config="long"))
    assert result["rows"] == 3000
    assert any(line.startswith(f"{have:,} of {len(LONG):,} bytes were downloaded before") for line in reporter.lines)
    assert (have, len(LONG)) in reporter.progressed


def test_a_server_without_ranges_is_supported(hub: HubServer, tmp_path: Path) -> None:
    hub.knows_ranges = False
    result = fetch(tmp_path, **ask(config="long"), val_fraction=0.0)
    assert (result["rows"], result["rejected_count"]) == (3000, 0)


def test_a_file_whose_name_is_not_text_is_left_out_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in (b"good.jsonl", b"caf\xe9.jsonl"):
        (folder / os.fsdecode(name)).write_text('{"text": "a"}\n')
    reporter = RememberingReporter()
    assert fetch(tmp_path, reporter, source=str(folder), val_fraction=0.0)["rows"] == 1
    assert "Left out caf\\udce9.jsonl: a name that is not UTF-8." in reporter.lines


def test_a_moved_branch_is_downloaded_again_and_never_mixed(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(JobFailed):
        fetch(tmp_path, RememberingReporter(stop_after=1), **ask(config="long"))
    path = hub.root / "datasets/tiny/tales/long/all.jsonl"
    path.write_text(LONG.replace("row ", "ROW "))
    result = fetch(tmp_path, **ask(config="long"))
    text = parquet.read_table(tmp_path / "data" / result["folder"] / "train.parquet").column("text")
    assert all(str(value).startswith("ROW ") for value in text)


def test_a_full_disk_is_reported_before_the_download(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="the disk has"):
        fetch(tmp_path, keep_free_bytes=2**60, **ask(config="long"))
    assert not list((tmp_path / "data/fetched").rglob("*.part"))


@pytest.mark.parametrize(
    ("hub_ask", "error", "words"),
    [
        ({"id": "tiny/none"}, NotFound, "The Hub has no dataset tiny/none"),
        ({"id": "tiny/tales"}, InvalidInput, "tiny/tales has 2 configs: short, long. Choose one."),
        ({"id": "tiny/tales", "config": "x"}, NotFound, r"has no config 'x' \(there are: short, long\)"),
        ({"id": "tiny/tales", "config": "short", "split": "dev"}, NotFound, r"has no split 'dev' \(there are: "),
        ({"id": "tiny/tales", "revision": "v9"}, NotFound, "has no revision 'v9'"),
        ({"id": "tiny/tales", "revision": "../x"}, InvalidInput, "is not a revision"),
        ({"id": "../etc"}, InvalidInput, "is not the id of a dataset"),
        ({"id": "tiny/script"}, InvalidInput, "holds no file that rows can be read from .*refs/convert/parquet"),
    ],
)
def test_a_missing_split_is_reported_with_the_existing_ones(
    hub: HubServer, tmp_path: Path, hub_ask: dict[str, str], error: type[RoundhouseError], words: str
) -> None:
    with pytest.raises(error, match=words):
        fetch(tmp_path, hub=hub_ask)


def test_a_gated_or_private_dataset_names_the_key(hub: HubServer, tmp_path: Path) -> None:
    hub.gated.add("tiny/tales")
    with pytest.raises(Unavailable, match=r"gated.*HF_TOKEN"):
        fetch(tmp_path, **ask(config="short"))


def test_an_unreachable_hub_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"The Hub at http://127\.0\.0\.1:1 can't be reached for tiny/tales"):
        fetch(tmp_path, **ask())


def test_a_hub_that_does_not_answer_times_out(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.delay_s = 3600.0
    monkeypatch.setattr("backend.infra.hub.datasets.ANSWER_S", 0.3)
    with pytest.raises(Unavailable, match="does not answer within"):
        fetch(tmp_path, **ask())


def test_offline_by_choice_is_named() -> None:
    program = "from backend.errors import Unavailable\nfrom backend.infra.hub.datasets import find_hub_dataset\n"
    program += "try:\n    find_hub_dataset('a/b')\nexcept Unavailable as error:\n    print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "a/b can't be fetched: HF_HUB_OFFLINE is set. Unset it, or import them from disk." in done.stdout, (
        done.stderr[-1000:]
    )


def test_a_folder_of_s3_becomes_one_version(bucket: Any, tmp_path: Path) -> None:
    for part in range(3):
        rows = "".join(json.dumps({"text": f"tale {part}.{i}"}) + "\n" for i in range(20))
        bucket.put_object(Key=f"stories/part-{part}.jsonl", Body=rows.encode())
    bucket.put_object(Key="stories/_SUCCESS", Body=b"")
    bucket.put_object(Key="stories/readme.txt", Body=b"about the stories")
    reporter = RememberingReporter()
    result = fetch(tmp_path, reporter, url="s3://tales/stories/", val_fraction=0.0)
    assert (result["rows"], result["rejected_count"]) == (60, 0)
    assert "a-secret" not in " ".join(reporter.lines) + json.dumps(read_meta(tmp_path / "data" / result["folder"]))


def test_an_object_that_changed_between_two_attempts_is_downloaded_again(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="long.jsonl", Body=LONG.encode())
    with pytest.raises(JobFailed):
        fetch(tmp_path, RememberingReporter(stop_after=1), url="s3://tales/long.jsonl")
    bucket.put_object(Key="long.jsonl", Body=LONG.replace("row ", "ROW ").encode())
    result = fetch(tmp_path, url="s3://tales/long.jsonl", val_fraction=0.0)
    text = parquet.read_table(tmp_path / "data" / result["folder"] / "train.parquet").column("text")
    assert all(str(value).startswith("ROW ") for value in text)


@pytest.mark.parametrize(
    ("url", "variables", "error", "words"),
    [
        ("s3://tales/none.jsonl", {}, NotFound, "There is nothing at s3://tales/none.jsonl"),
        ("s3://no-such-bucket/a.jsonl", {}, NotFound, "There is nothing at s3://no-such-bucket/a.jsonl"),
        ("s3://tales/picture.png", {}, InvalidInput, "has no known ending"),
        ("https://example.org/a.jsonl", {}, InvalidInput, "not an address of S3 or Google Cloud Storage"),
        (
            "s3://tales/a.jsonl",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            Unavailable,
            "Could not connect to the endpoint.*AWS_ENDPOINT_URL",
        ),
        (
            "s3://tales/a.jsonl",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            Unavailable,
            "refuses.*Set AWS_ACCESS_KEY_ID",
        ),
    ],
    ids=["no object", "no bucket", "no rows", "another scheme", "no store", "no keys"],
)
def test_a_refusal_of_a_store_is_reported(
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str],
    error: type[RoundhouseError],
    words: str,
) -> None:
    bucket.put_object(Key="picture.png", Body=b"x")
    bucket.put_object(Key="a.jsonl", Body=b'{"text": "a"}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(error, match=words):
        fetch(tmp_path, url=url)


def test_a_library_that_is_not_installed_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(Unavailable, match=r"needs the library gcsfs.*pip install 'roundhouse.cloud.'"):
        fetch(tmp_path, url="gs://tales/a.jsonl")
