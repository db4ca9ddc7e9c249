"""The panel of a chat: its preset, its own values, and their display on other pages."""

import json
import re
import urllib.error

import pytest

from tests.wording import pattern, text
from webapp.web.chat import sidebars
from webapp.web.chat.sidebars import options


@pytest.fixture
def preset(roost):
    presets = roost.app.extensions["presets"]
    made = presets.create("Bold", {"temperature": 1.5, "system_prompt": "Be bold."})
    yield made
    presets.delete(made.id)


def knob(page, name):
    return re.search(
        rf'<div class="knob([^"]*)" data-default="([^"]*)">\s*<div class="knob-top">\s*<label[^>]*knob-{name}"', page
    )


def base(**changes):
    drawn = {"temperature": "1", "top_p": "0.3", "global_penalty": "false", "think_mode": "none"}
    return json.dumps({**drawn, **changes})


def test_every_sampling_parameter_is_there_and_the_chats_own_is_marked(roost):
    page = roost.get(f"/chat/{roost.store.create(sampling={'top_k': 40}).id}")
    names = re.findall(r'id="knob-(\w+)"', page)
    assert len(names) == 10 and {"temperature", "min_p", "seed", "global_penalty"} <= set(names)
    assert "is-changed" in knob(page, "top_k")[1] and "is-changed" not in knob(page, "min_p")[1]
    assert '<details class="panel-more" id="more-knobs" open>' in page


def test_the_preset_a_chat_follows_is_named_and_sets_the_values(roost, preset):
    chat = roost.store.create(preset_id=preset.id)
    page = roost.get(f"/chat/{chat.id}")
    assert re.search(r'<a class="head-preset" [^>]*><span>Bold</span>', page)
    assert knob(page, "temperature")[2] == "1.5" and 'placeholder="Be bold."' in page
    assert f'<option value="{preset.id}" selected>Bold</option>' in page


def test_a_new_chat_can_begin_with_a_preset(roost, preset):
    assert f'<option value="{preset.id}" selected>' in roost.get(f"/?preset={preset.id}")
    assert "selected>Bold" not in roost.get("/?preset=../../etc")
    address, _ = roost.post("/chat/do", do="options", chat="", preset=preset.id)
    assert address == f"/?preset={preset.id}"


def test_a_page_rendered_before_the_preset_changed_keeps_no_old_value(roost, preset):
    """It shows temperature 1 as the preset's; only the changed top_p belongs to the chat."""
    chat = roost.store.create(preset_id=preset.id)
    roost.post("/chat/do", do="options", chat=chat.id, base=base(), temperature="1", top_p="0.5")
    assert roost.store.get(chat.id).sampling == {"top_p": 0.5}


def test_a_switch_that_is_off_counts_as_off(roost):
    chat = roost.store.create(sampling={"global_penalty": True})
    roost.post("/chat/do", do="options", chat=chat.id, base=base(), temperature="1")
    assert roost.store.get(chat.id).sampling == {}
    roost.post("/chat/do", do="options", chat=chat.id, base=base(), temperature="1", global_penalty="true")
    assert roost.store.get(chat.id).sampling == {"global_penalty": True}


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": "nowhere"},
        {"preset": "x" * 65},
        {"state": "nowhere.pth"},
        {"state": "../../etc/passwd"},
        {"template": "evil"},
        {"seed": "-1"},
        {"top_k": ""},
        {"base": "[" * 3000},
        {"base": "[]"},
        {"think_mode": "forever"},
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(roost, fields):
    before = roost.store.create(title="Kept", sampling={"top_p": 0.9})
    with pytest.raises(urllib.error.HTTPError) as refused:
        roost.post("/chat/do", do="options", chat=before.id, **fields)
    assert 400 <= refused.value.code < 500 and "toast-error" in refused.value.read().decode()
    assert roost.store.get(before.id) == before


