"""States by id, for programs; and the endpoints of rwkv_lightning."""

import urllib.request

import pytest

from tests.web.api.api_server import ANSWER, ApiServer
from tests.web.chat.running_roost import fake_strategy
from webapp.storage.programs import StateHandles

SAYS = "Yes."


@pytest.fixture
def short(serve):
    return serve(SAYS, options={"repeat": 1})


def read_by(server, ask):
    before = server.manager.counters().get("prefilled_tokens_total", 0)
    answer = ask()
    return answer, server.manager.counters()["prefilled_tokens_total"] - before


def chat(server, text, **more):
    body = {"messages": [{"role": "user", "content": text}], **more}
    status, found = server.post("/v1/chat/completions", body)
    assert status == 200, found
    return found


def test_an_answer_continues_from_a_state_and_prefills_only_new_tokens(short):
    first = chat(short, "A first question that has some length to it", return_state=True)
    state_id = first["choices"][0]["state_id"]
    again, read = read_by(short, lambda: chat(short, "And?", state_id=state_id, return_state=True))
    usage = again["usage"]
    assert read < 20 < usage["prompt_tokens"] == read + usage["prompt_tokens_details"]["cached_tokens"]
    shown = short.get(f"/v1/states/{again['choices'][0]['state_id']}")[1]
    assert shown["parent_id"] == state_id and shown["tokens"] > usage["prompt_tokens"]
    assert shown["tokens"] > short.get(f"/v1/states/{state_id}")[1]["tokens"] >= first["usage"]["total_tokens"] - 1


def test_text_continues_exactly_where_it_ended_streamed_too(short):
    body = {"prompt": "Once upon a time", "max_tokens": 2, "return_state": True}
    first = short.post("/v1/completions", body)[1]["choices"][0]
    events = short.events(
        "/v1/completions", {"prompt": " and then", "state_id": first["state_id"], "stream": True, "return_state": True}
    )
    [last] = [event["choices"][0] for event in events if event != "[DONE]" and "state_id" in event["choices"][0]]
    assert last["finish_reason"] == "stop"
    tokens = short.get(f"/v1/states/{last['state_id']}")[1]["tokens"]
    assert tokens > short.get(f"/v1/states/{first['state_id']}")[1]["tokens"] + 2


def test_forks_share_one_reading_and_a_step_back_is_exact(short):
    base = chat(short, "A question of some length, for all of them", return_state=True)["choices"][0]["state_id"]
    status, copies = short.post(f"/v1/states/{base}/fork", {"n": 3})
    assert status == 200 and len({copy["id"] for copy in copies["data"]}) == 3
    for copy in copies["data"]:
        found, read = read_by(short, lambda: chat(short, "And?", state_id=copy["id"], return_state=True))  # noqa: B023
        assert read < 20
    tip = found["choices"][0]["state_id"]
    back = short.post(f"/v1/states/{tip}/rollback", {"turns": 1})[1]
    assert back["tokens"] == copies["data"][0]["tokens"]
    fewer = short.post(f"/v1/states/{tip}/rollback", {"tokens": 7})[1]
    assert fewer["tokens"] == 7
    assert read_by(short, lambda: chat(short, "And?", state_id=back["id"]))[1] < 20


def test_snapshots_that_make_room_for_a_copy_go(short, monkeypatch):
    base = chat(short, "A question", return_state=True)["choices"][0]["state_id"]
    add, forgotten = StateHandles.add, []
    monkeypatch.setattr(StateHandles, "add", lambda store, handle: (add(store, handle)[0], ["old"]))
    monkeypatch.setattr(short.manager, "forget_snapshots", forgotten.extend)
    short.post(f"/v1/states/{base}/fork", {"n": 2})
    short.post(f"/v1/states/{base}/rollback", {"tokens": 3})
    assert forgotten == ["old"] * 3


def test_a_state_moves_as_a_file_to_another_server(short, serve):
    base = chat(short, "A question of some length to take along", return_state=True)["choices"][0]["state_id"]
    with urllib.request.urlopen(f"{short.url}/v1/states/{base}/content", timeout=60) as answer:
        data = answer.read()
    there = serve(SAYS, options={"repeat": 1})
    request = urllib.request.Request(f"{there.url}/v1/states", data, {"Content-Type": "application/octet-stream"})
    status, made = there._ask(request)
    assert status == 200 and made["tokens"] == short.get(f"/v1/states/{base}")[1]["tokens"]
    assert read_by(there, lambda: chat(there, "And?", state_id=made["id"]))[1] < 20
    for broken in (data[:-1], b"", b"x" * 100, data[:200] + b"?" + data[201:]):
        request = urllib.request.Request(f"{there.url}/v1/states", broken, {"Content-Type": "application/octet-stream"})
        status, told = there._ask(request)
        assert (status, told["error"]["code"], told["error"]["param"]) == (400, "invalid_parameter", "file")


