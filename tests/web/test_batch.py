"""Batches without a browser: rows in, answers out, stopped, interrupted and resumed."""

import contextlib
import csv
import io
import json
import re
from html import unescape

import pytest

from tests.errors import raises_code
from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.web.models.conftest import OWN
from tests.web.owner import owner_client
from webapp.services.batch import KIND, filled, table_in
from webapp.settings import Settings

TABLE = 'word;language\r\nbird;German\r\n"two\nlines";中文\r\n'


class Site:
    def __init__(self, app):
        self.app, self.client = app, owner_client(app)
        self.jobs, self.batches = app.extensions["jobs"], app.extensions["batches"]

    def get(self, path):
        return self.client.get(path, base_url="http://127.0.0.1").get_data(as_text=True)

    def post(self, path, **form):
        given = {"base_url": "http://127.0.0.1", "headers": OWN, "follow_redirects": True}
        return self.client.post(path, data=form, **given)

    def start(self, **form):
        answer = self.post("/notebook/batch", **{"template": "{line}", "kind": "lines", "max_tokens": "20", **form})
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return answer.request.path.rpartition("/")[2]

    def over(self, batch_id):
        """Its job, when it has stopped."""
        wait_until(lambda: self.batches.job_of(batch_id).status not in ("waiting", "running"))
        return self.batches.job_of(batch_id)

    def lines(self, batch_id):
        return [json.loads(line) for line in self.get(f"/notebook/batch/{batch_id}/export.jsonl").splitlines()]


@pytest.fixture
def opened(tmp_path):
    """opened(strategy) -> Site with the shared data folder; the previous one is closed, like by a restart."""
    apps = contextlib.ExitStack()

    def opened(strategy=fake_strategy("Vogel"), **more):  # noqa: B008  # made once
        apps.close()
        settings = Settings(data_dir=tmp_path, models_dir=models_dir(), strategy=strategy, open_browser=False, **more)
        return Site(apps.enter_context(open_app(settings)))

    with apps:
        yield opened


def test_a_table_is_answered_row_by_row_and_exported_as_a_table(opened):
    site = opened()
    file = (io.BytesIO(TABLE.encode("utf-8-sig")), "words.csv")
    batch_id = site.start(template="{word} in {language}?", is_chat="1", file=file)
    assert site.over(batch_id).status == "done"
    shown = site.get(f"/notebook/batch/{batch_id}")
    assert shown.count("data-row=") == 2 and "words.csv" in shown and "Vogel" in shown
    exported = site.get(f"/notebook/batch/{batch_id}/export.csv")
    rows = list(csv.DictReader(io.StringIO(exported.removeprefix("\ufeff"), newline="")))
    assert [(row["word"], row["language"], row["answer"], row["finish_reason"]) for row in rows] == [
        ("bird", "German", "Vogel", "stop"),
        ("two\nlines", "中文", "Vogel", "stop"),
    ]
    assert site.lines(batch_id)[0]["tokens"] == 6 and "error" not in site.lines(batch_id)[0]
    gone = site.post(f"/notebook/batch/{batch_id}/delete").get_data(as_text=True)
    assert f"/notebook/batch/{batch_id}" not in gone
    assert batch_id in site.post("/notebook/batch/do", do=re.search(r'value="(restore:\w+)"', gone)[1]).text


def test_the_page_of_a_batch_lists_its_own_job_alone(opened):
    site = opened()
    first, second = (site.over(site.start(text=word)) for word in ("heron", "egret"))
    page = site.get(f"/notebook/batch/{first.details['batch']}")
    assert f'data-job="{first.id}"' in page and f'data-job="{second.id}"' not in page
    query = re.search(rf'hx-post="/jobs/{first.id}/remove(.*?)"', page)[1]
    assert site.post(f"/jobs/{first.id}/remove{unescape(query)}").status_code == 200
    left = site.client.get(f"/jobs{unescape(query)}", base_url="http://127.0.0.1", headers={"HX-Request": "true"})
    assert f'data-job="{second.id}"' not in left.get_data(as_text=True)


def test_many_are_computed_together(opened, gate):
    site = opened(fake_strategy("la ", repeat=0))
    gate.clear()
    batch_id = site.start(text="a\nb\nc\nd\ne\nf", at_once="4", max_tokens="3")
    manager = site.app.extensions["model_manager"]
    wait_until(lambda: manager.status().running + manager.status().waiting >= 4 or gate.is_set())
    gate.set()
    assert site.over(batch_id).status == "done"
    assert {row["answer"] for row in site.lines(batch_id)} == {"la "}