def test_a_panel_is_saved_as_a_preset_that_the_chat_then_follows(roost, preset):
    chat = roost.store.create(preset_id=preset.id, sampling={"top_p": 0.8}, system_prompt="Mine.")
    page = roost.socket()
    page.open(chat.id)
    page.send(do="save_preset", chat=chat.id, name="Bolder", sent_as="c1")
    frames = page.until_type("accepted")
    saved = text("chat.done.preset_saved", name="Bolder")
    assert any(isinstance(frame, str) and saved in frame for frame in frames)
    page.close()
    after = roost.store.get(chat.id)
    made = roost.app.extensions["presets"].get(after.preset_id)
    assert (made.name, made.system_prompt) == ("Bolder", "Mine.")
    assert made.sampling == {"temperature": 1.5, "top_p": 0.8}
    assert (after.sampling, after.system_prompt) == ({}, "")
    roost.app.extensions["presets"].delete(made.id)


def test_choosing_a_preset_renders_the_panel_again_and_moving_a_slider_does_not(roost, preset):
    page = roost.socket()
    page.open()
    page.until(lambda frame: isinstance(frame, str) and 'id="options"' in frame)
    page.send(do="options", chat="", preset="", base=base(), temperature="0.5", sent_as="c1")
    assert not any('id="options"' in frame for frame in page.until_type("accepted") if isinstance(frame, str))
    page.send(do="options", chat="", preset=preset.id, base=base(), temperature="0.5", sent_as="c2")
    drawn = next(f for f in page.until_type("accepted") if isinstance(f, str) and 'id="options"' in f)
    assert 'value="0.5"' in drawn and knob(drawn, "temperature")[2] == "1.5"
    page.close()


def test_the_first_message_of_a_chat_renders_no_panel(roost):
    """The page shows it already; only the chat of its form is new, which the page sets itself."""
    shown = re.search(r'data-fingerprint="(\w+)"', roost.get("/"))[1]
    page = roost.socket()
    page.send(do="open", chat="", shown=[], panel=shown)
    page.send(do="send", chat="", text="Hello")
    frames = page.until_type("finished")
    page.close()
    assert any(isinstance(frame, dict) and frame["type"] == "chat" for frame in frames)
    assert not any(isinstance(frame, str) and 'id="options"' in frame for frame in frames)


def test_a_message_renders_no_title_and_another_name_does(roost):
    chat_id = roost.answered()
    page = roost.socket()
    page.open(chat_id)
    page.until_type("answering")
    page.send(do="send", chat=chat_id, text="Why?")
    frames = page.until_type("finished")
    assert not any(isinstance(frame, str) and 'id="chat-title"' in frame for frame in frames)
    page.send(do="rename_chat", chat=chat_id, title="Herons")
    page.until(lambda frame: isinstance(frame, str) and 'id="chat-title"' in frame and "Herons" in frame)
    page.close()


def test_one_panel_is_made_for_all_chats_that_answer_alike(roost, monkeypatch):
    made = []
    monkeypatch.setattr(sidebars, "options", lambda page, chat: (made.append(chat.id), options(page, chat))[1])
    system_prompt = "Made once: alpha."
    chats = [roost.store.create(title=title, system_prompt=system_prompt) for title in "abc"]
    pages = [roost.get(f"/chat/{chat.id}") for chat in chats]
    assert made == [chats[0].id] and all(system_prompt in page for page in pages)
    form = r'<input type="hidden" name="chat" value="(\w+)" form="options">'
    assert [re.search(form, page)[1] for page in pages] == [chat.id for chat in chats]
    roost.store.set_system_prompt(chats[1].id, "Another.")
    assert "Another." in roost.get(f"/chat/{chats[1].id}") and len(made) == 2
    assert roost.get(f"/chat/{chats[0].id}?lang=zh") and len(made) == 3  # in each language


def test_an_open_page_hears_of_a_preset_saved_elsewhere(roost, preset):
    page = roost.socket()
    page.open(roost.store.create(preset_id=preset.id).id)
    page.until(lambda frame: isinstance(frame, str) and 'id="options"' in frame)
    roost.app.extensions["presets"].save(preset.id, {"temperature": 0.4})
    drawn = page.until(lambda frame: isinstance(frame, str) and 'id="options"' in frame)[-1]
    assert knob(drawn, "temperature")[2] == "0.4"
    page.close()


