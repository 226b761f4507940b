"""The pages that build: datasets, tokenizers, architectures, checkpoints. Each is rendered empty and filled, and driven
once.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from backend.bootstrap import get_context
from backend.db.tables import Checkpoint
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES, OPTIONAL_FIELDS
from backend.domain.architectures.published import PUBLISHED
from backend.domain.data.import_options import ImportOptions
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.gpu_check import MeasuredSetting
from backend.domain.jobs.results import ProbeResult
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import Objective
from backend.domain.wording import format_bytes, short
from backend.services.architectures import list_architectures, save_architecture
from backend.services.checkpoints.bases import add_base
from backend.services.checkpoints.exports import list_exports
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import get_dataset, list_datasets
from backend.services.data.exports import list_version_exports
from backend.services.data.imports import import_dataset
from backend.services.data.sources import ImportSource, save_uploads
from backend.services.estimates.measurements import record_settings
from backend.services.jobs.devices import list_training_devices
from backend.services.tokenizers.tokenizers import get_tokenizer, train_tokenizer
from backend.services.training.defaults import suggest_defaults
from pages.components.architectures.cost import describe_diagram
from tests.support.data.dataset_world import done, queue_import
from tests.support.job_work import do_job
from tests.support.networks.base_folders import save_base
from tests.support.opening import EVIL, assert_sound, cells, figures, open_page, open_panel, plain_words, words

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"


def dataset(site: Context, name: str, rows: list[dict[str, str]], *, kind: str = "instruction") -> str:
    version = done(site, queue_import(site, name, rows, kind=kind, max_rejected=1))
    return version.dataset_id


@pytest.mark.parametrize(
    ("page", "step", "control"),
    [
        ("datasets", "Import a text file, a table, or a dataset from the Hub", "Import a dataset"),
        ("tokenizers", "Training from scratch needs one", "Train a tokenizer"),
        ("checkpoints", "Train a model, or add a base to start from", "Launch a run"),
    ],
)
def test_an_empty_page_states_the_next_step(site: Context, page: str, step: str, control: str) -> None:
    app = open_page(f"build/{page}.py")
    assert_sound(app)
    assert app.title[0].value == page.capitalize()
    assert any(step in element.value for element in app.markdown)
    links = [element.proto.label for element in app.get("page_link")]
    assert control in [button.label for button in app.button] + links


def test_the_page_of_architectures_begins_with_the_form_of_a_new_one(site: Context) -> None:
    app = open_page("build/architectures.py")
    assert_sound(app)
    assert app.button(key="architecture_save").label == "Save"


@pytest.mark.parametrize(("page", "query"), [("datasets", {"import": "1"}), ("checkpoints", {"add": "1"})])
def test_form_page_opens(site: Context, page: str, query: dict[str, str]) -> None:
    assert_sound(open_page(f"build/{page}.py", **query))


@pytest.mark.parametrize("page", ["datasets", "checkpoints", "architectures"])
def test_a_link_to_a_deleted_object_is_an_error_message(site: Context, page: str) -> None:
    app = open_page(f"build/{page}.py", **{page[:-1]: "gone"})
    assert not app.exception
    assert "gone" in app.error[0].value


def test_dataset_page_shows_rows_as_plain_text(site: Context) -> None:
    rows = [{"instruction": f"{EVIL} {n}", "output": "answer"} for n in range(12)]
    identity = dataset(site, "hostile *name*", [*rows, {"instruction": "", "output": ""}])
    listed = open_page("build/datasets.py")
    assert_sound(listed)
    assert "hostile \\*name\\*" in words(listed)
    app = open_page("build/datasets.py", dataset=identity)
    assert_sound(app)
    assert not any(EVIL in text.value for text in [*app.markdown, *app.caption])
    assert [metric.value for metric in app.metric][:3] == ["12", "11", "1"]
    assert app.metric[3].label == "Stored size"  # “Size” was another number than the import form's


TEXT = ("Mira went to the mill. The miller, an old man, knew her by her step.\n" * 400).strip()


def one_text(site: Context) -> str:
    """A dataset of a single text; returns the dataset's id."""
    version = done(site, queue_import(site, "story", TEXT, file="story.txt", kind="text"))
    return version.dataset_id


