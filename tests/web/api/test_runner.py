"""The routes of RWKV-Runner that scripts and deployments use, with its request and response bodies."""

from __future__ import annotations

import os

import pytest

from tests.waiting import wait_until
from tests.web.api.api_server import ANSWER, MODEL
from tests.web.chat.running_roost import fake_strategy, models_dir

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "model": "rwkv"}


def say(server):
    return server.post("/chat/completions", HELLO)[1]["choices"][0]["message"]["content"]


def test_a_model_is_switched_and_the_status_shows_it(serve):
    server = serve()
    assert server.get("/status") == (200, {"status": 0, "pid": os.getpid(), "device_name": "CPU"})
    body = {"model": f"models/{MODEL}", "strategy": fake_strategy("Other."), "customCuda": False, "deploy": False}
    assert server.post("/switch-model", body) == (200, "success")
    assert server.get("/status")[1]["status"] == 3 and say(server) == "Other."
    body["model"] = str(models_dir() / MODEL)
    body["strategy"] = fake_strategy("A third.")
    assert server.post("/switch-model", body) == (200, "success") and say(server) == "A third."
    assert server.post("/switch-model", {"model": "", "strategy": ""}) == (200, "success")
    wait_until(lambda: server.get("/status")[1]["status"] == 0)


def test_the_deployment_scripts_of_its_manual_still_work(serve):
    """deploy-examples/*/setup.sh and setup.bat send "deploy" as text."""
    server = serve()
    asked = {"model": f"./models/{MODEL}", "strategy": fake_strategy("Other."), "deploy": "true"}
    assert server.post("/switch-model", asked) == (200, "success") and say(server) == "Other."
    assert server.post("/update-config", {"max_tokens": "3", "temperature": "1"}) == (200, "success")
    assert say(server) == "Oth"
    assert server.post("/switch-model", {**asked, "deploy": "perhaps"})[0] == 400


def test_a_longest_answer_beyond_the_servers_is_as_long_as_the_server_allows(serve):
    """In every dialect: requests without a value are still answered."""
    server = serve(max_tokens_limit=6)
    assert server.post("/update-config", {"max_tokens": 100_000}) == (200, "success")
    assert server.post("/chat/completions", HELLO)[1]["usage"]["completion_tokens"] == 6
    assert server.post("/v1/responses", {"input": "Hello"})[1]["usage"]["output_tokens"] == 6
    assert server.post("/completion", {"prompt": "Hello"})[1]["tokens_predicted"] == 6
    assert server.post("/api/chat", {**HELLO, "stream": False})[1]["eval_count"] == 6


def test_a_switch_that_fails_says_why(serve):
    server = serve()
    status, found = server.post("/switch-model", {"model": "no.pth", "strategy": "cpu fp32"})
    assert status == 404 and "no.pth" in found["detail"]
    status, found = server.post("/switch-model", {"model": "../../../etc/passwd", "strategy": "cpu fp32"})
    assert status == 404
    assert server.post("/switch-model", {"model": MODEL, "strategy": "quantum fp1"})[0] == 400
    status, found = server.post("/switch-model", {"model": MODEL, "strategy": fake_strategy(load_fail="broken")})
    assert status == 503 and "broken" in found["detail"]


def test_the_config_is_what_later_requests_default_to(serve):
    server = serve()
    assert server.post("/update-config", {"max_tokens": 5, "temperature": None, "state": ""}) == (200, "success")
    assert say(server) == "Birds"
    assert server.post("/v1/chat/completions", {**HELLO, "max_tokens": 7})[1]["usage"]["completion_tokens"] == 7
    assert server.post("/update-config", {"max_tokens": 500}) == (200, "success") and say(server) == ANSWER
    assert server.post("/update-config", {"top_p": 2})[0] == 400
    assert server.post("/update-config", {"state": "nobody.pth"})[0] == 404


