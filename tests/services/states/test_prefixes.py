"""Prefixes of conversations as state files: their content; answers are the same with and without them."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.manager.thread_engine import start_engine_in_thread
from tests.waiting import PATIENCE_S, wait_until
from tests.weights.make_checkpoints import link_checkpoint
from webapp.chat.messages import Message, Role
from webapp.manager.library import ModelLibrary
from webapp.manager.manager import ModelManager
from webapp.services.chat.probes import state_of_chat
from webapp.services.chat.turns import ChatTurns
from webapp.services.generation.completions import Completions
from webapp.services.generation.request import (
    AnswerRequest,
    ChatPrompt,
    PrefixSource,
    PromptModel,
    Structure,
    TextPrompt,
    find_prefix,
    rendered_prefix,
    starting_from,
)
from webapp.services.presets.presets import Presets
from webapp.services.states import Prefixes, StateLibrary, source_of_document, source_of_preset
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.tools import ToolStore
from webapp.tools.builtin import BUILTINS
from webapp.weights.state_sheet import DOCUMENT, PROMPT, TOOLS

SIZES = {"n_layer": 2, "n_embd": 32, "head_size": 16, "vocab_size": 65536}
NOTES = source_of_document("notes.md", "The cat is called Tom.\n\nHe sleeps all day.")
WEATHER = {"name": "weather", "description": "The weather.", "parameters": {"type": "object", "properties": {}}}


class House:
    """The parts of a server that prefixes use, with tiny models and the fake backend."""

    def __init__(self, tmp_path, strategy="fake script=ok") -> None:
        folder = tmp_path / "models"
        folder.mkdir()
        for name, architecture, seed in (("seven.pth", "7", 0), ("other.pth", "7", 1), ("six.pth", "6", 2)):
            link_checkpoint(folder / name, architecture, **SIZES, seed=seed)
        link_checkpoint(folder / "four.pth", "4", n_layer=2, n_embd=64, vocab_size=65536)
        settings = Settings(data_dir=tmp_path, models_dir=folder, model="seven.pth", strategy=strategy)
        self.manager = ModelManager(settings, start_engine_in_thread, ModelLibrary(folder, tmp_path))
        self.database = Database(tmp_path / "roost.db")
        self.presets = Presets(self.manager, self.database, settings)
        self.states = StateLibrary(self.manager)
        self.prefixes = Prefixes(self.states)
        self.completions = Completions(self.manager, self.presets)
        self.store = ChatStore(self.database)
        self.turns = ChatTurns(self.manager, self.database, settings, self.presets)

    def bake(self, source: PrefixSource, name: str) -> str:
        return self.made(self.prefixes.bake(source, name))

    def made(self, job) -> str:
        wait_until(lambda: self.states.jobs.job(job.id).is_over)
        found = self.states.jobs.job(job.id)
        assert found.status == "done", found.error
        return str(found.details["name"])

    def answer(self, *messages: Message, state: str | None = None, **more):
        """The only answer to a conversation or a text, and its end."""
        prompt = more.pop("text", None) or ChatPrompt(messages)
        order = AnswerRequest((prompt,), {"max_tokens": 4, "temperature": 0.0}, state=state, **more)
        completion = self.completions.start(order)
        for _ in completion.events(0.1):
            pass
        [answer] = completion.answers
        return answer

    def turn(self, chat_id: str, text: str) -> dict:
        live = self.turns.send(chat_id, text)
        assert live.wait_finished(PATIENCE_S)
        stored = self.store.message(live.message_id)
        assert stored.status == "complete", stored.error
        return stored.stats

    def load(self, model: str) -> None:
        self.manager.load(model=model)
        self.manager.wait_ready(PATIENCE_S)

    def close(self) -> None:
        self.turns.close()
        self.manager.close()
        self.states.jobs.close()
        self.database.close()


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.close()


def asks(text: str) -> Message:
    return Message(Role.USER, text)


def test_a_document_is_a_state_file_that_says_what_was_read(house):
    name = house.bake(NOTES, "notes")
    entry = house.states.entry(name)
    assert name == "notes.safetensors" and entry.fits == ("other.pth", "seven.pth")
    sheet = entry.sheet.prefix
    assert (sheet.kind, sheet.title, sheet.model) == (DOCUMENT, "notes.md", "seven.pth")
    ids = house.manager.tokenizer().encode(
        "System: File: notes.md\n```\nThe cat is called Tom.\nHe sleeps all day.\n```\n\n"
    )
    assert sheet.tokens == len(ids)
    assert not house.prefixes.is_stale(sheet)
    assert find_prefix(house.manager, name).source == replace(NOTES)


@pytest.mark.parametrize("model", ["seven.pth", "six.pth"])
def test_the_file_holds_exactly_the_state_after_the_text(house, model):
    house.load(model)
    name = house.bake(NOTES, "notes")
    prompt = rendered_prefix(NOTES, PromptModel.chosen(house.manager))
    ids = house.manager.tokenizer().encode(prompt.text)
    kept = house.manager.read_state([1], state=name)
    read = house.manager.read_state([*ids, 1], state="")
    for part in read.arrays:
        assert np.array_equal(kept.arrays[part], read.arrays[part]), part


def test_an_answer_over_the_api_starts_from_it_and_counts_all_tokens(house):
    name = house.bake(NOTES, "notes")
    found = house.answer(asks("What is the cat called?"), state=name)
    system = Message(Role.SYSTEM, NOTES.system)
    plain = house.answer(system, asks("What is the cat called?"))
    tokens = house.states.entry(name).sheet.prefix.tokens
    assert found.text.token_ids == plain.text.token_ids
    assert found.end.usage.prompt == plain.end.usage.prompt
    assert found.end.usage.cached == tokens and plain.end.usage.cached == 0
    assert found.end.stats["prefilled_tokens"] == found.end.usage.prompt - tokens
    assert house.answer(system, asks("What is the cat called?"), state=name).end.usage.prompt == plain.end.usage.prompt


def test_a_raw_text_continues_behind_it(house):
    name = house.bake(NOTES, "notes")
    found = house.answer(text=TextPrompt("User: Hi\n\nAssistant:"), state=name)
    tokens = house.states.entry(name).sheet.prefix.tokens
    assert (found.end.usage.cached, found.prompt.prefix_tokens) == (tokens, tokens)


def test_a_chat_starts_from_it_and_prefills_only_new_tokens(house):
    name = house.bake(NOTES, "notes")
    tokens = house.states.entry(name).sheet.prefix.tokens
    chat = house.store.create(state=name)
    first, second = house.turn(chat.id, "What is he called?"), house.turn(chat.id, "And now?")
    assert first["prefix_tokens"] == second["prefix_tokens"] == tokens and first["state"] == name
    assert first["prefilled_tokens"] == first["prompt_tokens"] - tokens
    assert second["prefilled_tokens"] < 20 and second["read_again"] == 0


def test_the_title_of_a_chat_costs_no_tokens_and_leaves_the_chat_alone(house):
    chat = house.store.create()
    stats = house.turn(chat.id, "What is a cat called that sleeps all day?")
    counters = house.manager.counters()
    assert house.store.get(chat.id).title and counters["prefilled_tokens_total"] == stats["prefilled_tokens"]
    assert counters["finished_total"] == 1 and counters["decoded_tokens_total"] == stats["decoded_tokens"]
    assert len(house.store.branch(chat.id)) == 2


def test_with_another_model_the_text_is_read_and_the_file_says_so(house):
    name = house.bake(NOTES, "notes")
    house.load("other.pth")
    sheet = house.states.entry(name).sheet.prefix
    assert house.prefixes.is_stale(sheet)
    found = house.answer(asks("What is the cat called?"), state=name)
    plain = house.answer(Message(Role.SYSTEM, NOTES.system), asks("What is the cat called?"), state="")
    assert found.end.usage.prompt == plain.end.usage.prompt and found.end.usage.cached == 0
    assert found.prompt.state == "" and found.text.token_ids == plain.text.token_ids

    assert house.made(house.prefixes.bake_again(name)) == name
    assert not house.prefixes.is_stale(house.states.entry(name).sheet.prefix)
    assert house.answer(asks("What is the cat called?"), state=name).end.usage.cached == sheet.tokens


def test_a_chat_says_that_another_model_has_read_the_document_again_once(house):
    name = house.bake(NOTES, "notes")
    tokens = house.states.entry(name).sheet.prefix.tokens
    house.load("other.pth")
    first, second = (house.turn(house.store.create(state=name).id, "What is he called?") for _ in range(2))
    assert (first["prefix_tokens"], first["read_again"]) == (0, tokens)
    assert (second["prefix_tokens"], second["read_again"]) == (0, 0)


def test_a_model_of_another_size_reads_the_text_too(house):
    name = house.bake(NOTES, "notes")
    house.load("six.pth")
    assert house.answer(asks("Hi"), state=name).end.usage.cached == 0
    assert house.made(house.prefixes.bake_again(name)) == name
    assert house.states.entry(name).sheet.architecture == "6"
    assert house.answer(asks("Hi"), state=name).end.usage.cached > 0


def test_the_state_in_use_is_baked_again_under_the_answers(house):
    name = house.bake(NOTES, "notes")
    house.states.use(name)
    assert house.answer(asks("Hi")).end.usage.cached > 0
    house.load("other.pth")
    house.states.use(name)
    house.made(house.prefixes.bake_again(name))
    assert house.answer(asks("Hi")).end.usage.cached > 0 and house.manager.status().state == name


def test_a_system_prompt_replaces_an_equal_one_and_comes_before_another(house):
    name = house.bake(PrefixSource(PROMPT, "", "You are kind."), "kind")
    tokens = house.states.entry(name).sheet.prefix.tokens
    same = house.answer(Message(Role.SYSTEM, "You are kind."), asks("Hi"), state=name)
    alone = house.answer(asks("Hi"), state=name)
    other = house.answer(Message(Role.SYSTEM, "Answer briefly."), asks("Hi"), state=name)
    assert (same.end.usage.prompt, same.end.usage.cached) == (alone.end.usage.prompt, tokens)
    assert alone.end.usage.cached == alone.end.usage.prompt, "the same prompt was read just before"
    assert other.end.usage.prompt > alone.end.usage.prompt and other.end.usage.cached == tokens


def test_a_list_of_tools_is_offered_from_it(house):
    name = house.bake(PrefixSource(TOOLS, "mine", "You are kind.", (WEATHER,)), "tools")
    tokens = house.states.entry(name).sheet.prefix.tokens
    found = house.answer(asks("Hi"), state=name)
    assert found.end.usage.cached == tokens and found.prompt.rendered.tools.names == ("weather",)
    brought = Structure(tools=({"type": "function", "function": WEATHER},))
    system = Message(Role.SYSTEM, "You are kind.")
    assert house.answer(system, asks("Hi"), state=name, structure=brought).end.usage.cached >= tokens
    other = Structure(tools=({"type": "function", "function": {**WEATHER, "name": "time"}},))
    assert house.answer(system, asks("Hi"), state=name, structure=other).prompt.prefix_tokens == 0


def test_a_chat_with_the_tools_of_a_preset_starts_from_them(house):
    tools = ToolStore(house.database)
    builtin = next(iter(BUILTINS.values())).definition
    tools.create(builtin)
    preset = house.presets.create("counts", {"system_prompt": "You are kind.", "tools": [builtin.name]})
    source = source_of_preset(preset, tools.list(), "counts")
    name = house.bake(source, "counts")
    chat = house.store.create(state=name, preset_id=preset.id)
    assert source.kind == TOOLS
    assert house.turn(chat.id, "Hi")["prefix_tokens"] == house.states.entry(name).sheet.prefix.tokens
    other = house.store.create(state=name)
    assert house.turn(other.id, "Hi")["prefix_tokens"] == 0


def test_what_cannot_be_made_is_said_at_once_and_leaves_nothing(house):
    house.bake(NOTES, "taken")
    with raises_code("file_name_taken"):
        house.prefixes.bake(NOTES, "taken")
    with raises_code("prompt_empty"):
        house.prefixes.bake(PrefixSource(PROMPT, "", "  "), "empty")
    with raises_code("document_too_long"):
        house.prefixes.bake(source_of_document("long.txt", "x " * 200_000), "long")
    with raises_code("state_not_found"):
        house.prefixes.bake_again("nothing.safetensors")
    house.load("four.pth")
    with raises_code("state_mismatch"):
        house.prefixes.bake(NOTES, "four")
    assert house.states.names() == ("taken.safetensors",)


def test_a_file_that_lies_about_its_prefix_is_an_ordinary_state(house):
    from webapp.weights.state_sheet import PREFIX_KEY, SOURCE_KEY, prefix_of, source_of

    for told in ("", "[]", "{}", '{"kind": "x"}', '{"kind": "document", "tokens": -1}', "[" * 100_000, "null"):
        assert prefix_of({PREFIX_KEY: told}) is None
    assert source_of({f"{SOURCE_KEY}.0": "[1]"}) is None and source_of({f"{SOURCE_KEY}.1": "{}"}) is None


def test_a_prompt_that_does_not_begin_with_it_is_read_whole(house):
    name = house.bake(NOTES, "notes")
    prefix = find_prefix(house.manager, name)
    prompt = house.answer(asks("Hi"), state="").prompt
    assert starting_from(prompt, prefix, house.manager) == replace(prompt, state="")


# what a chat's state is


def test_the_state_of_a_chat_is_that_after_its_last_answer_and_nothing_is_read_for_it(house):
    chat = house.store.create()
    assert state_of_chat(house.manager, house.store, house.presets, chat.id) is None
    house.turn(chat.id, "What is he called?")
    stats = house.turn(chat.id, "And now?")
    read = house.manager.counters()["prefilled_tokens_total"]
    found = state_of_chat(house.manager, house.store, house.presets, chat.id)
    assert found.tokens == stats["prompt_tokens"] + stats["decoded_tokens"] - 1
    assert found.before_tokens == stats["prompt_tokens"] and found.total >= found.tokens
    assert found.state.digest() != found.before.digest()
    assert house.manager.counters()["prefilled_tokens_total"] == read


def test_what_was_read_into_a_prefix_counts_as_absorbed(house):
    name = house.bake(NOTES, "notes")
    chat = house.store.create(state=name)
    stats = house.turn(chat.id, "What is he called?")
    found = state_of_chat(house.manager, house.store, house.presets, chat.id)
    assert found.tokens == stats["prompt_tokens"] + stats["decoded_tokens"] - 1


def test_with_another_model_there_is_no_state_of_the_chat_before_it_answers(house):
    chat = house.store.create()
    house.turn(chat.id, "What is he called?")
    house.load("other.pth")
    assert state_of_chat(house.manager, house.store, house.presets, chat.id) is None


def test_two_files_are_held_against_each_other(house):
    first, second = house.bake(NOTES, "one"), house.bake(source_of_document("b.md", "Another text."), "two")
    alone, both = house.states.measures(first), house.states.measures(first, second)
    assert both.norms == alone.norms and both.difference >= 0
    house.load("six.pth")
    third = house.bake(NOTES, "six")
    with raises_code("state_mismatch"):
        house.states.measures(first, third)
    with raises_code("state_not_found"):
        house.states.measures(first, "gone.pth")