def test_texts_that_are_cut_for_validation_are_no_rows_in_its_counts(site: Context) -> None:
    """It said: rows 3, train 3, validation 3."""
    files = [(f"{name}.txt", io.BytesIO((name + TEXT).encode())) for name in ("one", "two", "three", "four")]
    version = import_dataset(
        site,
        name="stories",
        source=ImportSource(upload=save_uploads(site, files, person=LOCAL)),
        options=ImportOptions(kind="text"),
        person=LOCAL,
    )
    assert version.source == "one.txt, two.txt, three.txt and 1 more"
    do_job(site, version.job_id)
    app = open_page("build/datasets.py", dataset=version.dataset_id)
    assert [(metric.label, metric.value) for metric in app.metric][:3] == [
        ("Texts", "4"),
        ("Train", "4 parts"),
        ("Validation", "4 parts"),
    ]
    assert "8 parts" in words(app)
    assert "4 texts" in words(open_page("build/datasets.py"))


def test_a_dataset_of_one_text_counts_characters_then_tokens_and_never_rows(site: Context) -> None:
    identity = one_text(site)
    listed = open_page("build/datasets.py")
    assert "1 text" in words(listed)
    assert "1 row" not in words(listed)
    app = open_page("build/datasets.py", dataset=identity)
    assert_sound(app)
    assert "Rows" not in [metric.label for metric in app.metric]
    counts = {metric.label: metric.value for metric in app.metric}
    assert counts["Characters"] == f"{len(TEXT):,}"
    parts = [int(counts[name].replace(",", "")) for name in ("Train", "Validation")]
    assert sum(parts) == len(TEXT)
    assert parts[1] > 0
    tokenizer = train_tokenizer(
        site, name="story-bpe", dataset="story", config=TokenizerConfig(vocab_size=300), person=LOCAL
    )
    do_job(site, tokenizer.job_id)
    rate = get_tokenizer(site, tokenizer.id).facts.bytes_per_token
    counts = {metric.label: metric.value for metric in open_page("build/datasets.py", dataset=identity).metric}
    assert "Characters" not in counts
    assert counts["Tokens"].startswith("≈ ")
    assert int(counts["Tokens"].removeprefix("≈ ").replace(",", "")) == pytest.approx(len(TEXT) / rate, rel=0.01)


def test_an_import_of_known_content_reports_that_it_made_no_version(site: Context) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 3
    identity = dataset(site, "twice", rows)
    again = queue_import(site, "twice", rows)
    assert_sound(open_page("build/datasets.py", dataset=identity, job=str(again.job_id)))
    do_job(site, again.job_id)
    app = open_page("build/datasets.py", dataset=identity, job=str(again.job_id))
    assert_sound(app)
    assert "no new version" in app.info[0].value


def test_failed_import_is_explained_on_its_page(site: Context) -> None:
    version = done(site, queue_import(site, "broken", b'{"x": 1}\n', file="rows.jsonl"))
    app = open_page("build/datasets.py", dataset=version.dataset_id)
    assert not app.exception
    assert "The import failed" in app.error[0].value


def test_a_dataset_waiting_for_a_worker_says_so(site: Context) -> None:
    version = queue_import(site, "waiting", b"text", file="a.txt", kind="text")
    app = open_page("build/datasets.py", dataset=version.dataset_id)
    assert_sound(app)
    assert "No worker serves the queue" in words(app)
    app.button(key=f"stop_{version.job_id}").click().run()
    assert get_dataset(site, "waiting").versions[0].status == "cancelled"


def test_notes_are_saved_when_their_field_is_left_and_two_writers_are_told(site: Context) -> None:
    identity = dataset(site, "before", [{"instruction": "a", "output": "b"}] * 3)
    anna, bert = (open_page("build/datasets.py", dataset=identity) for _ in range(2))
    key = f"notes_{identity}"
    anna.text_area(key=key).set_value(f"Hypothesis {EVIL}").run()
    assert_sound(anna)
    assert get_dataset(site, "before").notes == f"Hypothesis {EVIL}"
    assert any(re.match(r"Saved \d\d:\d\d", caption.value) for caption in anna.caption)
    bert.text_area(key=key).set_value("Another").run()
    assert "Another person changed these notes meanwhile" in bert.error[0].value
    assert get_dataset(site, "before").notes == f"Hypothesis {EVIL}"
    assert bert.text_area(key=key).value == "Another", "what was written is not lost"
    assert any(EVIL in code.value for code in bert.code), "theirs, as text"
    del bert.query_params["dataset"]
    bert.run()
    bert.query_params["dataset"] = identity
    bert.run()
    assert bert.text_area(key=key).value == "Another", "nor by another page in between"
    bert.button(key=f"{key}_mine").click().run()
    assert get_dataset(site, "before").notes == "Another"
    assert not bert.error
    anna.run()
    assert anna.text_area(key=key).value == "Another", "who does not write sees what is stored"
    anna.text_area(key=key).set_value("Mine").run()
    bert.text_area(key=key).set_value("Yours").run()
    bert.button(key=f"{key}_theirs").click().run()
    assert (bert.text_area(key=key).value, get_dataset(site, "before").notes) == ("Mine", "Mine")


