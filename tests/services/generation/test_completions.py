"""Several answers of one request: when each begins, and that none continues after the request is closed."""

import threading

import pytest

from tests.errors import raises_code
from tests.services.scripted_manager import ScriptedManager, end
from webapp.chat.messages import ContentDelta, Finished
from webapp.engine.outputs import FinishReason, TokenOutput
from webapp.errors import EngineCrashed, QueueFull
from webapp.services.generation.completions import Completions
from webapp.services.generation.request import AnswerRequest, TextPrompt
from webapp.services.presets.presets import Presets


class ListeningManager(ScriptedManager):
    """Its handles have listeners. ``before_return(number)`` runs inside the submit of that request (from 1)."""

    before_return = None

    def submit(self, request, made_for=None, state=None):
        handle = super().submit(request, made_for, state)
        handle.listen = lambda listener: listener()
        if self.before_return is not None:
            self.before_return(len(self.handles))
        return handle


@pytest.fixture
def start(world, database, settings):
    """start(*scripts, choices=n) -> (completion, manager)."""

    def start(*scripts, **asked):
        manager = ListeningManager(world, *scripts)
        completions = Completions(manager, Presets(manager, database, settings))
        return completions.start(AnswerRequest((TextPrompt("Once"),), **asked)), manager

    return start


def read(completion):
    """[content of each answer], [the end of each answer]."""
    texts, ends = {}, {}
    for item in completion.events(0.01):
        if item is not None and isinstance(item[1], ContentDelta):
            texts[item[0]] = texts.get(item[0], "") + item[1].text
        elif item is not None and isinstance(item[1], Finished):
            ends[item[0]] = item[1]
    return [texts[number] for number in sorted(texts)], [ends[number] for number in sorted(ends)]


def test_every_answer_of_a_prompt_is_read(start):
    completion, manager = start(" one", " two", " three", choices=3, sampling={"seed": 5})
    texts, ends = read(completion)
    assert texts == [" one", " two", " three"]
    assert [found.finish_reason for found in ends] == ["stop"] * 3
    assert [request.params.seed for request in manager.requests] == [5, 6, 7]


def test_the_others_begin_when_the_first_writes_or_ends_without_a_word(start):
    completion, manager = start([], " two", choices=2)
    assert len(manager.requests) == 1
    assert read(completion)[0] == [" two"]


def test_a_close_while_a_later_answer_is_being_submitted_ends_that_one_too(start):
    """The closing thread does not see a handle yet, and the submitting thread did not see the close: one of them must
    end it."""
    completion, manager = start([" one", threading.Event()], [" two", threading.Event()], choices=2)

    def close_from_another_thread(number):
        assert number == 2
        closer = threading.Thread(target=completion.close)
        closer.start()
        closer.join(60)

    manager.before_return = close_from_another_thread
    read(completion)
    assert len(manager.handles) == 2
    assert all(handle.is_aborted.is_set() for handle in manager.handles)


def test_nothing_is_submitted_after_a_close(start):
    completion, manager = start([threading.Event()], " two", choices=2)
    completion.close()
    read(completion)
    assert len(manager.handles) == 1 and manager.handles[0].is_aborted.is_set()


@pytest.mark.parametrize("broken, error", [(QueueFull(waiting=9), "queue_full"), ([end("abort")], "model_unloaded")])
def test_what_breaks_one_answer_is_raised_and_ends_the_others(start, broken, error):
    completion, manager = start([" one", threading.Event()], broken, choices=2)
    with raises_code(error):
        read(completion)
    assert manager.handles[0].is_aborted.is_set()


def test_what_came_with_the_error_is_read_before_it_is_raised(start, world):
    crash = EngineCrashed(reason="killed").to_dict()
    last = TokenOutput("", tuple(world.encode(" rest")), finish_reason=FinishReason.ERROR, error=crash)
    completion, _ = start([" Half", last])
    events = completion.events(0.01)
    text = ""
    with pytest.raises(EngineCrashed):
        for item in events:
            if item is not None and isinstance(item[1], ContentDelta):
                text += item[1].text
    assert text == " Half rest"


def test_each_event_says_whether_another_is_available(start):
    """So that a stream writes them together."""
    completion, _ = start([" one", " two"])
    told = [(type(item[1]), completion.has_more) for item in completion.events(0.01) if item is not None]
    assert told == [(ContentDelta, True), (ContentDelta, True), (Finished, False)]


def test_an_engine_that_dies_is_raised(start):
    completion, _ = start([" Half", end("error", EngineCrashed(reason="killed").to_dict())])
    with pytest.raises(EngineCrashed):
        read(completion)