def test_a_preset_for_another_model_offers_to_load_it_or_says_it_is_not_here(roost):
    presets = roost.app.extensions["presets"]
    page = roost.get(f"/?preset={presets.find('coding').id}")
    assert re.search(pattern("chat.offer.missing", preset="Coding"), page) and 'href="/models"' in page
    assert 'id="load-offer" role="status" hidden' in roost.get("/")


@pytest.fixture
def tools(roost):
    from webapp.storage.tools import ToolStore
    from webapp.tools.definition import ToolDefinition

    store = ToolStore(roost.app.extensions["database"])
    made = store.create_all([ToolDefinition(name, "") for name in ("clock", "weather")])
    yield {tool.definition.name: tool.id for tool in made}
    for tool in made:
        store.delete(tool.id)


@pytest.fixture
def armed(roost, tools):
    """A preset with one of the two tools."""
    presets = roost.app.extensions["presets"]
    made = presets.create("Armed", {"tools": ["weather", "gone"], "tool_dialect": "hermes"})
    yield made
    presets.delete(made.id)


def tool_form(page):
    """The fields about tools that the page's form would send."""
    shown = re.search(r'name="tools_form" value="(\w+)"', page)[1]
    names = re.findall(r'name="(tool:\w+)" value="1" checked', page)
    on = {"tools_on": "1"} if re.search(r'name="tools_on"[^>]* checked', page) else {}
    return {"tools_form": shown, **dict.fromkeys(names, "1"), **on}


def test_a_chat_offers_its_presets_tools_until_it_chooses_its_own(roost, armed, tools):
    chat = roost.store.create(preset_id=armed.id)
    form = tool_form(roost.get(f"/chat/{chat.id}"))
    assert [name for name in form if name.startswith("tool:")] == [f"tool:{tools['weather']}"] and "tools_on" in form
    roost.post("/chat/do", do="options", chat=chat.id, base=base(), top_p="0.5", **form)
    assert not roost.store.get(chat.id).tools.is_own
    roost.post("/chat/do", do="options", chat=chat.id, **{**form, f"tool:{tools['clock']}": "1"})
    own = roost.store.get(chat.id).tools
    assert own.is_own and set(own.tool_ids) == set(tools.values())
    del form["tools_on"]
    roost.post("/chat/do", do="options", chat=chat.id, **form)
    assert roost.store.get(chat.id).tools.is_own and not roost.store.get(chat.id).tools.is_on
    assert "tools_on" not in tool_form(roost.get(f"/chat/{chat.id}"))


def test_a_chat_saved_as_a_preset_keeps_its_tools(roost, armed, tools):
    chat = roost.store.create(preset_id=armed.id)
    form = tool_form(roost.get(f"/chat/{chat.id}"))
    roost.post("/chat/do", do="options", chat=chat.id, **{**form, f"tool:{tools['clock']}": "1"})
    roost.post("/chat/do", do="save_preset", chat=chat.id, name="Both tools")
    presets = roost.app.extensions["presets"]
    saved = presets.find("Both tools")
    presets.delete(saved.id)
    assert sorted(saved.tools) == ["clock", "weather"] and saved.tool_dialect == "hermes"


def test_the_switcher_marks_what_answers_and_lets_a_guest_load_nothing(roost, preset):
    chat = roost.store.create(preset_id=preset.id)
    page = roost.get(f"/chat/switch?chat={chat.id}")
    assert re.search(rf'value="{preset.id}" aria-current="true"', page)
    assert re.search(r'<button [^>]*name="model" value="roost-starter-v7.safetensors"(?![^>]* disabled)', page)
    seen = roost.get("/chat/switch", Cookie="", X_Forwarded_For="198.51.100.7")
    assert re.search(r'name="model" value="roost-starter-v7.safetensors"[^>]* disabled', seen)
    assert text("chat.switch.owner_loads") in seen