def test_rename_and_archive_on_the_page(site: Context) -> None:
    identity = dataset(site, "before", [{"instruction": "a", "output": "b"}] * 3)
    app = open_page("build/datasets.py", dataset=identity)
    app.text_input(key=f"name_{identity}").input("after").run()
    app.button(key=f"save_{identity}").click().run()
    assert_sound(app)
    app.button(key=f"archive_{identity}").click().run()
    assert [view.name for view in list_datasets(site, archived=True)] == ["after"]


def test_a_published_architecture_fills_the_form_and_is_saved_as_published_or_as_changed(site: Context) -> None:
    app = open_page("build/architectures.py")
    for name, changes in (("Qwen3 0.6B", {}), ("GPT-2 small (124M)", {"width": "384", "num_heads": "6"})):
        app.selectbox(key="architecture_published").select(name).run()
        for field, value in changes.items():
            app.text_input(key=f"architecture_{field}").input(value).run()
        app.text_input(key="architecture_name").input(name)
        app.button(key="architecture_save").click().run()
        assert_sound(app)
        saved = next(view.config for view in list_architectures(site) if view.name == name)
        assert saved == ArchitectureConfig.model_validate(
            {**PUBLISHED[name].model_dump(), **{field: int(value) for field, value in changes.items()}}
            | ({"num_kv_heads": 6} if changes else {})
        )
        assert ("Changed from" in words(app)) is bool(changes)


def test_an_impossible_architecture_is_explained_at_the_field(site: Context) -> None:
    app = open_page("build/architectures.py")
    assert_sound(app)
    assert app.metric[0].value == "1.12 M"
    app.text_input(key="architecture_width").input("130").run()
    assert not app.exception
    assert "130 / 4 is not whole" in words(app)
    assert app.button(key="architecture_save").disabled
    app.text_input(key="architecture_width").input("wide").run()
    assert "not a whole number" in words(app)
    app.text_input(key="architecture_width").input("256").run()
    app.text_input(key="architecture_name").input("wider")
    app.button(key="architecture_save").click().run()
    assert_sound(app)
    (saved,) = list_architectures(site)
    assert (saved.name, saved.config.width) == ("wider", 256)
    assert "wider" in words(app)


def test_every_family_has_its_fields_and_lists_its_limits(site: Context) -> None:
    app = open_page("build/architectures.py")
    for name, family in FAMILIES.items():
        app.selectbox(key="architecture_family").select(name).run()
        assert_sound(app)
        shown = {field.key.removeprefix("architecture_") for field in app.text_input if field.key}
        assert shown & set(OPTIONAL_FIELDS) == set(family.fields), name
        assert family.network_class in words(app)
        assert all(reason in words(app) for reason in family.fixed.values() if reason.startswith("BLOOM's")), name
        assert not app.button(key="architecture_save").disabled, f"{name}: the previous sizes still make a network"
        (block,) = [body for alt, body in figures(app).items() if "blocks, each" in alt]
        assert ">× 4<" in block, "the block is drawn once, with the number of layers"
        assert f">{family.norm.split(',')[0].split()[0]}<" in block


def test_the_kind_of_attention_decides_the_key_value_heads(site: Context) -> None:
    app = open_page("build/architectures.py")
    app.segmented_control(key="architecture_kind").select("MQA").run()
    app.text_input(key="architecture_name").input("one")
    app.button(key="architecture_save").click().run()
    app.text_input(key="architecture_num_heads").input("8").run()
    app.segmented_control(key="architecture_kind").select("GQA").run()
    assert app.text_input(key="architecture_num_kv_heads").value == "2", "with 8 it would be MHA"
    app.text_input(key="architecture_num_kv_heads").input("3").run()
    assert "can't be shared evenly among 3 key/value heads" in words(app)
    app.segmented_control(key="architecture_kind").select("MHA").run()
    assert_sound(app)
    assert [view.config.num_kv_heads for view in list_architectures(site)] == [1]


def test_weights_above_a_devices_memory_are_not_said_to_fit_by_lora(site: Context) -> None:
    """32 GB of weights on 24 GB: "Enable activation recompute, use LoRA", which leave the weights as they are."""
    app = open_page("build/architectures.py")
    app.selectbox(key="architecture_device").select("GPU, 24 GB").run()
    app.text_input(key="architecture_width").input("16384").run()
    app.text_input(key="architecture_num_layers").input("24").run()
    assert_sound(app)
    (warning,) = [each.value for each in app.warning if "weights alone" in each.value]
    assert "LoRA" not in warning.partition(":")[2]
    assert "larger device" in warning