def test_states_last_through_a_restart_and_are_listed_and_deleted(tmp_path):
    places = {"data_dir": tmp_path / "same", "strategy": fake_strategy(SAYS, slots=8, repeat=1)}
    first = ApiServer(**places)
    try:
        ids = [chat(first, "A long enough question " * n, return_state=True)["choices"][0]["state_id"] for n in (2, 3)]
    finally:
        first.stop()
    second = ApiServer(**places)
    try:
        listed = second.get("/v1/states?limit=1")[1]
        assert ([row["id"] for row in listed["data"]], listed["has_more"]) == ([ids[1]], True)
        assert [row["id"] for row in second.get(f"/v1/states?after={ids[1]}")[1]["data"]] == [ids[0]]
        assert read_by(second, lambda: chat(second, "And?", state_id=ids[0]))[1] < 20
        request = urllib.request.Request(f"{second.url}/v1/states/{ids[0]}", method="DELETE")
        assert second._ask(request)[0] == 200
        assert second.get(f"/v1/states/{ids[0]}")[0] == 404
    finally:
        second.stop()


@pytest.mark.parametrize(
    ("changes", "status", "code", "param"),
    [
        ({"state_id": "st_none"}, 404, "state_id_not_found", "state_id"),
        ({"state_id": "KNOWN", "state": "x"}, 400, "invalid_parameter", "state_id"),
    ],
    ids=str,
)
def test_what_cannot_be_gone_on_from_is_named(server, changes, status, code, param):
    known = chat(server, "Hello", return_state=True)["choices"][0]["state_id"]
    changes = {name: known if value == "KNOWN" else value for name, value in changes.items()}
    found, told = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **changes})
    assert (found, told["error"]["code"], told["error"]["param"]) == (status, code, param)


def test_a_session_of_lightning_continues_and_is_listed_and_deleted(short):
    body = {"session_id": "one", "contents": ["User: What is it, then?\n\nAssistant:"], "max_tokens": 20}
    first = short.post("/state/chat/completions", body)[1]
    assert (first["choices"][0]["message"], first["session_id"]) == ({"role": "assistant", "content": SAYS}, "one")
    body["contents"] = ["\n\nUser: And?\n\nAssistant:"]
    events, read = read_by(short, lambda: short.events("/state/chat/completions", {**body, "stream": True}))
    assert "".join(e["choices"][0]["delta"]["content"] for e in events[:-2]) == SAYS and events[-1] == "[DONE]"
    assert read < 30 and events[-2]["session_id"] == "one"
    status = short.post("/state/status", {})[1]
    assert (status["total_sessions"], status["sessions"][0]["session_id"]) == (1, "one")
    assert short.post("/state/delete", {"session_id": "one"})[0] == 200
    code, told = short.post("/state/delete", {"session_id": "one"})
    assert (code, told["status"], told["error"]["code"]) == (404, "not_found", "state_id_not_found")


def test_a_dialogue_of_lightning_branches_at_any_answer(short):
    body = {"session_id": "tree", "dialogue_idx": 0, "contents": ["User: Hello\n\nAssistant:"], "max_tokens": 20}
    places = [short.post("/multi_state/chat/completions", body)[1]["dialogue_idx"]]
    for at in (1, 1, 2):
        more = {**body, "dialogue_idx": at, "contents": ["\n\nUser: And?\n\nAssistant:"]}
        places.append(short.post("/multi_state/chat/completions", more)[1]["dialogue_idx"])
    assert places == [1, 2, 3, 4]
    status, told = short.post("/multi_state/chat/completions", {**body, "dialogue_idx": 9})
    assert (status, told["error"]["param"]) == (404, "dialogue_idx")
    assert short.post("/state/delete", {"session_id": "tree", "delete_prefix": True})[1]["status"] == "success"
    assert short.post("/state/status", {})[1]["total_sessions"] == 0


def test_nothing_of_it_is_shown_unless_requested(server):
    assert "state_id" not in chat(server, "Hello")["choices"][0]
    assert chat(server, "Hello")["choices"][0]["message"]["content"] == ANSWER
