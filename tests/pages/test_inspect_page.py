"""The inspect page: a text read, each tab of the answer, two checkpoints side by side, weights, and what can't be seen."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from backend.db.tables import Checkpoint
from backend.domain.checkpoints.inspection_config import ReadingConfig
from backend.services.checkpoints.checkpoints import get_checkpoint
from backend.services.checkpoints.inspections import get_reading, launch_reading, list_readings
from backend.services.context import LOCAL, Context
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.inspection_networks import add_network
from tests.support.job_work import do_job
from tests.support.opening import figure, open_page, strips, words

PAGE = "build/inspect.py"
EVIL = "<b>a</b> **é**\n $x$ :red[b] ![x](http://evil.example/x.png)"


def read(site: Context, checkpoint: str, config: ReadingConfig, *, against: str | None = None) -> str:
    """Have a reading made; returns its id."""
    reading = launch_reading(site, checkpoint=checkpoint, config=config, against=against, person=LOCAL)
    do_job(site, str(reading.job_id))
    return reading.id


def test_without_checkpoints_the_way_to_one_is_shown(site: Context) -> None:
    assert "No checkpoints yet" in words(open_page(PAGE))
    assert "gone" in open_page(PAGE, checkpoint="gone").error[0].value
    assert "no such reading" in open_page(PAGE, reading="gone").error[0].value


def test_a_text_is_asked_waited_for_and_stopped(site: Context) -> None:
    oak = add_network(site, "oak *1*")
    app = open_page(PAGE, checkpoint=oak)
    assert "has read nothing yet" in words(app)
    app.text_area(key=f"inspect_text_{oak}").set_value("   ").run()
    app.button(key="inspect_read").click().run()
    assert "nothing to read" in app.error[0].value
    app.text_area(key=f"inspect_text_{oak}").set_value("The cat.").run()
    app.button(key="inspect_read").click().run()
    (reading,) = list_readings(site, oak)
    assert reading.config.text == "The cat."
    assert "No worker serves the queue" in words(app)
    app.button(key=f"stop_{reading.job_id}").click().run()
    assert "The reading was stopped" in open_page(PAGE, reading=reading.id).error[0].value


def test_every_token_of_any_text_is_shown_as_text(site: Context) -> None:
    oak = add_network(site, "oak")
    reading = read(site, oak, ReadingConfig(text=EVIL))
    app = open_page(PAGE, reading=reading)
    assert not app.error, words(app)
    (tokens,) = strips(app)
    assert "".join(tokens[1:]) == EVIL.replace("é", "\\xc3\\xa9")
    assert "evil" not in "".join(str(part.value) for part in [*app.markdown, *app.caption])
    loss = get_reading(site, reading).result["loss"]["mean_nats"]
    assert app.metric[0].value == f"{loss:.3f}"
    assert figure(app, "expected")["data"][0]["orientation"] == "h"
    table = app.dataframe[0].value
    assert table["Nats"].mean() == pytest.approx(loss, rel=1e-5)


def test_attention_is_chosen_by_layer_and_head(site: Context) -> None:
    reading = read(site, add_network(site, "oak"), ReadingConfig(text="a b\n c"))
    app = open_page(PAGE, reading=reading, tab="Attention")
    assert not app.error, words(app)
    first = figure(app, "attention_map")["data"][0]
    assert first["x"] == ["0 &lt;|bos|&gt;", "1 a", "2 ·", "3 b", "4 ↵", "5 ·", "6 c"], "spaces and breaks can be seen"
    app.selectbox(key=f"layer_{reading}").select(2).run()
    app.selectbox(key=f"head_{reading}_4").select(3).run()
    assert "Layer 2, head 3" in words(app)
    assert figure(app, "attention_map")["data"][0]["z"] != first["z"]
    app.segmented_control(key="attention_measure").select("entropy").run()
    assert not app.exception


def test_the_lens_shows_each_depth_over_a_window_of_a_long_text(site: Context) -> None:
    reading = read(site, add_network(site, "ash", family="deepseek_v3"), ReadingConfig(text="x" * 40))
    app = open_page(PAGE, reading=reading, tab="Logit lens")
    assert not app.error, words(app)
    assert len(figure(app, "lens_map")["data"][0]["text"]) == 4, "the embedding and three layers"
    app.segmented_control(key="lens_colour").select("kl").run()
    assert not app.exception
    last = figure(app, "lens_map")["data"][0]["z"]
    assert last["shape"] == "4, 24" if isinstance(last, dict) else max(last[-1]) == 0


def test_a_family_without_attention_says_so_and_a_long_text_where_it_was_cut(site: Context) -> None:
    torch.manual_seed(0)
    mamba = MambaForCausalLM(MambaConfig(vocab_size=262, hidden_size=16, num_hidden_layers=2, state_size=4))
    save_checkpoint(site.artifacts.path("checkpoints/eel"), model=mamba, tokenizer=byte_tokenizer(), meta={})
    with site.db.write() as session:
        session.add(Checkpoint(name="eel", origin="added", folder="checkpoints/eel", family="mamba"))
    reading = read(site, "eel", ReadingConfig(text="word " * 100))
    app = open_page(PAGE, reading=reading, tab="Attention")
    notes = [note.value for note in app.info]
    assert "The first 256 of 501 tokens were read" in notes[0]
    assert "mamba compute no attention maps" in notes[1]


def test_two_checkpoints_are_compared_token_by_token_or_by_byte(site: Context) -> None:
    oak, elm = add_network(site, "oak"), add_network(site, "elm", seed=1)
    reading = read(site, oak, ReadingConfig(text="The cat."), against=elm)
    app = open_page(PAGE, reading=reading, tab="Compare")
    assert not app.error, words(app)
    pair = get_reading(site, reading).result["pair"]
    assert f"{pair['mean_kl_pq']:.4f}" in [metric.value for metric in app.metric]
    assert "".join(strips(app)[0][1:]) == "The cat."
    app.button(key=f"weights_{oak}_{elm}").click().run()
    (weights,) = [one for one in list_readings(site, oak) if not one.config.of_text]
    do_job(site, str(weights.job_id))
    app = open_page(PAGE, reading=reading, tab="Compare")
    assert "the weights moved by" in words(app).replace("\\", "")


def test_weights_are_read_without_a_text(site: Context) -> None:
    oak = add_network(site, "oak", family="mixtral")
    app = open_page(PAGE, checkpoint=oak, tab="Weights")
    app.button(key=f"weights_{oak}_None").click().run()
    (reading,) = list_readings(site, oak)
    do_job(site, str(reading.job_id))
    app = open_page(PAGE, checkpoint=oak, tab="Weights")
    assert not app.error, words(app)
    table = app.dataframe[-1].value
    assert len(table) == get_reading(site, reading.id).result["facts"]["tensors"]
    app.segmented_control(key="weights_measure").select("spectral").run()
    app.selectbox(key="weights_name").select("lm_head.weight").run()
    assert not app.exception
    assert "262 × 32" in words(app).replace("\\", "")


def test_a_reading_that_failed_says_why(site: Context) -> None:
    oak = add_network(site, "oak")
    config = site.artifacts.path(str(get_checkpoint(site, oak).folder)) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 12}))
    reading = read(site, oak, ReadingConfig(text="The cat."))
    app = open_page(PAGE, reading=reading)
    assert not app.exception
    assert app.error[0].value
