"""The launch page in tests: a form that can be launched, its fields, and the config that it shows."""

from __future__ import annotations

from typing import Any

from streamlit.testing.v1 import AppTest

from backend.db.tables import Checkpoint
from backend.domain.training.config import parse_run_config
from backend.domain.training.config_fields import flatten
from backend.services.architectures import save_architecture
from backend.services.context import LOCAL, Context
from tests.support.opening import open_page, open_panel
from tests.support.run_world import SHAPE
from tests.support.scenario import Scenario, add_row


def open_form(**query: str) -> AppTest:
    """The launch page with a form that can be launched."""
    page = open_page("build/launch.py", dataset="tales", architecture="small", **query)
    page.selectbox(key="launch_tokenizer").select("pieces").run()
    page.number_input(key="launch_context").set_value(32).run()
    return page


def keys(page: AppTest) -> set[str]:
    """The fields that are drawn."""
    drawn = [*page.number_input, *page.selectbox, *page.toggle, *page.multiselect, *page.text_area, *page.text_input]
    return {str(widget.key).removeprefix("launch_") for widget in drawn if str(widget.key).startswith("launch_")}


def shown(page: AppTest) -> dict[str, Any]:
    """The config that the page shows as YAML."""
    return flatten(parse_run_config(open_panel(page, "launch_yaml_panel").code[0].value))


def add_base(ctx: Context, name: str = "oak", *, parameters: int = 1_000_000, context: int = 512) -> None:
    """Insert a base of an unknown family."""
    add_row(
        ctx,
        Checkpoint(
            name=name,
            origin="added",
            folder=f"checkpoints/{name}",
            parameters=parameters,
            facts={"context": context},
        ),
    )


def add_starter(ctx: Context) -> None:
    """Insert what the starter recipe names."""
    Scenario(ctx).dataset("pebblewick-stories")
    Scenario(ctx).tokenizer("pebblewick-bpe-2048", vocab_size=2010)
    save_architecture(
        ctx,
        name="pebblewick-1m",
        config=SHAPE.model_copy(update={"vocab_size": 2048, "context": 256, "width": 128}),
        person=LOCAL,
    )
