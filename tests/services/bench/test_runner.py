"""The requests of a tool bench run, the scoring of its answers, and its end."""

import threading

import pytest

from tests.errors import raises_code
from tests.services.bench.scripted import STARTER, TIME, WEATHER, BenchManager, call
from tests.services.scripted_manager import HANG, end
from tests.waiting import wait_until
from webapp.errors import BenchRefused, EngineCrashed, ModelError, QueueFull, RequestError
from webapp.manager.handles import Service
from webapp.services.bench.tool_bench import NO_CALL, OTHER, BenchRequest, BenchRunner, document, reports, wrong_first
from webapp.tools.bench import BenchCase, ExpectedCall

PARIS = BenchCase("Weather in Paris?", (ExpectedCall("get_weather", {"city": "Paris"}),))
HELLO = BenchCase("Hello!")


def run(world, scripts, cases, modes=("free",), **options):
    """(runner, answers in order)."""
    manager = BenchManager(world, *scripts, **options)
    runner = BenchRunner(manager, BenchRequest((WEATHER, TIME), tuple(cases), modes), at_once=1)
    answers = []
    try:
        runner.run(answers.append)
    finally:
        runner.manager = manager
        run.answers = answers
    return runner, answers


ANSWERS = {
    "right": call("get_weather", city="Paris"),
    "wrong name": call("get_time"),
    "wrong arguments": call("get_weather", city="Rome"),
    "one argument too many": call("get_weather", city="Paris", days=1),
    "no call": " It is sunny.",
    "broken": ' ```json\n{"name": "get_weather", "argum',
    "unknown tool": call("get_wether", city="Paris"),
}
EXPECTED = {
    "right": (True, True, True, True),
    "wrong name": (True, True, False, False),
    "wrong arguments": (True, True, True, False),
    "one argument too many": (True, True, True, False),
    "no call": (False, False, False, False),
    "broken": (True, False, False, False),
    "unknown tool": (True, True, False, False),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_each_way_to_answer_is_judged_for_what_it_is(world, kind):
    _, [answer] = run(world, [ANSWERS[kind]], [PARIS])
    assert tuple(answer["score"].values()) == EXPECTED[kind]
    assert answer["raw"] == ANSWERS[kind] and answer["sent"] == "User: Weather in Paris?\n\nAssistant:"


def test_figures_and_confusion_count_every_case_once(world):
    scripts = [*ANSWERS.values(), " Hello to you.", call("get_time")]
    runner, answers = run(world, scripts, [PARIS] * len(ANSWERS) + [HELLO, HELLO])
    [report] = reports(runner.setup(), answers)
    assert (report.cases, report.right) == (9, 2)
    assert report.counts == {"decision": (7, 9), "readable": (5, 7), "name": (3, 7), "arguments": (1, 7)}
    assert report.shares["decision"] == round(7 / 9, 4) and report.shares["arguments"] == round(1 / 7, 4)
    assert dict(report.confusion.counts) == {
        ("get_weather", "get_weather"): 3,
        ("get_weather", "get_time"): 1,
        ("get_weather", NO_CALL): 1,
        ("get_weather", OTHER): 2,
        (NO_CALL, NO_CALL): 1,
        (NO_CALL, "get_time"): 1,
    }
    assert [answer["place"] for answer in wrong_first(answers)] == [1, 2, 3, 4, 5, 6, 8, 0, 7]


def test_several_calls_are_compared_in_their_order(world):
    two = BenchCase("Both", (ExpectedCall("get_weather", {"city": "Paris"}), ExpectedCall("get_time")))
    listed = ' ```json\n[{"name":"get_weather","arguments":{"city":"Paris"}},{"name":"get_time","arguments":{}}]\n```'
    runner, answers = run(world, [listed, call("get_weather", city="Paris")], [two, two])
    assert [answer["score"]["arguments"] for answer in answers] == [True, False]
    [report] = reports(runner.setup(), answers)
    assert [report.confusion.count("get_time", called) for called in (NO_CALL, "get_time")] == [1, 1]


def test_both_modes_ask_each_case_and_only_one_of_them_is_held(world):
    runner, answers = run(world, [call("get_time"), " No."], [PARIS], ("constrained", "free"))
    held, free = runner.manager.requests
    assert held.constraint["kind"] == "lark" and "get_weather" in held.constraint["grammar"]
    assert free.constraint is None and held.prompt_token_ids == free.prompt_token_ids
    assert {report.mode for report in reports(runner.setup(), answers)} == {"constrained", "free"}
    assert {request.params.temperature for request in (held, free)} == {0}
    assert {request.client for request in (held, free)} == {"tool bench"}


def test_what_the_model_reads_is_the_offer_and_the_case(world):
    runner, [answer] = run(world, [" Hi."], [HELLO])
    read = world.decode(runner.manager.requests[0].prompt_token_ids)
    assert read == runner.setup()["offer"] + answer["sent"] and "get_weather" in runner.setup()["offer"]


def test_a_crash_ends_the_run_with_its_error_and_keeps_earlier_answers(world):
    crash = [end("error", EngineCrashed(reason="a memory fault").to_dict())]
    with pytest.raises(EngineCrashed):
        run(world, [call("get_weather", city="Paris"), crash, " never asked"], [PARIS, PARIS, HELLO])
    assert [answer["place"] for answer in run.answers] == [0]


@pytest.mark.parametrize("other", [Service("big.pth", "cpu fp32"), Service("starter.pth", "cpu bf16")])
def test_answers_of_another_model_or_strategy_are_not_mixed_in(world, other):
    with raises_code("model_unloaded"):
        run(world, [" Hi.", " Hi."], [HELLO, HELLO], services=(STARTER, other))
    assert len(run.answers) == 1


def test_another_model_chosen_meanwhile_refuses_the_rest(world):
    with raises_code("model_unloaded"):
        run(world, [" Hi.", ModelError("model_unloaded")], [HELLO, HELLO])
    assert len(run.answers) == 1


def test_a_stop_aborts_running_answers_and_sends_no_more_requests(world):
    going = threading.Event()
    manager = BenchManager(world, " Hi.", [" Bird", threading.Event()], " never asked")
    runner = BenchRunner(manager, BenchRequest((WEATHER,), (HELLO, HELLO, HELLO), ("free",)), at_once=1)
    answers = []

    def keep(answer):
        answers.append(answer)
        going.set()

    thread = threading.Thread(target=runner.run, args=(keep,))
    thread.start()
    wait_until(going.is_set)
    runner.stop()
    thread.join(60)
    assert not thread.is_alive() and runner.is_stopped
    assert len(answers) == 1 and len(manager.requests) <= 2


def test_one_prompt_too_long_fails_only_that_case(world):
    runner, answers = run(world, [RequestError("prompt_too_long", tokens=9, limit=8), " Hi."], [HELLO, HELLO])
    assert answers[0]["error"]["code"] == "prompt_too_long" and not answers[0]["score"]["decision"]
    [report] = reports(runner.setup(), answers)
    assert (report.right, report.confusion.counts[(NO_CALL, OTHER)]) == (1, 1)


def test_a_full_queue_is_waited_for(world):
    _, answers = run(world, [QueueFull(waiting=9), " Hi."], [HELLO])
    assert len(answers) == 1


def test_cases_of_tools_that_are_not_offered_are_left_out(world):
    manager = BenchManager(world, " Hi.")
    runner = BenchRunner(manager, BenchRequest((TIME,), (PARIS, HELLO), ("free",)), at_once=1)
    answers = []
    runner.run(answers.append)
    assert [answer["prompt"] for answer in answers] == ["Hello!"]
    assert (runner.setup()["asked"], runner.setup()["left_out"]) == (1, 1)


@pytest.mark.parametrize(
    "order", [BenchRequest((), (HELLO,)), BenchRequest((TIME,), (PARIS,)), BenchRequest((TIME,), (HELLO,), ("odd",))]
)
def test_nothing_to_run_is_refused_at_once(world, order):
    with pytest.raises(BenchRefused):
        BenchRunner(BenchManager(world), order)


def test_the_dialect_that_was_chosen_is_read(world):
    hermes = ' <tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    manager = BenchManager(world, hermes)
    case = BenchCase("What time is it?", (ExpectedCall("get_time"),))
    runner = BenchRunner(manager, BenchRequest((TIME,), (case,), ("free",), "hermes"), at_once=1)
    answers = []
    runner.run(answers.append)
    assert answers[0]["score"]["arguments"] is True and runner.setup()["dialect"] == "hermes"


def test_the_document_is_json_and_says_what_was_not_answered(world):
    import json

    runner, answers = run(world, [" Hi."], [HELLO])
    found = json.loads(json.dumps(document(runner.setup(), answers, EngineCrashed(reason="x").to_dict())))
    free = found["modes"]["free"]
    assert (free["decision"], free["name"], free["confusion"]["(no call)"]) == (1.0, None, {"(no call)": 1})
    assert found["error"]["code"] == "engine_crashed"


def test_a_hanging_engine_can_be_left(world):
    """An abort that is never confirmed must not delay the server's shutdown forever."""
    manager = BenchManager(world, [HANG])
    runner = BenchRunner(manager, BenchRequest((TIME,), (HELLO,), ("free",)), at_once=1)
    thread = threading.Thread(target=runner.run, args=(lambda answer: None,), daemon=True)
    thread.start()
    while not manager.handles:
        threading.Event().wait(0.01)
    runner.stop()
    thread.join(60)
    assert not thread.is_alive()
