"""Handles, frames, the status board, token rules and the memory estimate, separately."""

from __future__ import annotations

import base64
import io
import os
import sys
import threading

import msgspec
import pytest
from msgspec.structs import replace

from tests.manager.conftest import request
from webapp.backends.fake import FakeBackend, fake_config
from webapp.engine.backend import RAM, LoadProgress
from webapp.engine.outputs import (
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    QueueReport,
    TokenLogprob,
    TokenOutput,
)
from webapp.engine.sampling_params import SamplingParams
from webapp.engine.state import ModelConfig, RecurrentState
from webapp.errors import EngineCrashed, FileMissing
from webapp.manager import memory
from webapp.manager.handles import MAX_EVENTS, LoadingEvent, QueuePosition, RequestHandle
from webapp.manager.library import ModelLibrary
from webapp.manager.loop import EngineLoop
from webapp.manager.memory import available_bytes, footprint_of, has_room_beside, memory_facts
from webapp.manager.messages import (
    LoadFailed,
    Loading,
    LoadModel,
    Outputs,
    Reply,
    State,
    Submit,
    pack,
    printable,
    read_command,
    read_message,
)
from webapp.manager.session import banned_token_ids, penalty_exempt_token_ids
from webapp.manager.target import Choice, ModelStatus, StatusBoard, TargetResolver
from webapp.tokenizer import load_tokenizer
from webapp.weights.child_process import write_frame
from webapp.weights.inspection import USED_TOKENS_KEY


def test_unread_progress_is_replaced_and_tokens_never_are():
    handle = RequestHandle(request(), lambda handle: None)
    tokens = [TokenOutput(handle.request_id, (n,)) for n in range(3)]
    for event in (LoadingEvent(1, 9), LoadingEvent(9, 9), QueuePosition(2), QueuePosition(1), *tokens):
        handle.put(event)
    handle.put(PrefillProgress(handle.request_id, 1, 2))
    handle.finish(FinishReason.ERROR, EngineCrashed(reason="x"))
    handle.finish(FinishReason.ABORT)
    *rest, end = handle.events(0)
    assert rest == [LoadingEvent(9, 9), QueuePosition(1), *tokens, PrefillProgress(handle.request_id, 1, 2)]
    assert end.finish_reason is FinishReason.ERROR and end.stats.decoded_tokens == 3
    assert handle.is_finished and handle.next_event(0) is None


def test_unread_tokens_are_joined_and_none_is_lost():
    handle = RequestHandle(request(), lambda handle: None)
    for token_id in range(10_000):
        handle.put(TokenOutput(handle.request_id, (token_id,), logprobs=((TokenLogprob(token_id, -1.0),),)))
    handle.put(TokenOutput(handle.request_id, finish_reason=FinishReason.LENGTH))
    events = list(handle.events(0))
    assert len(events) <= MAX_EVENTS + 1 and events[-1].finish_reason is FinishReason.LENGTH
    assert [token_id for event in events for token_id in event.token_ids] == list(range(10_000))
    assert sum(len(event.logprobs) for event in events) == 10_000


def test_tokens_are_gathered_after_the_first_and_the_end_does_not_wait():
    handle = RequestHandle(request(), lambda handle: None)
    for token_id in range(3):
        handle.put(TokenOutput(handle.request_id, (token_id,)))
    assert handle.next_event(0, gather_s=60).token_ids == (0, 1, 2)  # the first is sent immediately
    handle.put(TokenOutput(handle.request_id, (3,)))
    handle.put(TokenOutput(handle.request_id, (4,), FinishReason.LENGTH))
    end = handle.next_event(60, gather_s=60)
    assert end.token_ids == (3, 4) and end.finish_reason is FinishReason.LENGTH
    assert handle.next_event(60, gather_s=60) is None


def test_memory_running_out_while_the_fresh_state_is_read_is_a_failed_load(monkeypatch):
    def refuse(backend, slot):
        raise MemoryError("no room")

    closed, sent = [], []
    monkeypatch.setattr(FakeBackend, "read_state", refuse)
    monkeypatch.setattr(FakeBackend, "close", lambda backend: closed.append(backend))
    loop = EngineLoop(sent.append)
    loop.put(LoadModel("", fake_config(), "fake", max_sequences=2, prefill_chunk=0, state_cache_bytes=0))
    loop.run()
    assert isinstance(sent[-1], LoadFailed) and sent[-1].error["code"] == "out_of_memory"
    assert len(closed) == 1


def test_frames_of_any_size_cross_a_pipe():
    ends = os.pipe()
    state = RecurrentState.zeros(ModelConfig("7", 2, 1024, 1024, 4096, 16, 64, 256))
    state.arrays["att_kv"][1, 2, 3, 4] = 0.5
    messages = [
        Loading(LoadProgress(1, 2, 3, 4)),
        Reply(7, state=State.of(state)),
        Reply(8, error={"code": "x", "params": {"n": 1}}),
        Outputs.of([QueueReport(1, {"a": 2}), TokenOutput("b", (1,) * 1000, FinishReason.STOP)]),
    ]
    with open(ends[0], "rb", buffering=0) as reader, open(ends[1], "wb", buffering=0) as writer:

        def write() -> None:
            for message in messages:
                write_frame(writer, pack(message))
            writer.close()

        thread = threading.Thread(target=write)
        thread.start()
        found = [read_message(reader) for _ in messages]
        assert found == messages
        assert found[1].state.value().arrays["att_kv"][1, 2, 3, 4] == 0.5
        with pytest.raises(EOFError):
            read_message(reader)
        thread.join()


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80\x04N.", msgspec.msgpack.encode(["Shutdown"])])
def test_an_invalid_message_is_refused_and_nothing_is_run(payload):
    """The last two: a pickle, and a command in place of an engine's message."""
    frame = len(payload).to_bytes(8, "big") + payload
    with pytest.raises(msgspec.MsgspecError):
        read_message(io.BytesIO(frame))
    if payload[:1] != b"\x91":
        with pytest.raises(msgspec.MsgspecError):
            read_command(io.BytesIO(frame))


