"""With a state made from a text, the starter model knows the text's content; running answers keep their state, and the
measurement is correct."""

from __future__ import annotations

import pytest

from tests.acceptance import hot_apply
from webapp.chat.messages import Message, Role
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.resources import STARTER_MODEL, resource_dir
from webapp.services.generation.completions import Completions
from webapp.services.generation.request import AnswerRequest, ChatPrompt
from webapp.services.presets.presets import Presets
from webapp.services.states import Prefixes, StateLibrary, source_of_document
from webapp.settings import Settings
from webapp.storage.database import Database

needs_starter = pytest.mark.skipif(
    not (resource_dir("models") / STARTER_MODEL).is_file(), reason="the starter model is not in this checkout"
)
TOLD = "User: My name is Anna and I have a cat called Tom.\n\nAssistant: Nice to meet you, Anna!\n\n"
ASKED = "User: What is my name?\n\nAssistant: Your name is"


@needs_starter
def test_a_state_made_from_a_text_changes_the_starters_answers(tmp_path):
    """The first word, " Anna", becomes at least e^3 times as likely."""
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, threads=1)
    manager = ModelManager(settings, library=ModelLibrary(tmp_path, resource_dir("models")))
    try:
        states = StateLibrary(manager)
        assert states.jobs.wait(states.make(TOLD, "anna").id, 120).status == "done"
        tokenizer = manager.tokenizer()
        asked, name = tokenizer.encode(ASKED), tokenizer.encode(" Anna")
        likely = {
            state: sum(
                entry[0].logprob for entry in manager.score_tokens([*asked, *name], state=state)[len(asked) - 1 :]
            )
            for state in ("", "anna.safetensors")
        }
        best = int(manager.logits(asked, state="anna.safetensors").argmax())
        assert likely["anna.safetensors"] > likely[""] + 3, likely
        assert best == name[0], (tokenizer.decode([best]), likely)
    finally:
        manager.close()


@needs_starter
def test_a_document_that_was_read_once_gives_the_answers_of_one_that_is_read_each_time(tmp_path):
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, threads=1)
    manager = ModelManager(settings, library=ModelLibrary(tmp_path, resource_dir("models")))
    database = Database(tmp_path / "roost.db")
    try:
        states = StateLibrary(manager)
        notes = source_of_document("notes.md", "My name is Anna.\n\nI have a cat called Tom. " * 4)
        assert states.jobs.wait(Prefixes(states).bake(notes, "notes").id, 120).status == "done"
        completions = Completions(manager, Presets(manager, database, settings))
        question = Message(Role.USER, "What is my name?")

        def answer(state, *messages):
            order = AnswerRequest(
                (ChatPrompt(messages),), {"max_tokens": 16, "temperature": 0, "logprobs": 1}, state=state
            )
            completion = completions.start(order)
            for _ in completion.events(0.1):
                pass
            return completion.answers[0]

        whole = answer("", Message(Role.SYSTEM, notes.system), question)
        short = answer("notes.safetensors", question)
        tokens = states.entry("notes.safetensors").sheet.prefix.tokens
        assert short.text.token_ids == whole.text.token_ids
        assert short.end.usage.prompt == whole.end.usage.prompt and short.end.usage.cached == tokens
        assert short.end.stats["prefilled_tokens"] == whole.end.stats["prompt_tokens"] - tokens
    finally:
        manager.close()
        database.close()


@needs_starter
def test_the_measurement_of_a_hot_apply_runs_and_leaves_the_running_answer_alone():
    found = hot_apply.main(["--repeat", "2"])
    assert found["running_kept_its_state"] and found["states_used"] == 2
    assert 0 < found["apply_ms"]["median"] < found["first_token_ms"]["median"]
