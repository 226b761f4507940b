"""The inspect page: a text read, each tab of the answer, two checkpoints side by side, weights, and what can't be
seen.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from backend.db.tables import Checkpoint
from backend.domain.checkpoints.inspection import InspectionConfig
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.checkpoints.inspections import get_inspection, launch_inspection, list_inspections
from backend.services.context import LOCAL, Context
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.job_work import do_job
from tests.support.networks.inspection_networks import add_network
from tests.support.opening import figure, open_page, strips, words
from tests.support.scenario import add_row

PAGE = "build/inspect.py"
EVIL = "<b>a</b> **é**\n $x$ :red[b] ![x](http://evil.example/x.png)"


def inspected(site: Context, checkpoint: str, config: InspectionConfig, *, against: str | None = None) -> str:
    """Inspect a checkpoint and return the inspection's id."""
    inspection = launch_inspection(site, checkpoint=checkpoint, config=config, against=against, person=LOCAL)
    do_job(site, inspection.job_id)
    return inspection.id


def test_without_checkpoints_a_link_to_training_is_shown(site: Context) -> None:
    assert "No checkpoints yet" in words(open_page(PAGE))
    assert "gone" in open_page(PAGE, checkpoint="gone").error[0].value
    assert "no such inspection" in open_page(PAGE, inspection="gone").error[0].value


def test_an_inspection_is_requested_waited_for_and_stopped(site: Context) -> None:
    oak = add_network(site, "oak *1*")
    app = open_page(PAGE, checkpoint=oak)
    assert "Type a text above and press Analyze." in words(app)
    app.text_area(key=f"inspect_text_{oak}").set_value("   ").run()
    app.button(key="inspect_analyze").click().run()
    assert "The text is empty" in app.error[0].value
    app.text_area(key=f"inspect_text_{oak}").set_value("The cat.").run()
    app.button(key="inspect_analyze").click().run()
    (inspection,) = list_inspections(site, oak)
    assert inspection.config.text == "The cat."
    assert "No worker serves the queue" in words(app)
    app.button(key=f"stop_{inspection.job_id}").click().run()
    assert "The inspection was stopped" in open_page(PAGE, inspection=inspection.id).error[0].value


def test_every_token_of_any_text_is_shown_as_text(site: Context) -> None:
    oak = add_network(site, "oak")
    inspection = inspected(site, oak, InspectionConfig(text=EVIL))
    app = open_page(PAGE, inspection=inspection)
    assert not app.error, words(app)
    (tokens,) = strips(app)
    assert "".join(tokens[1:]) == EVIL.replace("é", "\\xc3\\xa9")
    assert "evil" not in "".join(str(part.value) for part in [*app.markdown, *app.caption])
    loss = get_inspection(site, inspection).result["loss"]["mean_nats"]
    assert app.metric[0].value == f"{loss:.3f}"
    assert figure(app, "expected")["data"][0]["orientation"] == "h"
    table = app.dataframe[0].value
    assert table["Nats"].mean() == pytest.approx(loss, rel=1e-5)


def test_attention_is_chosen_by_layer_and_head(site: Context) -> None:
    inspection = inspected(site, add_network(site, "oak"), InspectionConfig(text="a b\n c"))
    app = open_page(PAGE, inspection=inspection, tab="Attention")
    assert not app.error, words(app)
    first = figure(app, "attention_map")["data"][0]
    assert first["x"] == ["0 &lt;|bos|&gt;", "1 a", "2 ·", "3 b", "4 ↵", "5 ·", "6 c"], "spaces and breaks can be seen"
    app.selectbox(key=f"layer_{inspection}").select(2).run()
    app.selectbox(key=f"head_{inspection}_4").select(3).run()
    assert "Layer 2, head 3" in words(app)
    assert figure(app, "attention_map")["data"][0]["z"] != first["z"]
    app.segmented_control(key="attention_measure").select("entropy").run()
    assert not app.exception


