"""Choices whose labels change between two clicks, and callbacks that fail: the page stays, and nothing chosen is
lost.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from backend.settings import PROJECT
from tests.support.opening import send_labels, words

CHOICES = ("selectbox", "multiselect", "radio")
CALLBACKS = ("on_click", "on_change", "on_select", "on_submit")
PLAIN_CALLBACKS = ("'rerun'", "'ignore'", "lambda: None", "None")


def _choosing() -> None:
    import streamlit as st

    from pages.components.choices import by_identity

    texts = {"first": "one · 59 s ago", "second": "two · 59 s ago", "third": "two · 59 s ago"}
    tick = st.session_state.setdefault("tick", 0)
    labels = {key: text.replace("59 s", f"{tick} min") if tick else text for key, text in texts.items()}
    one = st.selectbox("One", list(labels), key="one", format_func=by_identity("one", labels, labels.__getitem__))
    several = st.multiselect(
        "Several", list(labels), key="several", format_func=by_identity("several", labels, labels.__getitem__)
    )
    st.text(f"chosen: {one} and {', '.join(several)}")


def _failing() -> None:
    import streamlit as st

    from backend.errors import InvalidInput
    from pages.components.frame import handled, live_part, page_frame

    def refuse() -> None:
        raise InvalidInput("The field is empty.", remedy="Fill it in.")

    def break_down() -> None:
        raise KeyError("secret")

    with page_frame("Some page"):
        st.button("Refused", key="refused", on_click=handled(refuse))
        st.button("Broken", key="broken", on_click=handled(break_down))
        if st.button("Misused", key="misused"):
            st.columns(-1)
        live_part()(lambda: st.text("the page stays"))()


def test_a_choice_is_kept_while_its_label_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen went back to the first option, or reached the page as text, once "59 s ago" was "1 min ago"."""
    app = AppTest.from_function(_choosing, default_timeout=200).run()
    app.selectbox(key="one").select("second").run()
    app.multiselect(key="several").select("first").run()
    app.session_state["tick"] = 1
    app.run()
    assert app.selectbox(key="one").proto.raw_value == "two · 1 min ago · seco", "the browser gets the new label"
    send_labels(app, monkeypatch, {"one": "two · 59 s ago · seco", "several": ["one · 59 s ago"]})
    assert not app.exception
    assert app.text[0].value == "chosen: second and first"


def test_options_of_equal_labels_are_told_apart() -> None:
    app = AppTest.from_function(_choosing, default_timeout=200).run()
    assert app.selectbox(key="one").options == ["one · 59 s ago", "two · 59 s ago · seco", "two · 59 s ago · thir"]
    app.selectbox(key="one").select("second").run()
    assert app.text[0].value.startswith("chosen: second ")


def _choosing_among_long_names() -> None:
    import streamlit as st

    from pages.components.choices import choose_from

    run = "Alice Größe 1 – first run, small"
    plum, pear = (
        "Fine-tune pebblewick stories on plum chats of may",
        "Fine-tune pebblewick stories on pear chats of may",
    )
    names = {f"{run} · step 80": "5.5 K parameters", f"{run} · step 60": "5.5 K parameters"}
    names |= {f"{run} · step 1200 (diverged)": "120.5 M parameters", plum: "1 row", pear: "1 row"}
    names |= {"x" * 60 + end: "" for end in ("first", "last")}
    chosen = choose_from("One", names, words=lambda name: f"{name} · {names[name]}" if names[name] else "x", key="one")
    st.text(f"chosen: {chosen}")


def test_labels_of_long_names_are_distinct_and_show_their_steps() -> None:
    """Both checkpoints of a run of 32 characters had one label, without a step, and each click chose the second."""
    app = AppTest.from_function(_choosing_among_long_names, default_timeout=200).run()
    box = app.selectbox(key="one")
    assert len(set(box.options)) == len(box.options)
    assert box.options[:5] == [
        "Alice Gr…mall · step 80 · 5.5 K parameters",
        "Alice Gr…mall · step 60 · 5.5 K parameters",
        "Alice G…mall · step 1200 (diverged) · 120.5 M parameters",
        "Fine-tune pebblewick stories on plum chats of may · 1 row",
        "Fine-tune pebblewick stories on pear chats of may · 1 row",
    ]
    box.select(box.options[0]).run()
    assert app.text[0].value == "chosen: Alice Größe 1 – first run, small · step 80"


