"""The page without its socket: everything can be read, and every command is a form."""

import json
import os
import re
import shutil
import urllib.error
import urllib.request

import pytest

from tests.waiting import wait_until
from tests.web.chat.running_roost import RunningRoost, fake_strategy, models_dir
from tests.weights.make_checkpoints import write_checkpoint
from tests.weights.spellings import official, write_folder
from tests.wording import error_text, pattern, says, text
from webapp.chat.messages import Message, Role


def command(name, page):
    """The value of a button ``name:…`` on the page."""
    return re.search(rf'value="({name}:\w+)"', page)[1]


def test_the_first_page_introduces_itself_and_offers_three_prompts(roost):
    page = roost.get("/")
    assert page.count('class="prompt"') == 3
    assert re.search(pattern("chat.welcome.intro_starter"), page) and says(page, "chat.welcome.own_link")


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_model_that_is_dropped_in_is_offered_on_the_first_page(tmp_path, form):
    models = tmp_path / "models"
    shutil.copytree(models_dir(), models)
    (models / "broken.pth").write_bytes(b"no model")
    roost = RunningRoost(tmp_path / "data", fake_strategy(), models_dir=models)

    def own(known="seen="):
        with urllib.request.urlopen(roost.request(f"/own?{known}", HX_Request="true")) as answer:
            return answer.status, answer.read().decode()

    try:
        page = roost.get("/")
        assert 'id="welcome-found" data-model=""' in page and "every 2s" in page, "it may still be on its way"
        assert own("seen=&coming=1")[0] == 204 and own()[0] == 200
        if form == "file":
            write_checkpoint(models / "mine.pth", "7")
            os.utime(models / "mine.pth", (1, 1))  # like a copy that keeps the date
        else:
            write_folder(models / "mine", official("7"))
        name = "mine.pth" if form == "file" else "mine"
        wait_until(lambda: f'data-model="{name}"' in own()[1])
        page = roost.get("/")
        assert own(f"seen={name}")[0] == 204 and f'name="name" value="{name}"' in page
        assert "every 2s" not in page, "nothing is on its way"
        roost.post("/models/load", name=name)
        wait_until(lambda: roost.app.extensions["model_manager"].status().model == name)
        status, fragment = own(f"seen={name}")
        assert status == 200 and "hx-get" not in fragment  # it is in use, and nothing is requested
    finally:
        roost.stop()


def test_the_page_speaks_chinese_when_asked(roost):
    page = roost.get("/", **{"Accept-Language": "zh-CN,zh;q=0.9"})
    assert '<html lang="zh-Hans"' in page and "新聊天" in page


def test_the_rail_has_no_dead_links(roost):
    page = roost.get("/")
    rail = page.split('class="rail-list"')[1].split("</ul>")[0]
    links = re.findall(r'<a [^>]*href="([^"]+)"', rail)
    assert links[0] == "/" and all("</html>" in roost.get(link) for link in links)


def test_a_message_sent_by_form_makes_a_chat_that_is_answered(roost):
    address, page = roost.post("/chat/do", do="send", chat="", text="Why?", temperature="0.5", system_prompt="Be kind.")
    chat_id = re.fullmatch(r"/chat/(\w+)", address)[1]
    assert roost.turns.live(chat_id).wait_finished(60)
    page = roost.get(address)
    assert "<strong>no current</strong>" in page and "Why?" in page
    chat = roost.store.get(chat_id)
    assert (chat.title, chat.sampling, chat.system_prompt) == ("Why?", {"temperature": 0.5}, "Be kind.")


def test_only_what_differs_from_the_default_is_kept(roost):
    chat = roost.store.create()
    roost.post("/chat/do", do="options", chat=chat.id, temperature="0.7", top_p="0.3", think_mode="think")
    assert roost.store.get(chat.id).sampling == {"temperature": 0.7}
    assert roost.store.get(chat.id).think_mode.value == "think"
    assert "is-changed" in roost.get(f"/chat/{chat.id}")


