"""Dataset pages of every kind, and the name that an import proposes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.bootstrap import get_context
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.records import record_text
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import get_past_import, import_dataset
from backend.services.data.sources import ImportSource
from tests.support.data.dataset_world import done, queue_import
from tests.support.opening import assert_sound, open_page, words
from tests.support.scenario import Scenario


@pytest.mark.parametrize("kind", list(DatasetKind))
def test_a_dataset_of_every_kind_opens_and_leads_on(site: Context, scenario: Scenario, kind: DatasetKind) -> None:
    """The page of an imported IFEval said "Something went wrong": its rows are kept as they are, and no next step was
    known for them.
    """
    reference = scenario.benchmark(
        f"set {kind}", [{"record": record_text({"text": "a"}), "text": "a", "prompt": "a"}], kind=kind.value
    )
    identity = resolve_version(site, reference).dataset_id
    app = open_page("build/datasets.py", dataset=identity)
    assert_sound(app)
    assert app.get("page_link")


def test_rows_that_are_lost_are_said_before_and_after_the_import(site: Context) -> None:
    """Of 50 rows 31 were lost, which stood in a tab that no one opens."""
    rows = [{"prompt": "?", "completion": "an answer"}] * 30 + [{"prompt": "?", "completion": ""}] * 5
    refused = done(site, queue_import(site, "lossy", rows, max_rejected=0.01))
    app = open_page("build/datasets.py", dataset=refused.dataset_id)
    assert not app.error
    told = app.warning[0].value.replace("\\", "")
    assert "Not imported yet." in told
    assert "5 of 35 rows (14.3 %) of 'lossy.json' can't be used. 5 rows: `completion` is empty (first: row 31)" in told
    app.button(key=f"keep_{refused.id}").click().run()
    assert not app.exception
    version = done(site, resolve_version(site, "lossy", ready=False))
    assert (version.rows, version.rejected_rows) == (30, 5)
    app = open_page("build/datasets.py", dataset=version.dataset_id)
    assert_sound(app)
    assert "**5 of 35 rows (14.3 %) were rejected**" in app.warning[0].value.replace("\\", "")


def test_images_that_no_dataset_keeps_are_named_before_and_after_the_import(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A mill."}]
    (tmp_path / "mllm_demo.json").write_text(json.dumps([{"messages": messages, "images": ["1.jpg"]}] * 6))
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    app = open_page("build/datasets.py", **{"import": "1"})
    app.segmented_control(key="import_way").set_value("From the data folder").run()
    app.selectbox(key="import_entry__").select("mllm_demo.json").run()
    assert_sound(app)
    lost = "Left out: 6 rows with `images`. Datasets hold text alone; marks such as `<image>` stay in the text."
    assert app.warning[0].value.replace("\\", "") == f"{lost} Counted in the first rows."
    app.button(key="import_go").click().run()
    version = done(site, resolve_version(get_context(), "mllm_demo", ready=False))
    app = open_page("build/datasets.py", dataset=version.dataset_id)
    assert_sound(app)
    assert app.warning[0].value.replace("\\", "") == lost


def test_the_form_asks_before_it_loses_more_than_a_few_rows(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "few.jsonl").write_text('{"prompt": "?", "completion": "yes"}\n' * 3)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    app = open_page("build/datasets.py", **{"import": "1"})
    app.segmented_control(key="import_way").set_value("From the data folder").run()
    app.selectbox(key="import_entry__").select("few.jsonl").run()
    assert_sound(app)
    assert next(toggle.value for toggle in app.toggle if toggle.label == "Skip invalid rows")
    assert next(field.value for field in app.number_input if field.label == "Invalid rows, at most (%)") == 1
    app.button(key="import_go").click().run()
    past = get_past_import(get_context(), resolve_version(get_context(), "few", ready=False).id, person=LOCAL)
    assert (past.options.keep_good, past.options.max_rejected) == (True, 0.01)


def test_a_repeated_import_says_that_its_columns_are_the_earlier_ones(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with other columns took its place, and those that both have were used as before without a word."""
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "Who?", "reply": "Mira."}\n' * 3)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    mapping = {"question": "prompt", "reply": "completion"}
    options = ImportOptions(kind=DatasetKind.INSTRUCTION, mapping=mapping)
    version = done(
        site, import_dataset(get_context(), name="asked", source=ImportSource(path=file), options=options, person=LOCAL)
    )
    app = open_page("build/datasets.py", **{"import": "1"}, again=version.id)
    assert_sound(app)
    assert "Kind and columns are those of the earlier import." in words(app)
    assert not app.warning
    file.write_text('{"question": "Who?", "answer": "Mira."}\n' * 3)
    app = open_page("build/datasets.py", **{"import": "1"}, again=version.id)
    assert app.warning[0].value == ("The first rows lack `reply`, which the earlier import used\\. Check the columns.")


def test_a_file_called_test_takes_the_name_of_its_folder(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GSM8K's test.jsonl became a dataset that was named "test"."""
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "How many?", "answer": "Two. #### 2"}\n' * 3)
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    app = open_page("build/datasets.py", **{"import": "1"})
    app.segmented_control(key="import_way").set_value("From the data folder").run()
    app.session_state["import_folder"] = "gsm8k"
    app.run()
    app.selectbox(key="import_entry_gsm8k_").select_index(0).run()
    assert_sound(app)
    assert next(field.value for field in app.text_input if field.label == "Name") == "gsm8k-test"