def test_finished_rows_stay_after_a_pause_and_a_restart_continues_with_the_rest(opened, gate):
    site = opened()
    batch_id = site.start(text="\n".join("abcdefgh"), at_once="2")
    wait_until(lambda: site.batches.store.get(batch_id).done >= 1)
    gate.clear()
    job = site.batches.job_of(batch_id)
    site.jobs.pause(job.id)
    gate.set()
    site.over(batch_id)
    done = site.batches.store.get(batch_id).done
    again = opened()
    left = again.batches.job_of(batch_id)
    if done < 8:  # it may have finished before the pause
        assert (left.status, left.done, left.total) == ("paused", done, 8)
        again.post(f"/notebook/batch/{batch_id}/resume")
        assert again.over(batch_id).status == "done"
    assert [row["answer"] for row in again.lines(batch_id)] == ["Vogel"] * 8
    assert opened().jobs.jobs(KIND)[0].status == "done"


def test_a_server_that_was_killed_lists_it_as_paused(opened):
    site = opened()
    made = site.batches.store.create("left", ("line",), [("a",), ("b",)], {"template": "{line}", "max_tokens": 5})
    site.batches.store.answer(made.id, 0, "kept", {"finish_reason": "stop"})
    site = opened()
    job = site.batches.job_of(made.id)
    assert (job.status, job.done, job.total, job.title) == ("paused", 1, 2, "left")
    site.post(f"/notebook/batch/{made.id}/resume")
    assert site.over(made.id).status == "done"
    assert [row["answer"] for row in site.lines(made.id)] == ["kept", "Vogel"]


def test_a_row_that_cannot_be_answered_does_not_end_the_others(opened):
    site = opened(max_prompt_tokens=40)
    batch_id = site.start(text="short\n" + "long " * 60 + "\nshort too")
    assert site.over(batch_id).status == "done"
    found = site.lines(batch_id)
    assert [row.get("answer") for row in found] == ["Vogel", "", "Vogel"] and "error" in found[1]
    assert site.batches.store.get(batch_id).failed == 1
    assert "is-trouble" in site.get(f"/notebook/batch/{batch_id}")


def test_an_engine_that_crashes_fails_the_job_and_the_rest_can_be_resumed(opened):
    site = opened("fake load_fail=broken")
    batch_id = site.start(text="a\nb")
    job = site.over(batch_id)
    assert job.status == "failed" and site.jobs.can_resume(job)
    assert site.batches.store.get(batch_id).done == 0
    again = opened()
    again.post(f"/notebook/batch/{batch_id}/resume")
    assert again.over(batch_id).status == "done"


def test_a_cancelled_batch_keeps_its_answers_and_can_be_taken_up_again(opened):
    site = opened(fake_strategy("la ", repeat=0, delay_ms=2))
    batch_id = site.start(text="a\nb", max_tokens="100000")
    wait_until(lambda: site.batches.job_of(batch_id).status == "running")
    site.jobs.cancel(site.batches.job_of(batch_id).id)
    assert site.over(batch_id).status == "cancelled" and site.batches.store.get(batch_id).is_over
    again = opened()
    assert not [job for job in again.jobs.jobs(KIND) if not job.is_over], "nothing is listed to go on by itself"
    again.post(f"/notebook/batch/{batch_id}/resume")
    assert again.over(batch_id).status == "done"


@pytest.mark.parametrize(
    "form",
    [
        {"text": ""},
        {"text": "a", "template": "no column"},
        {"text": "a", "template": "{other}"},
        {"text": "a,a\n1,2", "kind": "csv", "template": "{a}"},
        {"text": "3", "kind": "jsonl", "template": "{a}"},
        {"text": '{"a": 1}\n{', "kind": "jsonl", "template": "{a}"},
        {"text": 'a\n"open', "kind": "csv", "template": "{a}"},
    ],
)
def test_what_is_no_batch_is_refused_and_kept_in_the_form(opened, form):
    answer = opened().post("/notebook/batch", **{"template": "{line}", "kind": "lines", **form})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422 and 'data-code="batch_invalid"' in page
    assert (form.get("template") or "{line}") in page


def test_tables_are_read_as_people_write_them():
    assert table_in(" a \n\n b", "lines") == (("line",), [("a",), ("b",)])
    assert table_in("x\ty\n1\t2\n3\n", "csv") == (("x", "y"), [("1", "2"), ("3", "")])
    assert table_in('{"x": "1"}\n\n{"y": [2]}', "jsonl") == (("x", "y"), [("1", ""), ("", "[2]")])
    assert filled("{x} and {unknown}", {"x": "{y}"}) == "{y} and {unknown}"
    with raises_code("batch_invalid"):
        table_in("a,\n1,2", "csv")