def test_what_cannot_be_is_refused_with_a_sentence_and_nothing_changes(roost):
    chat = roost.store.create(title="Kept")
    with pytest.raises(urllib.error.HTTPError) as refused:
        roost.post("/chat/do", do="options", chat=chat.id, temperature="9")
    page = refused.value.read().decode()
    assert refused.value.code == 422 and "toast-error" in page and "temperature" in page
    assert roost.store.get(chat.id).sampling == {}


@pytest.mark.parametrize("fields", [{}, {"do": "explode"}, {"do": "send", "text": " "}, {"do": "edit:x", "text": "a"}])
def test_a_bad_command_is_answered_with_the_page(roost, fields):
    with pytest.raises(urllib.error.HTTPError) as refused:
        roost.post("/chat/do", **fields)
    assert 400 <= refused.value.code < 500 and "toast-error" in refused.value.read().decode()


def test_deleting_a_chat_leads_to_a_page_that_offers_undo(roost):
    chat_id = roost.answered()
    address, page = roost.post("/chat/do", do=f"delete_chat:{chat_id}", chat=chat_id)
    assert address.startswith("/?done=chat_deleted")
    roost.post("/chat/do", do=command("restore_chat", page))
    assert roost.store.get(chat_id).id == chat_id


def test_an_invalid_undo_is_not_offered(roost):
    page = roost.get("/?done=chat_deleted&undo=delete_chat:abc")
    assert 'class="toast"' not in page


def test_versions_of_an_answer_can_be_walked(roost):
    chat_id = roost.answered()
    answer = roost.store.branch(chat_id)[-1]
    roost.post("/chat/do", do=f"regenerate:{answer.id}", chat=chat_id)
    assert roost.turns.live(chat_id).wait_finished(60)
    page = roost.get(f"/chat/{chat_id}")
    assert "2/2" in page
    _, page = roost.post("/chat/do", do=command("select", page), chat=chat_id)
    assert "1/2" in page and roost.store.branch(chat_id)[-1].id == answer.id


def test_a_deleted_message_is_restored(roost):
    chat_id = roost.answered()
    first = roost.store.branch(chat_id)[0]
    _, page = roost.post("/chat/do", do=f"delete_message:{first.id}", chat=chat_id)
    assert roost.store.branch(chat_id) == []
    roost.post("/chat/do", do=command("restore_message", page), chat=chat_id)
    assert len(roost.store.branch(chat_id)) == 2


def test_search_shows_where_and_leads_there(roost):
    chat_id = roost.answered("Do herons sleep?")
    page = roost.get("/chats?q=heron", **{"HX-Request": "true"})
    assert "<mark>heron</mark>" in page and f"/chat/{chat_id}?at=" in page
    assert "<html" in roost.get("/chats?q=heron")
    nothing = roost.get("/chats?q=zebra", **{"HX-Request": "true"})
    assert says(nothing, "chat.list.nothing_found", query="zebra")


def test_a_hit_in_a_tools_result_leads_to_its_place(roost):
    chat_id = roost.answered()
    answer = roost.store.branch(chat_id)[-1]
    result = roost.store.add_message(chat_id, answer.id, Message(Role.TOOL, "A kingfisher", tool_call_id="c"))
    page = roost.get(f"/chat/{chat_id}?at={result.id}")
    place = re.search(rf'<div[^>]*id="m-{result.id}"[^>]*>', page)
    assert place and "hidden" not in place[0]  # hidden elements cannot be scrolled to


def test_a_hit_in_a_version_that_is_not_shown_offers_to_show_it(roost):
    chat_id = roost.answered()
    question = roost.store.branch(chat_id)[0]
    roost.turns.edit(question.id, "Another question").wait_finished(60)
    page = roost.get(f"/chat/{chat_id}?at={question.id}")
    assert says(page, "chat.message.other_version") and f"select:{question.id}" in page


def test_text_of_people_and_models_is_escaped(roost):
    chat_id = roost.answered("<img src=x onerror=alert(1)>")
    page = roost.get(f"/chat/{chat_id}")
    assert "<img" not in page and "&lt;img src=x onerror" in page


def test_exports_are_downloads(roost):
    chat_id = roost.answered("Birds & wires")
    assert roost.get(f"/chat/{chat_id}/export.md").startswith("# Birds & wires")
    assert json.loads(roost.get(f"/chat/{chat_id}/export.json"))["format"] == "roost-chat"


