"""Static text is compressed for clients that support it, once per version; other files are unchanged."""

import gzip
import os
import re

import pytest
from flask import Flask, url_for

from webapp.web.kit.page import PackedStatic

CSS = "a { color: red }\n" * 100


@pytest.fixture
def client(tmp_path):
    (tmp_path / "a.css").write_text(CSS)
    (tmp_path / "small.css").write_text("a {}")
    (tmp_path / "a.png").write_bytes(b"\x89PNG" * 500)
    app = Flask(__name__, static_folder=str(tmp_path), static_url_path="/static")
    PackedStatic(app)
    app.add_url_rule("/page", view_func=lambda: "a page " * 500)
    return app.test_client()


def get(client, path, **headers):
    return client.get(path, headers={"Accept-Encoding": "gzip, br", **headers})


def test_text_is_packed_and_small(client):
    for _ in range(2):
        answer = get(client, "/static/a.css")
        assert answer.headers["Content-Encoding"] == "gzip" and "Accept-Encoding" in answer.headers["Vary"]
        assert gzip.decompress(answer.data).decode() == CSS
        assert int(answer.headers["Content-Length"]) == len(answer.data) < len(CSS) / 5


def test_an_unchanged_file_is_not_sent_again(client):
    etag = get(client, "/static/a.css").headers["ETag"]
    again = get(client, "/static/a.css", **{"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")


def test_a_changed_file_is_packed_again(client, tmp_path):
    get(client, "/static/a.css")
    (tmp_path / "a.css").write_text(CSS + "b {}")
    assert gzip.decompress(get(client, "/static/a.css").data).decode() == CSS + "b {}"


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0"])
def test_a_client_without_gzip_gets_plain_text(client, accepted):
    answer = get(client, "/static/a.css", **{"Accept-Encoding": accepted})
    assert "Content-Encoding" not in answer.headers and answer.text == CSS
    assert "Accept-Encoding" in answer.headers["Vary"]


def test_what_packing_does_not_help_stays_as_it_is(client):
    for path in ("/static/a.png", "/static/small.css", "/page") * 2:
        answer = get(client, path)
        assert "Content-Encoding" not in answer.headers and answer.data, path


def test_a_part_of_a_file_is_a_part_of_the_plain_file(client):
    answer = get(client, "/static/a.css", Range="bytes=0-9")
    assert (answer.status_code, answer.text) == (206, CSS[:10])


def test_a_missing_file_is_missing(client):
    assert get(client, "/static/none.css").status_code == 404


def test_an_address_with_the_files_version_is_kept_and_any_other_asked_for_again(client):
    with client.application.test_request_context():
        path = url_for("static", filename="a.css")
    assert re.fullmatch("/static/v-[0-9a-f]{12}/a.css", path)
    kept = get(client, path)
    assert gzip.decompress(kept.data).decode() == CSS and kept.headers["Cache-Control"] == "max-age=31536000, immutable"
    unchanged = get(client, path, **{"If-None-Match": kept.headers["ETag"]})
    assert unchanged.status_code == 304 and "immutable" in unchanged.headers["Cache-Control"]
    for other in ("/static/v-0123456789ab/a.css", "/static/a.css"):
        answer = get(client, other)
        assert gzip.decompress(answer.data).decode() == CSS and answer.headers["Cache-Control"] == "no-cache"
    assert "immutable" not in get(client, path.replace("a.css", "none.css")).headers.get("Cache-Control", "")


def test_a_file_changed_while_the_server_runs_is_not_kept_as_what_the_version_tells_of(client, tmp_path):
    with client.application.test_request_context():
        path = url_for("static", filename="a.css")
    for moved_s in (60, -120):  # a checkout may also set an older date
        other = (tmp_path / "a.css").stat().st_mtime + moved_s
        os.utime(tmp_path / "a.css", (other, other))
        answer = get(client, path)
        assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-cache"


def test_a_file_dated_in_the_future_is_kept_like_any_other(client, tmp_path):
    later = (tmp_path / "a.css").stat().st_mtime + 1e6
    os.utime(tmp_path / "a.css", (later, later))
    with client.application.test_request_context():
        path = url_for("static", filename="a.css")
    assert "immutable" in get(client, path).headers["Cache-Control"]


def test_a_changed_file_gets_another_address_at_the_next_start(client, tmp_path):
    before = PackedStatic(Flask(__name__, static_folder=str(tmp_path))).version
    (tmp_path / "a.css").write_text(CSS.replace("red", "tan"))
    assert PackedStatic(Flask(__name__, static_folder=str(tmp_path))).version != before