def test_memory_follows_what_is_trained_and_the_largest_micro_batch_follows_the_device(site: Context) -> None:
    app = open_page("build/architectures.py")
    app.selectbox(key="architecture_device").select("GPU, 24 GB").run()
    figures = {each.label: str(each.value) for each in app.metric}
    assert figures["Peak"].endswith("MB")
    smaller = int(figures["Largest micro-batch"].replace(",", ""))
    app.selectbox(key="architecture_device").select("GPU, 80 GB").run()
    app.checkbox(key="architecture_recompute").check().run()
    app.number_input(key="architecture_rank").set_value(8).run()
    app.number_input(key="architecture_devices").set_value(4).run()
    app.segmented_control(key="architecture_sharding").select("fsdp").run()
    assert_sound(app)
    figures = {each.label: str(each.value) for each in app.metric}
    assert int(figures["Largest micro-batch"].replace(",", "")) > 3 * smaller
    app.text_input(key="architecture_context").input("64").run()  # the length of a sequence follows
    assert app.number_input(key="architecture_length").value == 64
    app.text_input(key="architecture_width").input("16384").run()
    app.text_input(key="architecture_num_layers").input("128").run()
    assert_sound(app)
    assert {each.label: each.value for each in app.metric}["Largest micro-batch"] == "none fits"


def test_the_micro_batch_begins_as_that_of_a_launch_and_stays_once_it_is_typed(site: Context) -> None:
    app = open_page("build/architectures.py")
    for context in (64, 512):
        app.text_input(key="architecture_context").input(str(context)).run()
        shape = ArchitectureConfig(context=context)
        launch = suggest_defaults(site, objective=Objective.PRETRAIN, method="full", dataset=None, architecture=shape)
        assert app.number_input(key="architecture_micro_batch").value == launch["micro_batch"]
    app.number_input(key="architecture_micro_batch").set_value(3).run()
    app.text_input(key="architecture_context").input("64").run()
    assert app.number_input(key="architecture_micro_batch").value == 3


def test_the_diagram_counts_query_and_key_value_heads() -> None:
    assert "6 query heads of 22 on 2 key/value heads" in describe_diagram(
        ArchitectureConfig(width=132, num_heads=6, num_kv_heads=2)
    )
    assert "4 heads of 32, multi-head" in describe_diagram(ArchitectureConfig(width=128, num_heads=4))


def test_memory_is_that_of_a_launch_with_this_network_and_batch(site: Context) -> None:
    shape = ArchitectureConfig(num_layers=5, width=132, num_heads=6, num_kv_heads=2, vocab_size=3001)
    saved = save_architecture(site, name="gqa", config=shape, person=LOCAL)
    run = RunConfig(
        dataset="d", architecture=shape, tokenizer="t", micro_batch=12, context=200, precision="fp32", device="cpu"
    )
    (device,) = list_training_devices(())
    setting = setting_of(run, shape, device="cpu")
    app = open_page("build/architectures.py", architecture=saved.id)
    app.number_input(key="architecture_micro_batch").set_value(12).run()
    app.number_input(key="architecture_length").set_value(200).run()
    assert_sound(app)
    shown = {each.label: each.value for each in app.metric}
    assert shown["Peak"] == format_bytes(estimate_memory(setting).total)
    assert shown["Largest micro-batch"] == "no limit"
    assert "A forward pass takes 4 of the 12 sequences" in words(app)
    measured = MeasuredSetting(
        config=run,
        shape=shape,
        result=ProbeResult(measured_bytes=117_000_000, tokens_per_s=1.0, device=device.name, device_kind="cpu"),
    )
    record_settings(site, [measured], host="here", person=LOCAL)
    app.run()
    assert {each.label: each.value for each in app.metric}["Peak"] == "117 MB"
    assert "Measured by a probe" in words(app)


def test_what_was_set_for_the_estimate_outlives_a_wrong_field_and_flops_have_three_figures(site: Context) -> None:
    """The micro-batch was 16 again; beside 8.99 M for training stood 3 M forward."""
    app = open_page("build/architectures.py")
    app.number_input(key="architecture_micro_batch").set_value(12).run()
    app.text_input(key="architecture_width").input("131").run()
    assert not [field for field in app.number_input if field.key == "architecture_micro_batch"]
    app.text_input(key="architecture_num_layers").input("5").run()
    app.text_input(key="architecture_width").input("136").run()
    assert app.number_input(key="architecture_micro_batch").value == 12
    assert short(2_997_248) == "3 M"
    assert short(2_997_248, zeros=True) == "3.00 M"
    assert short(300_000_000_000, zeros=True) == "300 B"


