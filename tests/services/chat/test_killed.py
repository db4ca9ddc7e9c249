"""kill -9 during answers: everything acknowledged is stored, and of an answer everything except the last moment."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from webapp.services.chat.turn_writer import JOURNAL_S

SERVER = """
import sys, threading
from pathlib import Path
from tests.services.scripted_manager import ScriptedManager
from webapp.engine.outputs import TokenOutput
from webapp.services.chat.turns import ChatTurns
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.chat.messages import ContentDelta
from webapp.tokenizer import load_tokenizer

class Endless(ScriptedManager):
    def submit(self, request, made_for=None, state=None):
        handle = super().submit(request, made_for, state)
        pause, letters = threading.Event(), iter(range(10**9))
        def next_event(timeout_s, gather_s):
            pause.wait(0.004)
            return TokenOutput("", (66 + next(letters) % 20,))
        handle.next_event = next_event
        return handle

folder = Path(sys.argv[1])
database = Database(folder / "roost.db")
turns = ChatTurns(Endless(load_tokenizer(65536), ""), database, Settings(data_dir=folder, models_dir=folder))
live = turns.send(ChatStore(database).create().id, "Write on")
print(live.user_message_id, live.message_id, flush=True)
position = 0
while True:
    events, position = live.events_after(position, 10)
    print("".join(event.text for event in events if isinstance(event, ContentDelta)), flush=True)
"""


@pytest.mark.parametrize("after_s", [0.05, 0.3, 0.7])
def test_after_kill_9_the_question_is_there_and_the_answer_but_for_its_last_moment(
    store, turns_with, tmp_path, after_s
):
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    shown: list[tuple[float, str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        question_id, answer_id = server.stdout.readline().split()
        began = time.monotonic()
        while time.monotonic() < began + after_s:
            shown.append((time.monotonic(), server.stdout.readline().strip()))
        killed_at = time.monotonic()
        server.kill()
    turns_with()  # the next start
    assert store.message(question_id).message.content == "Write on"
    answer = store.message(answer_id)
    assert answer.status == "interrupted"
    everything = "".join(text for _, text in shown)
    slack_s = 0.25  # on a busy machine, output is read late
    sure = "".join(text for at, text in shown if at < killed_at - JOURNAL_S - slack_s)
    assert answer.message.content.startswith(sure)
    assert everything.startswith(answer.message.content[: len(everything)])
    assert len(answer.message.token_ids) == len(answer.message.content)
