"""Numbers as a visitor types them: a value that can't be used blocks the form, and the rest of the form is drawn."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from pages.components.numbers import describe_problem, join_steps, nearest_valid, number_format
from tests.support.opening import words


@pytest.mark.parametrize(
    ("value", "least", "most", "is_whole", "problem", "used"),
    [
        (None, 1, 5, True, "", None),
        (3.0, 1, 5, True, "", 3),
        (100_000.0, 1, None, True, "", 100_000),
        (2.5, 1, 5, True, "2.5 is not a whole number.", 2),
        (1_234_567.5, 1, None, True, "1,234,567.5 is not a whole number.", 1_234_568),
        (0.5, 1, None, True, "0.5 is not a whole number.", 1),
        (0.0, 1, 5, True, "0 is less than 1.", 1),
        (9.0, 1, 5, True, "9 is more than 5.", 5),
        (-1.0, None, 5, True, "", -1),
        (0.25, 0.0, 1.0, False, "", 0.25),
        (1.5, 0.0, 1.0, False, "1.5 is more than 1.", 1.0),
    ],
)
def test_a_number_is_used_or_its_problem_is_said(
    value: float | None, least: float | None, most: float | None, is_whole: bool, problem: str, used: float | None
) -> None:
    assert describe_problem(value, least, most, is_whole=is_whole) == problem
    assert nearest_valid(value, least, most, is_whole=is_whole) == used
    assert isinstance(nearest_valid(value, least, most, is_whole=is_whole), int) == (is_whole and value is not None)


def _form() -> None:
    import streamlit as st

    from pages.components.numbers import draw_number, number_form, wrong_numbers

    @number_form
    def draw(name: str) -> None:
        count = draw_number(st, f"Count {name}", 1, 5, 2, key=f"count_{name}")
        st.text(f"{name} {count}")
        st.button(f"Save {name}", key=f"save_{name}", disabled=bool(wrong_numbers()))

    draw("first")
    draw("second")


def test_a_wrong_number_blocks_its_own_form_alone() -> None:
    app = AppTest.from_function(_form, default_timeout=200).run()
    app.number_input(key="count_first").set_value(7.0).run()
    assert not app.exception
    assert "7 is more than 5." in words(app).replace("\\", "")
    assert [button.disabled for button in app.button] == [True, False]
    app.number_input(key="count_first").set_value(4.0).run()
    assert [button.disabled for button in app.button] == [False, False]
    assert [text.value for text in app.text] == ["first 4", "second 2"]


def _named_form() -> None:
    import streamlit as st

    from pages.components.numbers import draw_number, form_button, number_form

    @number_form
    def draw() -> None:
        name = st.text_input("Name", key="name")
        parts = st.multiselect("Parts", ["one"], key="parts")
        draw_number(st, "Count", 1, 5, 2, key="count")
        missing = {"enter a name": not name.strip(), "choose a part": not parts}
        if form_button("Create", missing, key="create", icon="add"):
            st.text("created")

    draw()


def test_a_button_that_is_off_says_what_is_missing() -> None:
    """*Create* of gates and suites was off without a reason."""
    app = AppTest.from_function(_named_form, default_timeout=200).run()
    button = app.button(key="create")
    assert (button.label, button.disabled) == ("Enter a name and choose a part", True)
    app.text_input(key="name").set_value("release").run()
    assert app.button(key="create").label == "Choose a part"
    app.number_input(key="count").set_value(9.0)
    app.multiselect(key="parts").set_value(["one"]).run()
    assert (app.button(key="create").label, app.button(key="create").disabled) == ("Correct the field first", True)
    app.number_input(key="count").set_value(3.0).run()
    assert (app.button(key="create").label, app.button(key="create").disabled) == ("Create", False)
    app.button(key="create").click().run()
    assert [text.value for text in app.text] == ["created"]


@pytest.mark.parametrize(
    ("value", "is_whole", "format_"),
    [
        (None, False, "%g"),
        (0.0, False, "%g"),
        (0.25, False, "%g"),
        (0.001, False, "%g"),
        (0.00005, False, "%e"),
        (-0.0000123456789, False, "%e"),
        (1.23456e20, False, "%e"),
        (1e9, True, "%.0f"),
        (2.5, True, "%g"),
    ],
)
def test_a_number_is_shown_with_every_digit_and_few_zeros(value: float | None, is_whole: bool, format_: str) -> None:
    assert number_format(value, is_whole=is_whole) == format_


@pytest.mark.parametrize(
    ("steps", "phrase"),
    [
        ([], ""),
        (["enter a name"], "enter a name"),
        (["enter a name", "choose a file"], "enter a name and choose a file"),
        (["enter a name", "enter the address", "enter the model"], "enter a name, the address and the model"),
    ],
)
def test_what_is_still_to_do_is_one_phrase(steps: list[str], phrase: str) -> None:
    assert join_steps(steps) == phrase