def test_a_chat_is_a_page_to_print_whole_without_scripts_and_thoughts(roost):
    chat, parent = roost.store.create(title="Birds"), None
    for i in range(600):
        message = Message(Role.ASSISTANT if i % 2 else Role.USER, f"number {i:03} **strong**", reasoning="a thought")
        parent = roost.store.add_message(chat.id, parent, message).id
    page = roost.get(f"/chat/{chat.id}/export.html")
    assert page.count("<strong>strong</strong>") == 600 and "number 000" in page and "number 599" in page
    assert "<script" not in page and "a thought" not in page and "?first=" not in page


def test_a_long_chat_shows_its_end_and_the_rest_on_demand(roost):
    from webapp.chat.messages import Message

    chat = roost.store.create()
    parent = None
    for i in range(60):
        role = Role.ASSISTANT if i % 2 else Role.USER
        parent = roost.store.add_message(chat.id, parent, Message(role, f"number {i:03}")).id
    page = roost.get(f"/chat/{chat.id}")
    assert "number 020" in page and "number 019" not in page
    older = re.search(r'hx-get="([^"]+/older[^"]+)"', page)[1]
    above = roost.get(older, **{"HX-Request": "true"})
    assert "number 000" in above and "number 019" in above and "number 020" not in above


def test_a_chat_that_is_gone_is_a_page_that_says_so(roost):
    with pytest.raises(urllib.error.HTTPError) as missing:
        roost.get("/chat/nothing")
    assert missing.value.code == 404


def test_a_failed_answer_says_what_is_safe_and_offers_a_way_out(start):
    roost = start("fake fail_at=3")
    page = roost.get(f"/chat/{roost.answered()}")
    assert says(page, "chat.message.safe") and "regenerate:" in page


def test_tokens_read_again_are_counted_over_the_branch(roost):
    chat_id = roost.answered("One")
    roost.answered("Two", chat_id)
    assert roost.get(f"/chat/{chat_id}").count(text("chat.stats.read_again", count=0)) == 2


def test_the_model_menu_lists_loads_and_unloads(roost):
    menu = roost.get("/status/menu", **{"HX-Request": "true"})
    assert "roost-starter-v7.safetensors" in menu and "RWKV-7" in menu and 'href="/models#known"' in menu
    roost.post("/status/load", model="roost-starter-v7.safetensors")
    assert roost.app.extensions["model_manager"].wait_ready(60).phase == "ready"
    assert "/status/unload" in roost.get("/status/menu", **{"HX-Request": "true"})


def test_a_model_that_is_not_there_is_refused_in_the_menu(roost):
    import urllib.request

    request = urllib.request.Request(
        roost.url + "/status/load", b"model=nowhere.pth", {"Origin": roost.url, "HX-Request": "true"}
    )
    page = urllib.request.urlopen(request).read().decode()
    assert error_text("model_not_found", name="nowhere.pth") in page


def test_a_page_is_light(roost):
    """With everything it loads, and a list of thirty chats, below 150 KB."""
    for i in range(30):
        roost.store.create(title=f"A chat about {i} birds")
    assert roost.weight(f"/chat/{roost.answered()}") < 150 * 1024


def test_what_the_model_says_beside_a_chat_is_offered_and_changes_nothing(roost):
    chat_id = roost.answered("Birds on wires")
    title = roost.get(f"/chat/{chat_id}/aside/title", **{"HX-Request": "true"})
    assert 'value="rename_chat"' in title and "<html" not in title and 'name="title"' in title
    questions = roost.get(f"/chat/{chat_id}/aside/questions")
    assert questions.count('value="send"') == 3 and "<html" in questions
    assert "no current" in roost.get(f"/chat/{chat_id}/aside/summary")
    assert " hidden>" in roost.get(f"/chat/{chat_id}/aside/summary?off=1", **{"HX-Request": "true"})
    assert len(roost.store.branch(chat_id)) == 2
    for wrong in (f"/chat/{chat_id}/aside/banana", "/chat/nowhere/aside/title"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            roost.get(wrong)
        assert refused.value.code == 404
    empty = roost.store.create().id
    assert 'role="alert"' in roost.get(f"/chat/{empty}/aside/title")