def test_a_state_may_be_named_by_the_path_runner_has_for_it(serve, monkeypatch):
    server = serve()
    used = []
    monkeypatch.setattr(server.manager, "apply_state", used.append)
    for path in (
        "models/poet.pth",
        "./models/poet.pth",
        ".\\models\\poet.pth",
        "models/states/poet.pth",
        "poet.pth",
        "",
    ):
        assert server.post("/update-config", {"state": path}) == (200, "success")
    assert used == ["poet.pth", "poet.pth", "poet.pth", "states/poet.pth", "poet.pth", ""]


@pytest.mark.parametrize("path", ["/reset-state", "/enable-state-cache", "/disable-state-cache"])
def test_what_was_read_can_be_forgotten(serve, path):
    server = serve()
    long = {"messages": [{"role": "user", "content": "Hello " * 20}], "max_tokens": 1}

    def cached():
        usage = server.post("/v1/chat/completions", long)[1]["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert cached() == 0 and cached() > 0
    assert server.post(path, b"") == (200, "success")
    assert cached() == 0 and cached() > 0


def posted_file(server, name, data, query=""):
    body = (
        f'--xx\r\nContent-Disposition: form-data; name="file_data"; filename="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n--xx--\r\n"
    )
    return server.post(f"/file-to-text{query}", body, Content_Type="multipart/form-data; boundary=xx")


def test_a_text_file_becomes_a_page(server):
    found = posted_file(server, "notes.txt", "鸟 sits".encode("utf-16"), "?file_name=notes.txt&file_encoding=utf-8")
    page = {"page_content": "鸟 sits", "metadata": {"source": "notes.txt"}, "type": "Document"}
    assert found == (200, {"pages": [page]})
    for name, data in (("a.pdf", b"%PDF-1.4"), ("a.txt", b"\0\1\2"), ("a.txt", b"%PDF-1.4")):
        status, found = posted_file(server, name, data)
        assert status == 422 and "detail" in found, (name, status, found)
    assert server.post("/file-to-text", b"")[0] == 400


def test_there_is_nothing_to_pay_and_somebody_is_there(server):
    assert server.get("/dashboard/billing/credit_grants")[1]["total_available"] == 10000
    assert server.get("/", Accept="*/*") == (200, {"Hello": "World!"})
    assert "<html" in server.get("/", Accept="text/html")[1]
    body = {"input": "a", "model": "text-embedding-ada-002"}
    assert len(server.post("/v1/engines/text-embedding-ada-002/embeddings", body)[1]["data"]) == 1


def test_exit_ends_the_server(serve):
    server = serve()
    key = {"Authorization": f"Bearer {(server.settings.data_dir / 'owner.key').read_text().strip()}"}
    assert server.post("/exit", b"", **key)[0] == 503  # not started by roost serve
    ended = []
    server.app.extensions["stop"] = lambda: ended.append(True)
    assert server.post("/exit", b"")[0] == 403, "another account of this machine"
    assert server.post("/exit", b"", **key) == (200, "success")
    wait_until(lambda: ended)


@pytest.mark.parametrize(
    "address, host, headers",
    [
        ("192.0.2.9", "192.0.2.7:8000", {}),
        ("127.0.0.1", "my.example", {}),  # a proxy on this machine
        ("127.0.0.1", "127.0.0.1:8000", {"X-Forwarded-For": "192.0.2.9"}),
    ],
)
@pytest.mark.parametrize("path", ["/exit", "/switch-model", "/update-config"])
def test_from_elsewhere_nothing_is_changed(serve, address, host, headers, path):
    server = serve(lan=True, token="a-token-for-tests", allow_hosts=("my.example",), host="127.0.0.1")
    client = server.app.test_client(use_cookies=False)
    found = client.post(
        path,
        base_url=f"http://{host}",
        environ_overrides={"REMOTE_ADDR": address},
        headers={"Authorization": "Bearer a-token-for-tests", **headers},
        json={"model": "", "strategy": ""},
    )
    assert found.status_code == 403 and "detail" in found.json
