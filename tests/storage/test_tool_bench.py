"""The stored data of the tool bench."""

import pytest

from tests.errors import raises_code
from webapp.errors import BenchRefused
from webapp.storage.bench import DONE, FAILED, KEPT_RUNS, BenchStore
from webapp.tools.bench import BenchCase, ExpectedCall

MINE = BenchCase("Weather in Paris?", (ExpectedCall("get_weather", {"city": "Paris"}),))
MADE = BenchCase("Hello!", is_generated=True)


@pytest.fixture
def bench(database):
    return BenchStore(database)


def prompts(bench):
    return [stored.case.prompt for stored in bench.cases()]


def test_a_persons_cases_stay_when_the_made_ones_are_made_again(bench):
    bench.add_cases([MADE, MINE])
    bench.add_cases([BenchCase("Good day!", is_generated=True)], replaces_generated=True)
    assert prompts(bench) == ["Weather in Paris?", "Good day!"]
    assert bench.cases()[0].case == MINE


def test_cases_are_changed_deleted_and_restored(bench):
    [stored] = bench.add_cases([MADE])
    bench.change_case(stored.id, MINE)
    assert bench.case(stored.id).case == MINE
    bench.delete_case(stored.id)
    for action in (bench.case, bench.delete_case):
        with raises_code("bench_not_found"):
            action(stored.id)
    bench.restore_case(stored.id)
    assert prompts(bench) == ["Weather in Paris?"]
    moment = bench.delete_cases()
    assert prompts(bench) == []
    bench.restore_cases(moment)
    assert prompts(bench) == ["Weather in Paris?"]


def test_more_than_there_is_room_for_is_refused_as_a_whole(bench):
    bench.add_cases([MADE] * 499)
    with pytest.raises(BenchRefused):
        bench.add_cases([MINE, MINE])
    assert len(bench.cases()) == 499


def test_a_run_keeps_its_answers_and_how_it_ended(bench):
    run = bench.begin_run({"model": "starter"})
    bench.add_answer(run.id, {"place": 0})
    bench.add_answer(run.id, {"place": 1})
    bench.end_run(run.id, FAILED, {"code": "engine_crashed"})
    [found] = bench.runs()
    assert (found.status, found.answers, found.error, found.setup) == (
        FAILED, 2, {"code": "engine_crashed"}, {"model": "starter"},
    )  # fmt: skip
    assert bench.answers(run.id) == [{"place": 0}, {"place": 1}]


def test_the_last_runs_are_kept_and_older_ones_go_with_their_answers(bench, database):
    first = bench.begin_run({})
    bench.add_answer(first.id, {"place": 0})
    for _ in range(KEPT_RUNS):
        bench.end_run(bench.begin_run({}).id, DONE)
    assert len(bench.runs()) == KEPT_RUNS
    with raises_code("bench_not_found"):
        bench.run(first.id)
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM bench_answers").fetchone()[0] == 0


def test_answers_of_a_deleted_run_are_dropped_and_an_abandoned_run_is_reported(bench):
    gone, left = bench.begin_run({}), bench.begin_run({})
    bench.delete_run(gone.id)
    bench.add_answer(gone.id, {"place": 0})
    assert bench.has_running()
    bench.end_abandoned({"code": "bench_interrupted"})
    assert not bench.has_running()
    assert (bench.run(left.id).status, bench.run(left.id).error) == (FAILED, {"code": "bench_interrupted"})
