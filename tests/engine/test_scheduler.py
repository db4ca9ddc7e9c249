import pytest

from tests.engine.driving import request
from webapp.backends.fake import fake_config
from webapp.engine.scheduler import Scheduler, Sequence, SequenceStatus
from webapp.engine.state import RecurrentState


def sequence(request_id, client="", prompt_length=10, snapshot_lengths=()):
    made = request(request_id, range(1, prompt_length + 1), client=client)
    state = RecurrentState.zeros(fake_config())
    return Sequence(made, state, "d", 0, [], 0.0, list(snapshot_lengths))


def scheduler(*sequences, slots=2, chunk=64):
    made = Scheduler(slots, chunk)
    for each in sequences:
        made.add(each)
    return made


def names(sequences):
    return [each.request.request_id for each in sequences]


def read(pieces):
    """As the engine does: advances positions."""
    for piece in pieces:
        piece.sequence.position = piece.end
    return [(piece.sequence.request.request_id, piece.start, piece.end) for piece in pieces]


def served(made, count):
    """The order in which slots are assigned; each sequence ends before the next starts."""
    order = []
    for _ in range(count):
        order += names(made.admit())
        made.remove(made.running[0])
    return order


def test_no_more_run_than_there_are_slots():
    made = scheduler(*(sequence(str(n)) for n in range(5)), slots=2)
    assert names(made.admit()) == ["0", "1"] and made.admit() == []
    made.remove(made.running[0])
    assert names(made.admit()) == ["2"]


def test_with_one_slot_sequences_run_one_at_a_time_in_order():
    assert served(scheduler(*(sequence(str(n)) for n in range(4)), slots=1), 4) == ["0", "1", "2", "3"]


def test_clients_take_turns_and_each_is_served_in_its_own_order():
    made = scheduler(
        *(sequence(f"a{n}", "a") for n in range(3)),
        *(sequence(f"b{n}", "b") for n in range(2)),
        sequence("c0", "c"),
        slots=1,
    )
    assert served(made, 6) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_a_client_with_fewer_running_sequences_goes_first():
    made = scheduler(*(sequence(f"a{n}", "a") for n in range(4)), slots=3)
    made.admit()
    made.add(sequence("b0", "b"))
    made.remove(made.running[0])
    assert names(made.admit()) == ["b0"]


def test_fewer_running_sequences_outweigh_having_been_served_last():
    made = scheduler(sequence("a0", "a"), sequence("a1", "a"), sequence("b0", "b"), sequence("b1", "b"), slots=2)
    assert names(made.admit()) == ["a0", "b0"]
    made.remove(made.running[1])
    assert names(made.admit()) == ["b1"]


def test_a_waiting_client_is_not_starved_by_clients_that_keep_coming_back():
    made = scheduler(sequence("a0", "a"), sequence("a1", "a"), slots=1)
    made.admit()
    order = []
    for turn in range(6):
        made.add(sequence(f"b{turn}", f"b{turn % 2}"))
        made.waiting_order()
        made.remove(made.running[0])
        order += names(made.admit())
    assert "a1" in order[:3]


def test_the_waiting_order_is_the_order_of_admission():
    made = scheduler(*(sequence(f"a{n}", "a") for n in range(4)), *(sequence(f"b{n}", "b") for n in range(3)), slots=1)
    foreseen = names(made.waiting_order())
    taken = []
    while made.waiting:
        made.max_sequences += 1
        taken += names(made.admit())
    assert taken == foreseen


def test_a_prompt_is_read_in_chunks():
    made = scheduler(sequence("a", prompt_length=150), chunk=64)
    made.admit()
    assert [read(made.plan().prefill) for _ in range(3)] == [[("a", 0, 64)], [("a", 64, 128)], [("a", 128, 150)]]


def test_a_step_reads_no_more_prompt_tokens_than_a_chunk_however_many_prefill():
    made = scheduler(*(sequence(str(n), prompt_length=100) for n in range(4)), slots=4, chunk=64)
    made.admit()
    while pieces := made.plan().prefill:
        assert sum(piece.end - piece.start for piece in pieces) <= 64
        for piece in pieces:
            piece.sequence.position = piece.end
            if piece.end == 100:
                made.start_decoding(piece.sequence)


def test_prefilling_sequences_take_turns_so_a_short_prompt_does_not_wait_for_a_long_one():
    made = scheduler(sequence("long", prompt_length=1000), sequence("short", prompt_length=30), chunk=64)
    made.admit()
    assert read(made.plan().prefill) == [("long", 0, 64)]
    assert read(made.plan().prefill) == [("short", 0, 30), ("long", 64, 98)]


def test_chunks_are_split_where_a_snapshot_is_due():
    made = scheduler(sequence("a", prompt_length=100, snapshot_lengths=[10, 70]), chunk=64)
    made.admit()
    assert read(made.plan().prefill) == [("a", 0, 10), ("a", 10, 64)]
    assert read(made.plan().prefill) == [("a", 64, 70), ("a", 70, 100)]


@pytest.mark.parametrize("status", [SequenceStatus.WAITING, SequenceStatus.PREFILLING, SequenceStatus.DECODING])
def test_removing_a_sequence_leaves_no_trace_wherever_it_stands(status):
    one, other = sequence("a"), sequence("b")
    made = scheduler(other if status is SequenceStatus.WAITING else one, slots=1)
    if status is SequenceStatus.WAITING:
        made.add(one)
    made.admit()
    if status is SequenceStatus.DECODING:
        made.start_decoding(one)
    assert one.status is status
    made.remove(one)
    assert one.status is SequenceStatus.FINISHED and made.find("a") is None
    plan = made.plan()
    assert one not in plan.decoding and all(piece.sequence is not one for piece in plan.prefill)