def test_architecture_from_yaml_fills_the_form(site: Context) -> None:
    app = open_panel(open_page("build/architectures.py"), "architecture_yaml_panel")
    app.text_area(key="architecture_yaml").input("num_layers: 7\nwidth: 96\nnum_heads: 3\nnum_kv_heads: 1\n")
    app.button(key="architecture_read").click().run()
    assert_sound(app)
    assert app.text_input(key="architecture_num_layers").value == "7"
    app.text_area(key="architecture_yaml").input("width: 130")
    app.button(key="architecture_read").click().run()
    assert "can't be built" in app.error[0].value.replace("\\", "")


def test_architecture_takes_its_vocabulary_from_a_tokenizer(site: Context) -> None:
    dataset(site, "mill", [{"instruction": "Who?", "output": "The miller."}] * 5)
    tokenizer = train_tokenizer(site, name="bytes", dataset="mill", config=TokenizerConfig(kind="byte"), person=LOCAL)
    do_job(site, tokenizer.job_id)
    saved = save_architecture(site, name="stored", config=ArchitectureConfig(num_layers=9), person=LOCAL)
    app = open_page("build/architectures.py", architecture=saved.id)
    assert_sound(app)
    assert app.text_input(key="architecture_num_layers").value == "9"
    app.selectbox(key="architecture_tokenizer").select("bytes").run()
    assert app.text_input(key="architecture_vocab_size").value == "262"
    open_panel(app, "architecture_yaml_panel")
    app.text_area(key="architecture_yaml").input("vocab_size: 2048\n")
    app.button(key="architecture_read").click().run()
    assert app.text_input(key="architecture_vocab_size").value == "2048", (
        "the text wins over the tokenizer that was chosen before"
    )
    app.text_area(key="architecture_yaml").input("vocab_size: 262\n")
    app.button(key="architecture_read").click().run()
    assert app.selectbox(key="architecture_tokenizer").value == "bytes"


def test_checkpoint_page_shows_lineage_and_files(site: Context) -> None:
    folder = site.artifacts.folder("bases", "b")
    (folder / "config.json").write_text("{}")
    with site.db.write() as session:
        base = Checkpoint(
            name=f"base {EVIL[:20]}",
            origin="added",
            folder="bases/b",
            family="llama",
            parameters=260_032,
            bytes=2,
            source="hub/id",
        )
        session.add(base)
        session.flush()
        child = Checkpoint(
            name="child", origin="run", step=5, parent_id=base.id, folder="bases/b", metrics={"val_loss": 1.25}
        )
        session.add(child)
        session.flush()
        base_id, child_id = base.id, child.id
    assert_sound(open_page("build/checkpoints.py"))
    app = open_page("build/checkpoints.py", checkpoint=child_id)
    assert_sound(app)
    assert "1.250" in [metric.value for metric in app.metric]
    app.button(key=f"link_{base_id}").click().run()
    assert app.query_params["checkpoint"] in (base_id, [base_id])
    app.button(key=f"prepare_{base_id}").click().run()
    assert_sound(app)
    assert app.get("download_button")


def test_upload_is_recognised_corrected_and_imported_from_the_page(site: Context) -> None:
    app = open_page("build/datasets.py", **{"import": "1"})
    rows = "".join(
        json.dumps({"ask": f"Who is number {n}?", "reply": f"I am {n}, and a free man."}) + "\n" for n in range(30)
    )
    app.file_uploader(key="import_file").upload("village.jsonl", rows.encode(), "application/json").run()
    assert_sound(app)
    (kind,) = [box for box in app.selectbox if str(box.key).startswith("import_kind_")]
    kind.select("instruction").run()
    columns = {
        str(box.key).rsplit("_", 1)[1]: str(box.key) for box in app.selectbox if str(box.key).startswith("import_map_")
    }
    app.selectbox(key=columns["ask"]).select("prompt").run()
    app.selectbox(key=columns["reply"]).select("completion").run()
    assert "Who is number 0?" in app.code[0].value
    (fewest,) = [box for box in app.number_input if str(box.key).endswith("corpus_min_characters")]
    fewest.set_value(41).run()
    assert not [box for box in app.number_input if str(box.key).endswith("corpus_workers")], "one process reads it"
    (shards,) = [box for box in app.number_input if str(box.key).endswith("corpus_shards")]
    shards.set_value(1).run()
    (executor,) = [box for box in app.selectbox if str(box.key).endswith("corpus_executor")]
    assert executor.options == ["The machine of the worker"]
    shards.set_value(0).run()
    app.button(key="import_go").click().run()
    assert_sound(app)
    (view,) = list_datasets(site)
    do_job(site, view.versions[0].job_id)
    (view,) = list_datasets(site)
    assert (view.name, view.kind, view.versions[0].rows) == ("village", "instruction", 20)
    assert app.query_params["dataset"] in (view.id, [view.id])
    app = open_page("build/datasets.py", dataset=view.id)
    assert "Left out: 10 rows shorter than 41 characters." in [line.value for line in app.caption]


