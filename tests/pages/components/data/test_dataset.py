"""Dataset pages of every kind, and the name that an import proposes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.bootstrap import get_context
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.records import record_text
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from tests.support.evaluation_world import add_benchmark
from tests.support.opening import assert_sound, open_page


@pytest.mark.parametrize("kind", list(DatasetKind))
def test_a_dataset_of_every_kind_opens_and_leads_on(site: Context, kind: DatasetKind) -> None:
    """The page of an imported IFEval said "Something went wrong": its rows are kept as they are, and no next step was known for them."""
    reference = add_benchmark(site, f"set {kind}", [{"record": record_text({"text": "a"}), "text": "a", "prompt": "a"}], kind=kind.value)
    identity = resolve_version(site, reference).dataset_id
    app = open_page("build/datasets.py", dataset=identity)
    assert_sound(app)
    assert app.get("page_link")


def test_a_file_called_test_takes_the_name_of_its_folder(site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
