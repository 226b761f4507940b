"""Forms made of a schema: the widget of each kind of field, its error below it, and the button that an error blocks."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from tests.support.opening import words


def _form() -> None:
    from typing import Literal

    import streamlit as st
    from pydantic import BaseModel

    from backend.domain.fields import setting, when
    from pages.components.forms import draw_fields, read_form
    from pages.components.numbers import number_form, wrong_numbers

    class Oven(BaseModel):
        heat: float = setting(180.0, "Heat", "Degrees inside.", gt=0, lt=300, unit="°C")
        share: float = setting(0.05, "Share", ge=0, le=0.5, unit="%", scale=100)
        mode: Literal["grill", "bake"] = setting("bake", "Mode", choices={"grill": "Grill"})
        flame: int = setting(3, "Flame", ge=1, used=(when("mode", "grill"),))
        timer: int | None = setting(None, "Timer", ge=1, empty="No limit")
        light: bool = setting(True, "Light")
        minutes: tuple[int, ...] = setting((5, 10), "Minutes")
        tools: tuple[Literal["tongs", "glove"], ...] = setting((), "Tools")
        dish: str = setting("pie", "Dish", max_length=20)
        sauce: str | None = setting(None, "Sauce")
        note: str = setting("", "Note", lines=3)
        rest: int = setting(1, "Rest", group="Later")

    @number_form
    def draw() -> None:
        values = draw_fields(
            Oven,
            key="oven",
            values={"heat": 200.0},
            choices={"sauce": {None: "None", "a": "Apple"}},
            disabled={"dish": "Chosen by the cook."},
        )
        config = read_form(Oven, values)
        st.text("none" if config is None else config.model_dump_json())
        st.button("Bake", key="go", disabled=bool(wrong_numbers()))

    draw()


def test_each_field_gets_the_widget_of_its_kind_with_the_words_of_the_schema() -> None:
    app = AppTest.from_function(_form, default_timeout=200).run()
    assert not app.exception
    heat = app.number_input(key="oven_heat")
    assert (heat.label, heat.value, heat.help) == ("Heat (°C)", 200.0, "Degrees inside.")
    assert app.number_input(key="oven_share").value == 5.0
    assert app.number_input(key="oven_timer").placeholder == "No limit"
    assert app.selectbox(key="oven_mode").options == ["Grill", "bake"]
    assert app.multiselect(key="oven_tools").options == ["tongs", "glove"]
    assert app.toggle(key="oven_light").value is True
    assert app.text_input(key="oven_minutes").value == "5, 10"
    assert app.text_input(key="oven_dish").disabled
    assert app.text_input(key="oven_dish").help == "Chosen by the cook."
    assert app.selectbox(key="oven_sauce").options == ["None", "Apple"]
    assert app.text_area(key="oven_note").label == "Note"
    assert {"oven_flame", "oven_rest"}.isdisjoint(widget.key for widget in app.number_input), "unused, and of a group"


def test_what_is_entered_is_the_config() -> None:
    app = AppTest.from_function(_form, default_timeout=200).run()
    app.selectbox(key="oven_mode").set_value("grill").run()
    app.number_input(key="oven_flame").set_value(7.0)
    app.number_input(key="oven_share").set_value(7.0)
    app.text_input(key="oven_minutes").set_value("3,4")
    app.multiselect(key="oven_tools").set_value(["glove"])
    app.selectbox(key="oven_sauce").set_value("a").run()
    said = app.text[0].value
    for part in ('"heat":200.0', '"share":0.07', '"mode":"grill"', '"flame":7', '"timer":null', '"minutes":[3,4]'):
        assert part in said
    assert '"tools":["glove"]' in said
    assert '"sauce":"a"' in said


def test_a_wrong_field_says_so_below_it_and_blocks_the_button() -> None:
    app = AppTest.from_function(_form, default_timeout=200).run()
    assert not app.button(key="go").disabled
    for key, value, problem in (
        ("oven_heat", 0.0, "0 is not more than 0."),
        ("oven_share", 60.0, "60 is more than 50."),
        ("oven_timer", 2.5, "2.5 is not a whole number."),
    ):
        app.number_input(key=key).set_value(value).run()
        assert problem in words(app).replace("\\", "")
        assert app.button(key="go").disabled
        app.number_input(key=key).set_value(1.0).run()
        assert not app.button(key="go").disabled
    app.text_input(key="oven_minutes").set_value("soon").run()
    assert "“soon” is not a whole number." in words(app).replace("\\", "")
    assert app.button(key="go").disabled


def _refused_form() -> None:
    from typing import Literal

    import streamlit as st
    from pydantic import BaseModel

    from backend.domain.fields import setting, when
    from backend.errors import InvalidInput
    from pages.components.forms import draw_fields, draw_refusal, refusals_marked
    from pages.components.numbers import number_form

    class Oven(BaseModel):
        mode: Literal["grill", "bake"] = setting("grill", "Mode")
        flame: int = setting(3, "Flame", ge=1, used=(when("mode", "grill"),))

    @number_form
    def draw() -> None:
        values = draw_fields(Oven, key="oven")
        if st.button("Light", key="go"):
            with refusals_marked(values, key="oven"):
                raise InvalidInput("No gas for that.", remedy="Take less.", field="flame")
        draw_refusal(Oven, key="oven")

    draw()


def test_the_error_of_a_refused_field_goes_when_the_field_does() -> None:
    """It stood beside the button until the next press, about a field that was no longer there."""
    app = AppTest.from_function(_refused_form, default_timeout=200).run()
    app.button(key="go").click().run()
    assert "No gas for that." in words(app).replace("\\", "")
    app.selectbox(key="oven_mode").set_value("bake").run()
    assert "No gas" not in words(app)
    app.selectbox(key="oven_mode").set_value("grill").run()
    assert "No gas" not in words(app)