def test_an_import_of_prompts_says_which_columns_it_leaves_out(site: Context) -> None:
    """A column of categories was dropped without a word."""
    app = open_page("build/datasets.py", **{"import": "1"})
    app.file_uploader(key="import_file").upload("own.csv", b"prompt,topic\nTell a tale,sea\n", "text/csv").run()
    assert "Left out: topic. Kind records keeps every column" in words(app)
    (kind,) = [box for box in app.selectbox if str(box.key).startswith("import_kind_")]
    kind.select("records").run()
    assert "Left out: topic" not in words(app)


def test_rows_of_kind_records_are_not_split_and_keep_every_column(site: Context) -> None:
    """A validation share was offered and ignored, and every column read "not used" though all were kept."""
    app = open_page("build/datasets.py", **{"import": "1"})
    app.file_uploader(key="import_file").upload("own.csv", b"prompt,topic\nTell a tale,sea\n" * 9, "text/csv").run()
    (kind,) = [box for box in app.selectbox if str(box.key).startswith("import_kind_")]
    kind.select("records").run()
    assert_sound(app)
    assert not [field for field in app.number_input if str(field.key).endswith("val_fraction")]
    assert not [box for box in app.selectbox if "import_map_" in str(box.key)]
    assert "Every column is kept as it is." in words(app)
    app.button(key="import_go").click().run()
    (view,) = list_datasets(site)
    do_job(site, view.versions[0].job_id)
    app = open_page("build/datasets.py", dataset=view.id)
    assert {row["Used as"] for row in cells(app)} == {"kept as it is"}


def test_columns_of_nested_objects_are_offered_by_their_path_with_json_as_their_samples(site: Context) -> None:
    """Only the whole object could be chosen, and it read {'agent': None}."""
    app = open_page("build/datasets.py", **{"import": "1"})
    rows = "".join(
        json.dumps({"ticket": {"agent": None, "body": {"question": f"Why {n}?", "answer": "Because. " * 20}}}) + "\n"
        for n in range(30)
    )
    app.file_uploader(key="import_file").upload("tickets.jsonl", rows.encode(), "application/json").run()
    assert_sound(app)
    fields = {
        str(box.key).rsplit("_", 1)[1]: box.value for box in app.selectbox if str(box.key).startswith("import_map_")
    }
    assert fields == {
        **dict.fromkeys(("ticket", "ticket.agent", "ticket.body"), "not used"),
        "ticket.body.question": "prompt",
        "ticket.body.answer": "completion",
    }
    assert '{"agent": null, "body": {"question": "Why 0?"' in words(app).replace("\\", "")
    app.button(key="import_go").click().run()
    (view,) = list_datasets(site)
    do_job(site, view.versions[0].job_id)
    app = open_page("build/datasets.py", dataset=view.id)
    assert_sound(app)
    assert [row["Source column"] for row in cells(app)] == ["ticket.body.question", "ticket.body.answer"]


def test_two_files_keep_their_order_and_their_own_names(site: Context) -> None:
    app = open_page("build/datasets.py", **{"import": "1"})
    files = app.file_uploader(key="import_file")
    for name in ("sherlock (1; ü).txt", "shakespeare.txt"):
        files = files.upload(name, b"Elementary. " * 40, "text/plain")
    files.run()
    (name,) = [field for field in app.text_input if str(field.key).startswith("import_name_")]
    assert name.value == "sherlock (1; ü) and 1 more"
    assert "The preview shows sherlock (1; ü).txt." in plain_words(app)
    assert "First rows of sherlock (1; ü).txt" in plain_words(app)


def test_files_of_another_kind_are_named_with_the_reason_and_not_counted_in_the_name(site: Context) -> None:
    """A text, a list of names and a file of rows: "2 others left out", and the text's name was proposed."""
    app = open_page("build/datasets.py", **{"import": "1"})
    files = app.file_uploader(key="import_file")
    for name, content in (
        ("seed_tasks.jsonl", b'{"prompt": "Why?", "completion": "Because."}\n' * 40),
        ("alice-pg11.txt", b"Alice was beginning. " * 40),
        ("names.txt", b"emma\nolivia\n" * 40),
    ):
        files = files.upload(name, content, "text/plain")
    files.run()
    said = plain_words(app)
    assert "Left out: alice-pg11.txt, names.txt (text beside data files). Import them on their own." in said
    (name,) = [field for field in app.text_input if str(field.key).startswith("import_name_")]
    assert name.value == "seed_tasks"


