"""Bases from the Hub: pinned, downloaded once, resumed after a break, and refused within seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, snapshot_download

from backend.domain.jobs.events import Event, ProgressEvent
from backend.errors import InvalidInput, JobFailed, NotFound, RoundhouseError, Unavailable
from backend.infra.hub.bases import look_up_base
from jobs.modeling import hub as fetching
from jobs.modeling.checkpoints import read_card
from jobs.modeling.entries.base import run
from tests.support.data.data_reporter import RememberingReporter
from tests.support.data.hub_server import HubServer, commit_id, run_hub
from tests.support.jobs import make_spec
from tests.support.networks.base_folders import SHAPE, edit_json, save_base, save_gguf

WIDE = SHAPE.model_copy(update={"width": 128, "feed_forward": 512})
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of a repository with code and pickles beside the weights; `v1` is sharded."""
    root = tmp_path_factory.mktemp("made")
    save_base(root / "llama", shape=WIDE)
    (root / "llama/modeling_evil.py").write_text("raise SystemExit")
    (root / "llama/pytorch_model.bin").write_bytes(b"\x80\x04.")
    (root / "llama/LICENSE").write_text("Do as you like.")
    save_base(root / "llama@v1", shard="60KB", card="# No front matter\n")
    return root


@pytest.fixture
def hub(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that serves them, configured for this process without a key."""
    shutil.copytree(made, tmp_path / "hub/models/tiny")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(fetching, "PAUSES_S", (0.0, 0.0))
    with run_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def add(
    root: Path, reporter: Any = None, *, hub: str = "tiny/llama", job: str = "job", **payload: Any
) -> dict[str, Any]:
    """Run the job that adds a base from the Hub."""
    spec = make_spec("add_base", {"hub": hub, "out": f"bases/{job}", **payload}, root=root, job=job)
    return run(spec, reporter or RememberingReporter()).dump()


def repo(hub: HubServer) -> Path:
    return hub.root / "models/tiny/llama"


def weight(hub: HubServer) -> int:
    return (repo(hub) / WEIGHTS).stat().st_size


def test_a_base_is_pinned_to_its_commit_and_only_data_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    reporter = RememberingReporter()
    result = add(tmp_path, reporter)
    assert (result["revision"], result["requested_revision"]) == (commit_id(repo(hub)), "main")
    assert (result["family"], result["licence"]) == ("llama", "mill (https://mill.example/terms)")
    out = tmp_path / result["folder"]
    assert (out / WEIGHTS).read_bytes() == (repo(hub) / WEIGHTS).read_bytes()
    assert read_card(out)["revision"] == result["revision"]
    assert (out / "LICENSE").is_file()
    assert not [request for request in hub.requests if request.endswith((".py", ".bin"))]
    fetched = [seen for seen in reporter.progressed if seen[1] > 1]
    assert fetched[0][0] <= fetched[-1][0]
    assert fetched[-1][1] >= weight(hub)
    assert not list((tmp_path / "fetched").glob("*/*")), "downloaded files were moved, not copied"


def test_another_revision_and_its_shards(hub: HubServer, tmp_path: Path) -> None:
    result = add(tmp_path, revision="v1")
    assert (result["revision"], result["requested_revision"]) == (commit_id(hub.root / "models/tiny/llama@v1"), "v1")
    assert (result["licence"], result["context"]) == ("not stated", SHAPE.context)
    assert len(list((tmp_path / result["folder"]).glob("model-*.safetensors"))) > 1
    looked = look_up_base("tiny/llama", revision=result["revision"])
    assert (looked.facts.family, looked.facts.parameters) == ("llama", None)
    assert look_up_base("tiny/llama").facts.parameters == add(tmp_path, job="main")["parameters"]


def test_a_gguf_file_of_a_repository_is_converted(hub: HubServer, tmp_path: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    folder = hub.root / "models/tiny/packed"
    folder.mkdir()
    save_gguf(folder / "packed-Q8.gguf", words=["<|end|>", *sorted(ByteLevel.alphabet())])
    result = add(tmp_path, hub="tiny/packed")
    assert (result["family"], result["context"], result["licence"]) == ("llama", 64, "apache-2.0")
    assert result["revision"] == commit_id(folder)
    assert (result["quantisation"], result["bits_per_weight"]) == ("F32", 32.0)
    assert (tmp_path / result["folder"] / "model.gguf").read_bytes() == (folder / "packed-Q8.gguf").read_bytes()
    shutil.copy(folder / "packed-Q8.gguf", folder / "packed-Q4.gguf")
    with pytest.raises(InvalidInput, match="2 GGUF files"):
        add(tmp_path, hub="tiny/packed", job="two")


def test_an_interrupted_download_resumes_where_it_broke(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts[WEIGHTS] = [8, 9999, 100_000, 0, 70_000]  # the first request reads the header's length
    add(tmp_path)
    assert hub.cuts[WEIGHTS] == []
    header = hub.sent[WEIGHTS] - weight(hub)
    assert 0 < header < 10_000, "every byte of the weights was sent once; the header was read before"


def test_a_killed_worker_does_not_download_the_same_bytes_again(hub: HubServer, tmp_path: Path) -> None:
    class Dying(RememberingReporter):
        def emit(self, event: Event) -> None:
            if isinstance(event, ProgressEvent) and event.done > 150_000:
                os.kill(os.getpid(), signal.SIGKILL)

    hub.cuts[WEIGHTS] = [8, 10_000, 200_000]
    child = os.fork()
    if child == 0:
        add(tmp_path, Dying())
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert sum(path.stat().st_size for path in (tmp_path / "fetched").glob("*/*.part")) > 190_000
    before = dict(hub.sent)
    reporter = RememberingReporter()
    add(tmp_path, reporter)
    assert any("were downloaded by an earlier attempt" in line for line in reporter.lines)
    assert hub.sent[WEIGHTS] - before[WEIGHTS] < weight(hub) - 180_000
    assert hub.sent["tokenizer.json"] == before["tokenizer.json"], "complete files are not requested again"


def test_bytes_of_a_failed_download_are_reused_by_the_next(hub: HubServer, tmp_path: Path) -> None:
    hub.cuts[WEIGHTS] = [8, 10_000, 120_000, 0, 0, 0, 0]
    with pytest.raises(Unavailable, match="can't be reached"):
        add(tmp_path)
    hub.cuts.clear()
    (part,) = (tmp_path / "fetched").glob("*/*.part")
    part.write_bytes(part.read_bytes()[:-4] + b"evil")
    with pytest.raises(Unavailable, match="SHA-256 differs"):
        add(tmp_path, job="again")
    assert add(tmp_path, job="third")["family"] == "llama"


def test_a_stopped_download_keeps_no_files(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="stopped on request"):
        add(tmp_path, RememberingReporter(stop_after=2))
    assert not list((tmp_path / "fetched").glob("*/*"))
    assert not (tmp_path / "bases/job").exists()


def test_a_full_disk_is_reported_before_weights_are_downloaded(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"the disk has .* free"):
        # free space changes while other programs use the disk
        add(tmp_path, keep_free_bytes=shutil.disk_usage(tmp_path).total)
    assert hub.sent[WEIGHTS] < 10_000


def spoil(hub: HubServer, how: str) -> None:
    """Make a repository that can't be a base, in one of several ways."""
    folder = repo(hub)
    (folder / "pytorch_model.bin").unlink()
    if how == "pickled":
        (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    elif how == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif how == "code":
        edit_json(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
    elif how == "quantised":
        edit_json(folder / "config.json", quantization_config={"bits": 4})
    elif how == "family":
        edit_json(folder / "config.json", model_type="perceptron9000")
    elif how == "damaged":
        (folder / "config.json").write_text("{")
    elif how == "cut":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how in ("climbing", "missing shard"):
        (folder / WEIGHTS).unlink()
        name = "../../secret.safetensors" if how == "climbing" else "model-00002-of-00002.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    else:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "README.md").write_text("# Nothing")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickled", r"pytorch_model\.bin, a format that can run code"),
        ("adapter", "is an adapter"),
        ("code", "wants to run its own code"),
        ("quantised", "quantised"),
        ("family", "'perceptron9000'"),
        ("damaged", "not JSON"),
        ("cut", "cut short"),
        ("no tokenizer", "no tokenizer"),
        ("climbing", "not a file of the folder"),
        ("missing shard", "lacks 1 of its 1 weight files"),
        ("nothing", "holds no base"),
    ],
)
def test_an_unusable_base_is_refused_before_its_weights_are_downloaded(
    hub: HubServer, tmp_path: Path, how: str, words: str
) -> None:
    spoil(hub, how)
    with pytest.raises(InvalidInput, match=words):
        add(tmp_path)
    assert sum(hub.sent.values()) < 20_000
    with pytest.raises(InvalidInput, match=words):
        look_up_base("tiny/llama")


def test_a_gated_repository_is_refused_with_the_remedy(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="no revision 'v9'"):
        look_up_base("tiny/llama", revision="v9")
    with pytest.raises(NotFound, match="no checkpoint tiny/none"):
        look_up_base("tiny/none")
    hub.gated.add("tiny/llama")
    with pytest.raises(Unavailable, match="gated") as refused:
        look_up_base("tiny/llama")
    assert "HF_TOKEN" in refused.value.remedy
    hub.gated.clear()
    hub.private.add("tiny/llama")
    with pytest.raises(NotFound, match="or it is private"):
        add(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secretkey")
    reporter = RememberingReporter()
    result = add(tmp_path, reporter)
    assert "Bearer hf_secretkey" in hub.keys
    assert "secretkey" not in json.dumps([*reporter.lines, result, read_card(tmp_path / result["folder"])], default=str)


def test_the_local_cache_is_used_if_the_hub_is_unreachable(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot_download("tiny/llama", endpoint=hub.url, ignore_patterns=["*.bin", "*.py"])
    hub.status = 503
    reporter = RememberingReporter()
    result = add(tmp_path, reporter)
    assert (result["revision"], result["licence"]) == (commit_id(repo(hub)), "mill (https://mill.example/terms)")
    assert any("answers 503" in line and "cache" in line for line in reporter.lines)
    assert list((tmp_path / "cache").rglob(WEIGHTS)), "the cache is unchanged"
    with pytest.raises(Unavailable):
        add(tmp_path, revision="v1", job="other")


def test_an_unreachable_hub_is_reported_at_once(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = 503
    with pytest.raises(Unavailable, match="answers 503"):
        add(tmp_path)
    num_requests = len(hub.requests)
    assert num_requests == 1, "no retries"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(RoundhouseError, match="can't be reached") as away:
            add(tmp_path)
    assert "add the folder" in str(away.value)
