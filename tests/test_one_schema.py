"""A new field of a config is one line in one file: widget, option, error and reference follow from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LINE = 'warmth: int = setting(3, "Warmth", "How warm.", ge=1, le=9{more})'
ADDED = (
    ("backend/domain/serving/deployment.py", "    max_running: int", LINE.format(more="")),
    ("backend/domain/evaluation/tasks/definition.py", "    joiner: str", LINE.format(more="")),
    (
        "backend/domain/training/config.py",
        "    device: Literal",
        LINE.format(more=", shown=Traits(affects=RESULT, group=FieldGroup.MAIN)"),
    ),
)
"""Files, what stands after the new line, and the line."""
FORMS = {
    "deployment": """
from pages.components.serving import rollout

rollout.missing_engines = lambda ctx: {}  # no database here, so no workers that report engines

def draw():
    rollout.draw_options(None, {}, previous=None, key="deployment")
""",
    "task": """
from backend.domain.evaluation.tasks.reading import read_task
from pages.components.evaluation.task_form import FIRST_TEXT, _draw_fields

def draw():
    _draw_fields(read_task(FIRST_TEXT), key="task")
""",
    "recipe": """
from backend.domain.training.config import parse_config
from backend.domain.training.config_fields import default_at, form_groups
from backend.domain.training.traits import FieldGroup
from backend.errors import InvalidInput
from pages.components.numbers import wrong_numbers
from pages.components.training.config_fields import draw_run_fields
from pages.components.training.launch_checks import mark_fields

def draw():
    values = {"dataset": "tales", "architecture": "small", "tokenizer": "words"}
    draw_run_fields(form_groups(default_at)[FieldGroup.MAIN], values)
    try:
        parse_config(values)
    except InvalidInput as error:
        mark_fields(error)
        wrong_numbers().append(error.message)
""",
}
BUTTON = """
import streamlit as st
from pages.components.numbers import number_form, wrong_numbers

@number_form
def form():
    draw()
    st.button("Go", key="go", disabled=bool(wrong_numbers()))

form()
"""
VISITOR = """
import sys
from streamlit.testing.v1 import AppTest

app = AppTest.from_string(sys.argv[1], default_timeout=200).run()
assert not app.exception, app.exception
(field,) = [one for one in app.number_input if one.label == "Warmth"]
print(field.help, field.value, app.button(key="go").disabled)
field.set_value(12.0).run()
print(*[part.value for part in app.markdown], app.button(key="go").disabled)
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with a line added to three files."""
    copy = tmp_path_factory.mktemp("one_schema")
    for folder in ("backend", "jobs", "pages", "docs"):
        copytree(PROJECT / folder, copy / folder, ignore=ignore_patterns("__pycache__", "images", "*.so"))
    for file, before, line in ADDED:
        path = copy / file
        text = path.read_text()
        assert text.count(before) == 1, file
        path.write_text(text.replace(before, f"    {line}\n{before}"))
    return copy


def run(copied: Path, *arguments: str, status: int = 0) -> str:
    """Return what Python prints in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(copied), "ROUNDHOUSE_HOME": str(copied / "home"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copied,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stderr[-2000:]
    return done.stdout + (done.stderr if status else "")


@pytest.mark.parametrize("config", FORMS)
def test_a_new_field_is_a_widget_with_help_default_and_error(copied: Path, config: str) -> None:
    first, wrong = run(copied, "-c", VISITOR, FORMS[config] + BUTTON).splitlines()
    assert first == "How warm. 3.0 False"
    assert "9" in wrong
    assert wrong.endswith("True"), "the button is off"


def test_a_new_field_of_a_deployment_is_an_option_that_refuses_a_wrong_value(copied: Path) -> None:
    deploy = ("-m", "backend.cli.main", "endpoint", "deploy")
    shown = run(copied, *deploy, "--help")
    assert "--warmth" in shown
    assert "How warm." in shown
    assert "warmth" in run(copied, *deploy, "--checkpoint", "a", "--name", "b", "--warmth", "12", status=2)


def test_a_new_field_of_a_recipe_or_a_task_is_read_from_yaml_and_a_wrong_one_is_named(copied: Path) -> None:
    code = """
from backend.domain.evaluation.tasks.reading import read_task
from backend.domain.training.config import parse_run_config
from backend.errors import InvalidInput
from pages.components.evaluation.task_form import FIRST_TEXT
run = "objective: pretrain\\ndataset: tales\\narchitecture: small\\ntokenizer: words\\n"
print(read_task(FIRST_TEXT + "warmth: 4\\n").warmth, parse_run_config(run + "warmth: 5\\n").warmth)
for read, text in ((read_task, FIRST_TEXT), (parse_run_config, run)):
    try:
        read(text + "warmth: 12\\n")
    except InvalidInput as error:
        print(error)
"""
    good, *bad = run(copied, "-c", code).splitlines()
    assert good == "4 5"
    assert len(bad) == 2
    assert all("warmth" in line and "9" in line and "12" in line for line in bad)


def test_a_new_field_is_a_row_of_the_reference(copied: Path) -> None:
    run(copied, "docs/generate.py")
    rows = [line for line in (copied / "docs" / "fields.md").read_text().splitlines() if "How warm." in line]
    assert len(rows) == 3
    assert "| `--warmth` | Warmth | whole number ≥ 1, ≤ 9 | 3 | How warm. |" in rows