def test_a_file_in_another_encoding_gets_a_suggestion_and_columns_of_its_own(site: Context) -> None:
    answers = ["Eins.", "Zwei.", "Größe zwölf, sagte Jürgen.", "Für die Brücke über den Fluß.", "Ein schöner Gruß."]
    rows = "".join(f"{number};{answer}\n" for number, answer in enumerate(answers))
    app = open_page("build/datasets.py", **{"import": "1"})
    file = ("Nr.;Antwort – kurz\n" + rows).encode("cp1252")
    app.file_uploader(key="import_file").upload("antworten.csv", file, "text/csv").run()
    warning = (
        "Not UTF-8: antworten.csv (byte 0x96 in line 1; perhaps cp1252). Choose its encoding and check the preview."
    )
    assert warning in plain_words(app)
    (encoding,) = [box for box in app.selectbox if str(box.key).startswith("import_encoding_")]
    encoding.select("cp1252").run()
    assert "mapped from 2 columns" not in plain_words(app)
    fields = {str(box.key).rsplit("_", 1)[1]: box.value for box in app.selectbox if "import_map_" in str(box.key)}
    assert fields == {"Nr.": "not used", "Antwort – kurz": "text"}


def test_every_uploaded_file_that_is_not_utf_8_is_named_before_the_import(site: Context) -> None:
    """The preview showed the first file alone; the import then lost the second."""
    text = "Die Größe der Brücke beträgt zwölf Fuß, sagte Jürgen.\n"
    app = open_page("build/datasets.py", **{"import": "1"})
    files = app.file_uploader(key="import_file")
    for name, encoding in (("zwei.txt", "utf-16"), ("eins.txt", "cp1252")):
        files = files.upload(name, text.encode(encoding), "text/plain")
    files.run()
    assert "Not UTF-8: eins.txt (byte 0xF6 in line 1; perhaps cp1252). Choose the encoding" in plain_words(app)
    (encoding,) = [box for box in app.selectbox if str(box.key).startswith("import_encoding_")]
    encoding.select("cp1252").run()
    assert "Not UTF-8" not in plain_words(app)
    assert any(text.strip() in code.value for code in app.code)


def test_too_many_rejected_rows_are_said_before_the_import(site: Context) -> None:
    rows = '{"prompt": "", "completion": "a"}\n' + '{"prompt": "q", "completion": "a"}\n' * 24
    app = open_page("build/datasets.py", **{"import": "1"})
    app.file_uploader(key="import_file").upload("asked.jsonl", rows.encode(), "application/json").run()
    warning = "4 % of the first rows would be rejected: above 1 % in all, nothing is imported until you have seen them."
    assert warning in plain_words(app)
    assert "`prompt` is empty" in [each.value for each in app.markdown]
    (limit,) = [box for box in app.number_input if str(box.key).endswith("max_rejected")]
    limit.set_value(5).run()
    assert "of the first rows would be rejected" not in plain_words(app)
    few = "".join(f"{row}\n" for row in rows.splitlines()[:12])
    app.file_uploader(key="import_file").upload("few.jsonl", few.encode(), "application/json").run()
    assert "8.33 % of the first rows would be rejected" in plain_words(app)