def test_what_is_no_text_and_numbers_of_any_size_cross_too():
    path = os.fsdecode(b"/models/\xff.pth")
    command = LoadModel(os.fsencode(path), ModelConfig("7", 1, 1, 1, 1, 1, 1, 1), "fake", 1, 1, 1)
    assert read_command(io.BytesIO(pack(command))).path == path
    schema = {"type": "integer", "maximum": 10**40, "title": path}
    params = SamplingParams(logit_bias={5: -1.5}, stop_token_sequences=((1, 2), (3,)), seed=2**53 - 1)
    request = GenerationRequest("r", (1, 2), params, (1,), "me", constraint=schema)
    submitted = read_command(io.BytesIO(pack(Submit.of(request, "d"))))
    assert submitted.request() == replace(request, initial_state_digest="d")
    failed = read_message(io.BytesIO(pack(LoadFailed(printable(FileMissing(path=path).to_dict())))))
    assert failed.error["code"] == "file_not_found" and "?" in failed.error["message"]


def test_the_board_counts_changes_and_wakes_who_waits():
    board = StatusBoard()
    board.publish(ModelStatus(phase="loading"))
    board.publish(ModelStatus(phase="loading", engine_bytes=5))
    assert (board.status.revision, board.status.engine_bytes) == (1, 5)
    assert board.wait_change(0, 10).revision == 1
    assert board.wait_change(1, 0.01).revision == 1
    threading.Timer(0.05, board.publish, [ModelStatus(phase="ready")]).start()
    assert board.wait_change(1, 10).phase == "ready"


def test_a_listener_of_the_board_hears_of_changes_until_it_is_forgotten():
    board, heard = StatusBoard(), []

    def listener() -> None:
        heard.append("mine")

    board.listen(lambda: heard.append("other"))
    board.listen(listener)
    board.publish(ModelStatus(phase="loading"))
    board.publish(ModelStatus(phase="loading"))
    board.forget(listener)
    board.publish(ModelStatus(phase="ready"))
    assert heard == ["other", "mine", "other"]


def test_characters_every_text_repeats_are_exempt_from_the_global_penalty():
    tokenizer = load_tokenizer(65536)
    exempt = {tokenizer.decode([token_id]) for token_id in penalty_exempt_token_ids(tokenizer)}
    assert {"\n", " ", "0", "9", ",", "。"} <= exempt
    assert not {"a", "Z", "的"} & exempt


@pytest.fixture
def target(models_dir, tmp_path):
    return TargetResolver(ModelLibrary(models_dir, tmp_path), lambda model, in_use: "").resolve(
        Choice("v7.safetensors", "fake")
    )


def test_tokens_without_text_or_training_are_banned_but_never_the_end(target):
    tokenizer = load_tokenizer(65536)
    banned = set(banned_token_ids(tokenizer, target.inspection, 65536))
    assert banned == set(tokenizer.unassigned_ids()) - {0}
    used = bytearray(8192)
    for token_id in (3, 9, 65000):
        used[token_id // 8] |= 1 << token_id % 8
    marked = replace(target.inspection, metadata={USED_TOKENS_KEY: base64.b64encode(bytes(used)).decode()})
    assert set(range(65536)) - set(banned_token_ids(tokenizer, marked, 65536)) == {0, 3, 9, 65000}
    assert set(range(256)) - set(banned_token_ids(None, marked, 256)) == {0, 3, 9}


def test_the_need_of_a_load_follows_the_strategy(target):
    def needed(strategy: str) -> int:
        return footprint_of(replace(target, choice=replace(target.choice, strategy=strategy))).peak_bytes(RAM)

    assert needed("cpu fp32") > needed("cpu bf16") > target.inspection.parameters * 2
    assert needed("fake") >= sum(tensor.nbytes for tensor in target.inspection.tensors)
    assert not has_room_beside(replace(target, choice=replace(target.choice, strategy="cuda fp16")))
    assert available_bytes() > 0
    assert memory_facts(os.getpid()).engine_bytes > 1_000_000
    assert memory_facts(2**22 + 1) is None


@pytest.mark.skipif(sys.platform != "linux", reason="looks for VmHWM in /proc")
def test_the_most_memory_is_in_bytes_where_the_system_counts_in_others(monkeypatch):
    resource = pytest.importorskip("resource")
    kept = memory.peak_bytes(os.getpid())
    monkeypatch.setattr(memory, "open", lambda *_, **__: io.StringIO("VmRSS: 1 kB\n"), raising=False)
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for platform, unit in (("freebsd", 1024), ("darwin", 1)):
        monkeypatch.setattr(sys, "platform", platform)
        assert counted * unit <= memory.peak_bytes(os.getpid()) < 2 * counted * unit
    assert kept is not None and memory.peak_bytes(os.getppid()) is None
