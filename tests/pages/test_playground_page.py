"""The playground's page: what it gives to the conversation in the browser, the search, and endpoints that do not
run.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from backend.db.tables import Checkpoint, Conversation
from backend.domain.jobs.events import ReadyEvent
from backend.domain.serving.chat import ChatSettings, TurnSettings
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_next
from backend.services.serving.chat.contexts import EndpointFacts
from backend.services.serving.chat.presets import list_presets, save_preset
from backend.services.serving.chat.sharing import share_conversation
from backend.services.serving.deployments import deploy, stop_endpoint
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.prompts import get_prompt, save_prompt
from backend.services.serving.replicas import record_ready
from pages.components.serving.chat_form import CHAT_TEMPERATURE, TEXT_TEMPERATURE
from tests.support.opening import EVIL, open_page, words
from tests.support.serving.stored_chat import add_message, start_conversation

PAGE = "serve/playground.py"


def place(ctx: Context, name: str) -> None:
    """Deploy an endpoint whose one replica is ready."""
    with ctx.db.write() as session:
        checkpoint = Checkpoint(
            name=f"{name}-network", origin="added", folder="bases/tiny", family="llama", parameters=10
        )
        session.add(checkpoint)
        session.flush()
        checkpoint_id = checkpoint.id
    deploy(ctx, checkpoint_id=checkpoint_id, name=name, person=LOCAL)
    claim = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url="http://127.0.0.1:1"))


def chat_data(app: AppTest) -> dict[str, Any]:
    """Return what the page gives to the conversation in the browser."""
    (component,) = [part.proto for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_chat"]
    return dict(json.loads(component.json))


def test_the_page_gives_the_browser_settings_context_and_examples_of_the_endpoint(site: Context) -> None:
    place(site, "tales")
    place(site, "other")
    app = open_page(PAGE, endpoint="tales")
    data = chat_data(app)
    assert data["settings"]["endpoints"] == ["tales"]
    assert data["conversation"] is None
    assert len(data["examples"]) == 4
    app.multiselect[0].set_value(["tales", "other"]).run()
    app.toggle(key="blind_new").set_value(True).run()
    assert (chat_data(app)["settings"]["endpoints"], chat_data(app)["settings"]["blind"]) == (["tales", "other"], True)


def test_the_temperature_follows_the_endpoints_until_one_is_chosen(
    site: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page sent 0.8 until its settings were looked at, which showed and then sent 0.7."""
    place(site, "tales")
    place(site, "chatty")
    monkeypatch.setattr("backend.services.serving.endpoints._chats", lambda _, one: one.name.startswith("chatty"))
    for chosen, then in ((None, CHAT_TEMPERATURE), (0.3, 0.3)):
        app = open_page(PAGE, endpoint="tales")
        assert chat_data(app)["settings"]["temperature"] == TEXT_TEMPERATURE
        app.text_area(key="system_new").set_value("Be brief.").run()
        if chosen is not None:
            app.slider(key="temperature_new").set_value(chosen).run()
        app.multiselect(key="endpoints_new").set_value(["tales", "chatty"]).run()
        settings = chat_data(app)["settings"]
        assert (settings["temperature"], settings["system"]) == (then, "Be brief.")
        assert [one.value for one in app.slider if one.label == "Temperature"] == [then]