@pytest.mark.usefixtures("site")
def test_a_callback_that_fails_leaves_the_page_with_cause_and_cure() -> None:
    """Streamlit's error screen took the page's place."""
    app = AppTest.from_function(_failing, default_timeout=200).run()
    app.button(key="refused").click().run()
    assert not app.exception
    assert [error.value.replace("\\", "") for error in app.error] == ["The field is empty.  \nFill it in."]
    assert "the page stays" in words(app)
    app.button(key="broken").click().run()
    assert not app.exception
    assert ["KeyError" in error.value for error in app.error] == [True]
    assert "secret" not in words(app)
    assert "the page stays" in words(app)
    app.run()
    assert not app.error, "an error is shown once"


@pytest.mark.usefixtures("site")
def test_what_streamlit_refuses_is_said_in_the_page_too() -> None:
    """Its error screen took the page's place: its exceptions were taken for reruns."""
    app = AppTest.from_function(_failing).run()
    app.button(key="misused").click().run()
    assert not app.exception
    assert [error.value.startswith("Something went wrong on our side") for error in app.error] == [True]


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def modules() -> list[Path]:
    return sorted((PROJECT / "pages").rglob("*.py"))


def test_labels_made_of_data_are_chosen_by_identity() -> None:
    """A `format_func` may use constants, module functions and the option itself; all others go through
    `by_identity`.
    """
    found = []
    for path in modules():
        tree = ast.parse(path.read_text())
        known = {
            alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        known |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        known |= {"range", "str", "len"}
        for call in calls(path):
            if not (isinstance(call.func, ast.Attribute) and call.func.attr in CHOICES):
                continue
            for function in (word.value for word in call.keywords if word.arg == "format_func"):
                own = {
                    argument.arg
                    for node in ast.walk(function)
                    if isinstance(node, ast.Lambda)
                    for argument in node.args.args
                }
                names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                local = {name for name in names - own - known if not name.isupper()}
                if local and not (names & {"by_identity"} or names <= {"words"}):
                    found.append(f"{path.relative_to(PROJECT)}:{call.lineno} {ast.unparse(function)}")
    assert found == []


def is_plain(callback: ast.expr) -> bool:
    """Return whether a callback runs nothing of ours, whichever of two it is."""
    if isinstance(callback, ast.IfExp):
        return is_plain(callback.body) and is_plain(callback.orelse)
    return ast.unparse(callback) in PLAIN_CALLBACKS


def _redrawn() -> None:
    import streamlit as st

    from backend.errors import Conflict
    from pages.components.frame import live_part, page_frame, rerun_after

    def draw() -> None:
        st.text("drawn again every three seconds")
        if st.button("Refused", key="refused"):
            with rerun_after():
                raise Conflict("Its files are gone.", remedy="Choose another.")

    with page_frame("Some page"):
        live_part(3)(draw)()


def test_a_refusal_in_a_part_that_is_drawn_again_stays_above_it() -> None:
    """It was drawn in the part, and gone with the part's next drawing, at once or within three seconds."""
    app = AppTest.from_function(_redrawn, default_timeout=200).run()
    app.button(key="refused").click().run()
    drawn = [element.type for element in app.main]
    assert [error.value for error in app.error] == ["Its files are gone\\.  \nChoose another\\."]
    assert drawn.index("error") < drawn.index("text")


def test_callbacks_pass_through_the_error_frame() -> None:
    found = []
    for path in modules():
        decorated = {
            node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef) and "handled" in map(ast.unparse, node.decorator_list)
        } | {"mark_typed"}
        for call in calls(path):
            for word in call.keywords:
                text = ast.unparse(word.value)
                if word.arg in CALLBACKS and not (
                    is_plain(word.value) or text in decorated or text.startswith("handled(")
                ):
                    found.append(f"{path.relative_to(PROJECT)}:{call.lineno} {text}")
    assert found == []