def test_the_lens_shows_each_depth_over_a_window_of_a_long_text(site: Context) -> None:
    inspection = inspected(site, add_network(site, "ash", family="deepseek_v3"), InspectionConfig(text="x" * 40))
    app = open_page(PAGE, inspection=inspection, tab="Logit lens")
    assert not app.error, words(app)
    assert len(figure(app, "lens_map")["data"][0]["text"]) == 4, "the embedding and three layers"
    app.segmented_control(key="lens_colour").select("kl").run()
    assert not app.exception
    last = figure(app, "lens_map")["data"][0]["z"]
    assert last["shape"] == "4, 24" if isinstance(last, dict) else max(last[-1]) == 0


def test_missing_attention_is_explained_and_a_long_text_shows_its_cut(site: Context) -> None:
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=262, hidden_size=16, num_hidden_layers=2, state_size=4))
    save_checkpoint(site.artifacts.path("checkpoints/eel"), model=mamba, tokenizer=byte_tokenizer(), meta={})
    add_row(site, Checkpoint(name="eel", origin="added", folder="checkpoints/eel", family="mamba"))
    inspection = inspected(site, "eel", InspectionConfig(text="word " * 100))
    app = open_page(PAGE, inspection=inspection, tab="Attention")
    notes = [note.value for note in app.info]
    assert "Analyzed the first 256 of 501 tokens." in notes[0]
    assert "mamba compute no attention maps" in notes[1]


def test_two_checkpoints_are_compared_token_by_token_or_by_byte(site: Context) -> None:
    oak, elm = add_network(site, "oak"), add_network(site, "elm", seed=1)
    inspection = inspected(site, oak, InspectionConfig(text="The cat."), against=elm)
    app = open_page(PAGE, inspection=inspection, tab="Compare")
    assert not app.error, words(app)
    pair = get_inspection(site, inspection).result["pair"]
    assert f"{pair['mean_kl_pq']:.4f}" in [metric.value for metric in app.metric]
    assert "".join(strips(app)[0][1:]) == "The cat."
    app.button(key=f"weights_{oak}_{elm}").click().run()
    (weights,) = [one for one in list_inspections(site, oak) if not one.config.of_text]
    do_job(site, weights.job_id)
    app = open_page(PAGE, inspection=inspection, tab="Compare")
    assert "the weights changed by" in words(app).replace("\\", "")


def test_an_old_link_still_leads_to_its_inspection(site: Context) -> None:
    inspection = inspected(site, add_network(site, "oak"), InspectionConfig(text="The cat."))
    app = open_page(PAGE, reading=inspection)
    assert strips(app)


def test_the_page_has_one_noun_for_inspections(site: Context) -> None:
    oak = add_network(site, "oak")
    inspected(site, oak, InspectionConfig(text="The cat."))
    app = open_page(PAGE, inspection=list_inspections(site, oak)[0].id)
    labels = [widget.label for widget in [*app.button, *app.selectbox, *app.text_area]]
    assert {"Analyze", "Compare with"} <= set(labels)
    assert "reading" not in f"{words(app)} {labels}".lower()


def test_weights_are_read_without_a_text(site: Context) -> None:
    oak = add_network(site, "oak", family="mixtral")
    app = open_page(PAGE, checkpoint=oak, tab="Weights")
    app.button(key=f"weights_{oak}_None").click().run()
    (inspection,) = list_inspections(site, oak)
    do_job(site, inspection.job_id)
    app = open_page(PAGE, checkpoint=oak, tab="Weights")
    assert not app.error, words(app)
    table = app.dataframe[-1].value
    assert len(table) == get_inspection(site, inspection.id).result["facts"]["tensors"]
    app.segmented_control(key="weights_measure").select("spectral").run()
    app.selectbox(key="weights_name").select("lm_head.weight").run()
    assert not app.exception
    assert "262 × 32" in words(app).replace("\\", "")


def test_a_failed_inspection_gives_the_reason(site: Context) -> None:
    oak = add_network(site, "oak")
    config = site.artifacts.path(str(get_checkpoint(site, oak).folder)) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 12}))
    inspection = inspected(site, oak, InspectionConfig(text="The cat."))
    app = open_page(PAGE, inspection=inspection)
    assert not app.exception
    assert app.error[0].value