def test_a_folder_of_folders_is_imported_as_one_dataset(
    site: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("dev", "test"):
        (tmp_path / "mmlu" / part).mkdir(parents=True)
        (tmp_path / "mmlu" / part / f"anatomy_{part}.csv").write_text(
            f"Which {part}?,a,b,c,d,B\nWhat {part}?,a,b,c,d,C\n"
        )
    monkeypatch.setenv("DATA_PATH", str(tmp_path))
    get_context.cache_clear()
    app = open_page("build/datasets.py", **{"import": "1"})
    app.segmented_control(key="import_way").set_value("From the data folder").run()
    app.session_state["import_folder"] = "mmlu"
    app.run()
    app.checkbox(key="import_all_mmlu").check().run()
    assert_sound(app)
    assert "2 files as one dataset" in words(app)


def test_a_fallback_to_text_is_reported_before_the_import(site: Context) -> None:
    app = open_page("build/datasets.py", **{"import": "1"})
    rows = "".join(
        json.dumps({"sku": f"A{n}", "blurb": f"A lamp of {n} watts that lights a whole room."}) + "\n"
        for n in range(30)
    )
    app.file_uploader(key="import_file").upload("lamps.jsonl", rows.encode(), "application/json").run()
    assert_sound(app)
    (warning,) = [str(one.value) for one in app.warning if "Detected" in str(one.value)]
    assert "Detected: text (30 % sure): no other kind fits" in warning
    assert "blurb holds the most text" in warning
    assert "Searched for turns (messages, conversations, dialogue); a chosen and a rejected answer" in words(app)
    assert list_datasets(site) == []
    app.file_uploader(key="import_file").upload(
        "named.jsonl", rows.replace("blurb", "text").encode(), "application/json"
    ).run()
    assert not [one for one in app.warning if "Detected" in str(one.value)]
    assert "Detected: text (80 % sure): plain text in text; not used" in words(app)


def test_a_version_is_exported_from_its_page(site: Context) -> None:
    rows = json.dumps([{"instruction": f"Say {n}.", "output": "yes"} for n in range(20)])
    version = done(site, queue_import(site, "sayings", rows, file="rows.json"))
    app = open_page("build/datasets.py", dataset=version.dataset_id, export="1")
    assert "Nothing has been exported yet." in words(app)
    app.toggle(key=f"dataset_export_{version.id}_pushes").set_value(True).run()
    assert app.button(key=f"dataset_export_{version.id}").disabled
    app.text_input(key=f"dataset_export_{version.id}_push").set_value("no slash").run()
    app.button(key=f"dataset_export_{version.id}").click().run()
    assert "'no slash' is not a repository id of the Hub" in words(app)
    app.toggle(key=f"dataset_export_{version.id}_pushes").set_value(False).run()
    app.button(key=f"dataset_export_{version.id}").click().run()
    (export,) = list_version_exports(site, version.id)
    do_job(site, export.job.id)
    app = open_page("build/datasets.py", dataset=version.dataset_id, export="1")
    assert_sound(app)
    assert "dataset_dict.json" in words(app).replace("\\", "")
    app.button(key=f"export_delete_{export.job.id}").click().run()
    assert "Its files were deleted here." in words(app)


def test_a_wide_table_shows_used_and_selected_columns(site: Context) -> None:
    app = open_page("build/datasets.py", **{"import": "1"})
    wide = {f"column {n}": "x" for n in range(3000)}
    rows = "".join(json.dumps({**wide, "instruction": f"Count to {n}.", "output": f"{n}"}) + "\n" for n in range(3))
    app.file_uploader(key="import_file").upload("wide.jsonl", rows.encode(), "application/json").run()
    assert_sound(app)

    def lines() -> list[str]:
        return [str(box.key).rsplit("_", 1)[1] for box in app.selectbox if str(box.key).startswith("import_map_")]

    assert sorted(lines()) == ["instruction", "output"]
    app.multiselect[0].set_value(["instruction", "output", "column 7"]).run()
    assert_sound(app)
    assert sorted(lines()) == ["column 7", "instruction", "output"]


def test_a_checkpoint_is_exported_from_its_page(site: Context, tmp_path: Path) -> None:
    added = add_base(site, name="tiny", source=str(save_base(tmp_path / "tiny")), person=LOCAL)
    do_job(site, added.job_id)
    app = open_page("build/checkpoints.py", checkpoint=added.id)
    assert "No exports yet." in words(app)
    app.selectbox(key=f"export_numbers_{added.id}").set_value("q8_0").run()
    app.button(key=f"export_{added.id}").click().run()
    (export,) = list_exports(site, added.id)
    assert (export.format, export.numbers) == ("gguf", "q8_0")
    assert "No worker serves the queue" in words(app)
    do_job(site, export.job.id)
    app = open_page("build/checkpoints.py", checkpoint=added.id)
    assert "2 files" in words(app)
    assert "bits per weight; q8" in words(app)
    app.button(key=f"export_prepare_{export.job.id}").click().run()
    assert_sound(app)
    app.toggle(key=f"export_{added.id}_pushes").set_value(True).run()
    assert app.button(key=f"export_{added.id}").disabled
    app.text_input(key=f"export_{added.id}_push").set_value("no slash").run()
    app.button(key=f"export_{added.id}").click().run()
    assert "no slash is not a repository id of the Hub" in words(app)
    app.button(key=f"export_delete_{export.job.id}").click().run()
    assert "Its files were deleted here." in words(app)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mt.jsonl", '{"judge":"ann","model_a":"x","model_b":"y","question_id":81,"turn":1,"winner":"model_b"}\n'),
        ("crowd.csv", "id,prompt,model_x,model_y,worker,winner,left,right\n0,8,97,98,58,tie,Oak,Elm\n"),
        (
            "panda.json",
            '[{"cmp_key":"x_y","instruction":"Do","input":"","response1":"1","response2":"2","annotator1":1}]',
        ),
    ],
)
def test_a_file_of_votes_is_led_to_battles(site: Context, name: str, text: str) -> None:
    app = open_page("build/datasets.py", **{"import": "1"})
    app.file_uploader(key="import_file").upload(name, text.encode(), "text/plain").run()
    assert "These rows are votes on pairs of contestants" in words(app)
