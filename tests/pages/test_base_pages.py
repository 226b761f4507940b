"""Adding a base on the Checkpoints page: what each source would be, what is refused, the download, and what is shown of
it afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.infra.checkpoints.candidates import BaseFacts
from backend.services.checkpoints.bases import BasePreview, add_base
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_job, renew
from backend.services.jobs.jobs import get_job
from tests.support.data.hub_server import HubServer, commit_id, run_hub
from tests.support.job_work import do_job
from tests.support.networks.base_folders import save_base
from tests.support.opening import EVIL, assert_sound, cells, open_page, words
from tests.support.settings import named_installation


@pytest.fixture
def site(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """An installation that pages find by the environment, with a MODEL_PATH of one good folder and one spoiled one."""
    models = tmp_path / "models"
    save_base(models / "good")
    save_base(models / "spoiled")
    (models / "spoiled/config.json").write_text(json.dumps({"model_type": EVIL}))
    with named_installation(monkeypatch, home, MODEL_PATH=str(models)) as context:
        yield context


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with one repository."""
    save_base(tmp_path / "hub/models/tiny/llama")
    with run_hub(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def figures(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def test_candidates_under_model_path_are_described_and_added(site: Context) -> None:
    app = open_page("build/checkpoints.py", add="1")
    assert_sound(app)
    assert app.button(key="base_add").disabled
    box = app.selectbox(key="base_offer")
    assert [option.split(" · ")[:2] for option in box.options] == [["good", "llama"]]
    assert EVIL in cells(app)[0]["Why"]
    box.select_index(0).run()
    assert_sound(app)
    assert (figures(app)["Family"], figures(app)["Licence"]) == ("llama", "mill")
    assert "in 32-bit (CPU)" in words(app)
    app.button(key="base_add").click().run()
    assert_sound(app)
    (base,) = list_checkpoints(site)
    assert base.name == "good"
    do_job(site, base.job_id)
    shown = open_page("build/checkpoints.py", checkpoint=base.id)
    assert_sound(shown)
    assert "Licence: mill" in words(shown)


def test_an_invalid_path_is_refused_at_its_field(site: Context, tmp_path: Path) -> None:
    app = open_page("build/checkpoints.py", add="1")
    app.segmented_control(key="base_way").select("Folder or .gguf file").run()
    app.text_input(key="base_path").input(str(tmp_path / "models/spoiled")).run()
    assert not app.exception
    assert "no causal language model of the family" in app.error[0].value
    assert app.button(key="base_add").label == "Correct the path on the server"
    assert "![x](http" not in app.error[0].value, "names are escaped"
    assert app.button(key="base_add").disabled
    app.text_input(key="base_path").input("").run()
    assert app.button(key="base_add").label == "Enter the path on the server"
    app.text_input(key="base_path").input(str(tmp_path / "models/good")).run()
    assert_sound(app)
    assert not app.button(key="base_add").disabled
    (name,) = [field for field in app.text_input if str(field.key).startswith("base_name_")]
    name.input("").run()
    assert app.button(key="base_add").label == "Enter the name"


def test_the_disk_that_a_base_will_take_is_known_before(site: Context, tmp_path: Path) -> None:
    folder = BaseFacts("folder", "llama", 1_000, 2_000, None)
    gguf = BaseFacts("gguf", "llama", 100_000_000, 60_000_000, None)
    assert BasePreview("x", folder).disk_bytes == 2_000
    assert BasePreview("x", gguf).disk_bytes == 460_000_000, "the file and its weights in float32"
    assert BasePreview("x", replace(gguf, parameters=10**9)).disk_bytes == 2_060_000_000, "in 16 bits"
    assert BasePreview("x", replace(gguf, parameters=None)).disk_bytes is None
    app = open_page("build/checkpoints.py", add="1")
    app.selectbox(key="base_offer").select_index(0).run()
    assert "Disk: about" in words(app)


def test_a_hub_id_is_looked_up_pinned_downloaded_and_shown(site: Context, hub: HubServer) -> None:
    commit = commit_id(hub.root / "models/tiny/llama")
    app = open_page("build/checkpoints.py", add="1")
    app.segmented_control(key="base_way").select("From the Hugging Face Hub").run()
    app.text_input(key="base_hub").input("tiny/none").run()
    app.button(key="base_look").click().run()
    assert "The Hub has no checkpoint" in app.error[0].value
    assert app.button(key="base_add").disabled
    app.text_input(key="base_hub").input("tiny/llama").run()
    assert_sound(app)
    app.button(key="base_look").click().run()
    assert_sound(app)
    assert (figures(app)["Family"], figures(app)["Licence"]) == ("llama", "mill")
    assert f"main is commit `{commit[:12]}`" in words(app)
    app.button(key="base_add").click().run()
    (base,) = list_checkpoints(site)
    do_job(site, base.job_id)
    shown = open_page("build/checkpoints.py", checkpoint=base.id)
    assert_sound(shown)
    assert f"tiny/llama, main at commit `{commit}`" in words(shown)


def test_a_download_shows_bytes_rate_and_time_left_and_can_be_stopped(site: Context) -> None:
    base = add_base(site, name="large", source="tiny/llama", person=LOCAL)
    claim = claim_job(site, str(base.job_id), owner="w", host="h")
    assert claim is not None
    progress = {"done": 1e9, "total": 4e9, "unit": "byte", "rate": 6e7, "message": "Fetching *model*.safetensors"}
    with site.db.write() as session:
        renew(session, site, claim, progress=progress)
    app = open_page("build/checkpoints.py", checkpoint=base.id)
    assert_sound(app)
    (bar,) = app.get("progress")
    assert bar.proto.value == 25
    text = bar.proto.text.replace("\\", "")
    assert text == "Fetching *model*.safetensors: 1.0 GB of 4.0 GB, 60.0 MB a second, about 50 s left"
    app.button(key=f"stop_{base.job_id}").click().run()
    assert get_job(site, str(base.job_id)).stop_request == "cancel"