def test_the_meter_names_the_endpoint_whose_context_is_the_shortest(
    site: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """“64 of 64 tokens, the oldest turns will not be sent” stood under answers of which three had 512."""
    place(site, "tales")
    place(site, "other")
    lengths = {"tales": 512, "other": 512}
    monkeypatch.setattr(
        "backend.services.serving.chat.contexts.endpoint_facts",
        lambda _, names: {name: EndpointFacts(None, name, lengths[name]) for name in names},
    )
    app = open_page(PAGE, endpoint="tales")
    app.multiselect(key="endpoints_new").set_value(["tales", "other"]).run()
    assert (chat_data(app)["limit"], chat_data(app)["limit_of"]) == (512, None)
    lengths["other"] = 64
    app.run()
    assert (chat_data(app)["limit"], chat_data(app)["limit_of"]) == (64, "other")
    app.toggle(key="blind_new").set_value(True).run()
    assert chat_data(app)["limit_of"] == "one of them"


def test_a_new_conversation_is_blind_as_the_one_before_it(site: Context) -> None:
    """It was not, so the names of the endpoints that were being compared stood above the next answers."""
    place(site, "tales")
    place(site, "other")
    row = start_conversation(
        site,
        endpoint="tales",
        other_endpoint="other",
        sampling=TurnSettings(endpoints=("tales", "other"), blind=True),
        person=LOCAL,
    )
    app = open_page(PAGE, conversation=row.id)
    app.button(key="new_conversation").click().run()
    data = chat_data(app)
    assert data["conversation"] is None
    assert (data["settings"]["endpoints"], data["settings"]["blind"]) == (["tales", "other"], True)


def test_a_preset_fills_in_the_settings_of_the_next_turn(site: Context) -> None:
    place(site, "tales")
    save_preset(
        site, "Terse", ChatSettings(endpoints=("any",), system="Be brief.", temperature=0.3, seed=7), person=LOCAL
    )
    app = open_page(PAGE, endpoint="tales")
    (preset,) = list_presets(site, person=LOCAL)
    app.selectbox(key="preset_new").set_value(preset.id).run()
    assert not app.exception
    settings = chat_data(app)["settings"]
    assert (settings["system"], settings["temperature"], settings["seed"]) == ("Be brief.", 0.3, 7)
    assert all("broker" in warning.value for warning in app.warning), "no widget has both a value and a state"
    app.text_area(key="json_schema_new#1").set_value("{").run()
    assert len(app.error) == 2, "in the menu, and on the page under it"
    assert all("JSON schema: not JSON" in error.value.replace("\\", "") for error in app.error)
    app.text_area(key="json_schema_new#1").set_value('{"type": "wizard"}').run()
    assert "Invalid type: wizard" in app.error[0].value.replace("\\", "")
    app.text_area(key="json_schema_new#1").set_value("").run()
    app.text_area(key="tools_new#1").set_value('[{"type": "function", "function": {"name": "to morrow"}}]').run()
    assert "tool 1 is named 'to morrow'" in app.error[0].value.replace("\\", "")


def test_filters_penalties_and_stop_strings_reach_the_settings_and_stand_beside_the_form(site: Context) -> None:
    place(site, "tales")
    app = open_page(PAGE, endpoint="tales")
    app.number_input(key="top_k_new").set_value(40).run()
    app.slider(key="repetition_penalty_new").set_value(1.2).run()
    app.multiselect(key="stop_new").set_value(["###", r"\n"]).run()
    assert not app.exception
    settings = chat_data(app)["settings"]
    assert (settings["top_k"], settings["repetition_penalty"], settings["stop"]) == (40, 1.2, ["###", "\n"])
    assert [app.button(key=f"chip_{field}_new").label for field in ("top_k", "repetition_penalty")] == [
        "Top k 40",
        r"Repetition penalty 1\.2",
    ]
    app.button(key="chip_stop_new").click().run()
    app.button(key="chip_top_k_new").click().run()
    settings = chat_data(app)["settings"]
    assert (settings["top_k"], settings["repetition_penalty"], settings["stop"]) == (0, 1.2, [])
    assert not app.exception


def test_the_system_prompt_is_shown_as_text_and_removed(site: Context) -> None:
    place(site, "tales")
    app = open_page(PAGE, endpoint="tales")
    app.text_area(key="system_new").set_value(EVIL).run()
    assert any(text.value == EVIL for text in app.text)
    app.button(key="chip_system_new").click().run()
    assert chat_data(app)["settings"]["system"] == ""
    assert not any(text.value == EVIL for text in app.text)


def test_conversations_are_above_the_chat_and_new_leads_out_of_one(site: Context) -> None:
    place(site, "tales")
    row = start_conversation(site, endpoint="tales", person=LOCAL)
    add_message(site, row.id, role="user", content="Where does the mill stand?", person=LOCAL)
    app = open_page(PAGE)
    assert not [button for button in app.sidebar.button if str(button.key).startswith(("open_", "new_"))]
    app.button(key=f"recent_{row.id}").click().run()
    assert app.query_params["conversation"] in (row.id, [row.id])
    app.button(key="new_conversation").click().run()
    assert "conversation" not in app.query_params


def test_a_new_conversation_begins_with_the_endpoints_that_were_chosen_last(site: Context) -> None:
    """It began with the first of the list, which was another one than the person had talked to."""
    for name in ("lore", "tales"):
        place(site, name)
    row = start_conversation(site, endpoint="tales", person=LOCAL)
    add_message(site, row.id, role="user", content="Where does the mill stand?", person=LOCAL)
    app = open_page(PAGE)
    assert chat_data(app)["settings"]["endpoints"] == ["lore"]
    app.button(key=f"recent_{row.id}").click().run()
    app.button(key="new_conversation").click().run()
    assert chat_data(app)["settings"]["endpoints"] == ["tales"]


def test_a_prompt_of_the_team_fills_in_the_message_and_the_system_prompt(site: Context) -> None:
    place(site, "tales")
    save_prompt(site, "retell", {"system": "Be brief.", "text": "Retell {{tale}}"}, person=LOCAL)
    app = open_page(PAGE, endpoint="tales", prompt="retell")
    assert chat_data(app)["draft"] is None
    assert app.session_state["prompts_menu_0"], "what the link of the prompt's page chose is in sight"
    newest = get_prompt(site, "retell").newest.id
    app.text_area(key=f"prompt_new_{newest}_tale").set_value("{{ 7 * 7 }} <b>").run()
    app.button(key=f"prompt_new_{newest}_use").click().run()
    assert not app.exception
    assert chat_data(app)["draft"]["text"] == "Retell {{ 7 * 7 }} <b>", "what is filled in is not a template"
    assert chat_data(app)["settings"]["system"] == "Be brief."
    assert "prompt" not in app.query_params


def test_a_changed_prompt_is_saved_from_the_playground_as_the_next_version(site: Context) -> None:
    place(site, "tales")
    save_prompt(site, "retell", {"text": "Retell {{tale}}"}, person=LOCAL)
    app = open_page(PAGE, endpoint="tales", prompt="retell")
    key = f"prompt_new_{get_prompt(site, 'retell').newest.id}"
    assert app.button(key=f"{key}_save").disabled
    app.text_area(key=f"{key}_text").set_value("Retell {{tale").run()
    app.button(key=f"{key}_save").click().run()
    assert "is not a template" in app.error[0].value
    app.text_area(key=f"{key}_text").set_value("Retell {{tale}} at length").run()
    app.button(key=f"{key}_save").click().run()
    saved = get_prompt(site, "retell").newest
    assert (saved.number, saved.body.text) == (2, "Retell {{tale}} at length")


def test_a_shared_conversation_is_read_only(site: Context) -> None:
    row = start_conversation(site, endpoint="tales", person=LOCAL)
    add_message(site, row.id, role="user", content="Hello", person=LOCAL)
    share = share_conversation(site, row.id, person=LOCAL)
    data = chat_data(open_page(PAGE, shared=share.url.split("shared=")[1]))
    assert (data["token"], data["settings"], data["document"]["turns"][0]["text"]) == ("", None, "Hello")
    app = open_page(PAGE, shared=f"{share.id}.0")
    assert "does not lead to a conversation" in app.error[0].value


def test_conversations_are_searched_by_their_words(site: Context) -> None:
    place(site, "tales")
    for words_ in ("The mill stands", "A harbour_ 100%"):
        row = start_conversation(site, endpoint="tales", person=LOCAL)
        add_message(site, row.id, role="user", content="Question", person=LOCAL)
        add_message(site, row.id, role="assistant", content=words_, endpoint="tales", person=LOCAL)
    app = open_page(PAGE)
    for query, count in (("MILL", 1), ("question", 2), ("_ 100%", 1), ("%%", 0)):
        app.text_input(key="search_conversations").set_value(query).run()
        assert len([button for button in app.button if str(button.key).startswith("open_")]) == count, query


def test_the_address_of_a_stopped_endpoint_says_so_and_starts_it(site: Context) -> None:
    place(site, "tales")
    place(site, "other")
    stop_endpoint(site, "tales", person=LOCAL)
    app = open_page(PAGE, endpoint="tales")
    assert "is stopped" in app.warning[0].value
    assert not [part for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_chat"], (
        "nothing typed here could go to another endpoint unnoticed"
    )
    assert app.button(key="chat_other").label == "Chat with other"
    app.button(key="playground_start").click().run()
    assert get_endpoint(site, "tales").state == "starting"
    assert chat_data(app)["settings"]


def test_who_chats_and_follows_a_link_to_a_stopped_endpoint_sees_that_it_is_stopped(site: Context) -> None:
    place(site, "tales")
    place(site, "other")
    stop_endpoint(site, "tales", person=LOCAL)
    app = open_page(PAGE, endpoint="other")
    app.query_params["endpoint"] = "tales"
    app.run()
    assert not app.exception
    assert "is stopped" in app.warning[0].value


def test_the_address_of_an_unknown_endpoint_says_so(site: Context) -> None:
    place(site, "tales")
    app = open_page(PAGE, endpoint="nothing<b>")
    assert "There is no endpoint" in app.warning[0].value
    assert "<b>" not in app.warning[0].value.replace("\\<b\\>", "")
    app.button(key="chat_tales").click().run()
    assert chat_data(app)["settings"]


def test_a_setting_out_of_bounds_is_said_and_not_sent(site: Context) -> None:
    place(site, "tales")
    app = open_page(PAGE, endpoint="tales")
    field = next(one for one in app.number_input if one.label == "Max new tokens")
    field.set_value(1e9).run()
    assert not app.exception
    said = words(app).replace("\\", "")
    assert "1,000,000,000 is more than 100,000." in said
    assert "Settings. Max new tokens: 1,000,000,000 is more than 100,000." in said


def test_a_side_has_settings_of_its_own_as_chips_also_beside_the_same_endpoint(site: Context) -> None:
    place(site, "tales")
    app = open_page(PAGE, endpoint="tales")
    assert not [toggle for toggle in app.toggle if str(toggle.key).startswith("own_")], "alone there is one side"
    app.toggle(key="twice_new").set_value(True).run()
    settings = chat_data(app)["settings"]
    assert (settings["endpoints"], ChatSettings.model_validate(settings).differ) == (["tales", "tales"], False)
    app.toggle(key="own_new@tales (2)").set_value(True).run()
    app.slider(key="temperature_new@tales (2)#1").set_value(0.0).run()
    app.text_area(key="system_new@tales (2)#1").set_value("Be brief.").run()
    app.number_input(key="top_k_new").set_value(40).run()
    settings = ChatSettings.model_validate(chat_data(app)["settings"])
    assert settings.of_side(0).temperature > 0
    assert settings.own(1).changes == {"system": "Be brief.", "temperature": 0}, "the rest follows that of all"
    assert settings.of_side(1).top_k == 40
    assert app.button(key="chip_temperature_new@tales (2)").label == "Greedy"
    assert app.button(key="chip_system_new@tales (2)").label == r"System prompt\: Be brief\."
    app.button(key="chip_temperature_new@tales (2)").click().run()
    assert "temperature" not in ChatSettings.model_validate(chat_data(app)["settings"]).own(1).changes
    app.text_area(key="json_schema_new@tales (2)#3").set_value("{").run()
    assert "tales (2): JSON schema: not JSON" in app.error[-1].value.replace("\\", "")
    app.text_area(key="json_schema_new@tales (2)#3").set_value("").run()
    app.toggle(key="own_new@tales (2)").set_value(False).run()
    assert not ChatSettings.model_validate(chat_data(app)["settings"]).differ
    assert not app.exception


def test_endpoints_of_one_checkpoint_side_by_side_are_named_as_one_model(site: Context) -> None:
    for name in ("tales", "poems"):
        place(site, name)
    deploy(site, checkpoint_id=get_endpoint(site, "tales").checkpoint_id, name="stories", person=LOCAL)
    app = open_page(PAGE, endpoint="tales")
    app.multiselect(key="endpoints_new").set_value(["tales", "poems"]).run()
    assert "same checkpoint" not in words(app)
    app.multiselect(key="endpoints_new").set_value(["tales", "poems", "stories"]).run()
    shown = words(app).replace("\\", "")
    assert "stories and tales serve the same checkpoint, tales-network. No vote between their answers" in shown


def test_sides_whose_names_hold_one_another_keep_their_settings_apart(site: Context) -> None:
    """An endpoint `shared` broke the page; `a` took what was kept for `a_shared`, and the fields of `a_1`."""
    names = ("a", "a_shared", "a_1", "shared")
    for name in names:
        place(site, name)
    app = open_page(PAGE, endpoint="a")
    app.multiselect(key="endpoints_new").set_value(list(names)).run()
    for column, name in enumerate(names):
        app.toggle(key=f"own_new@{name}").set_value(True).run()
        app.slider(key=f"temperature_new@{name}#1").set_value(0.1 * column).run()
    app.toggle(key="own_new@a").set_value(False).run()
    assert not app.exception
    settings = ChatSettings.model_validate(chat_data(app)["settings"])
    temperatures = [round(settings.of_side(column).temperature, 2) for column in range(4)]
    assert temperatures == [settings.temperature, 0.1, 0.2, 0.3]


def test_stored_settings_of_a_side_come_back_with_their_conversation(site: Context) -> None:
    place(site, "tales")
    place(site, "other")
    row = start_conversation(site, endpoint="tales", person=LOCAL)
    settings = ChatSettings(
        endpoints=("tales", "other"), temperature=0.7, sides=({}, {"max_tokens": 12, "system": "Be brief."})
    )
    with site.db.write() as session:
        session.get_one(Conversation, row.id).sampling = settings
    app = open_page(PAGE, conversation=row.id)
    assert not app.exception
    assert ChatSettings.model_validate(chat_data(app)["settings"]).sides == settings.sides
    assert app.button(key=f"chip_max_tokens_{row.id}@other").label == "At most 12 tokens"
