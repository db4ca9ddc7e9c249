"""Handles, frames, the status board, token rules and the memory estimate, each by itself."""

from __future__ import annotations

import base64
import os
import threading
from dataclasses import replace

import pytest

from tests.manager.conftest import request
from webapp.engine.outputs import FinishReason, PrefillProgress, TokenOutput
from webapp.errors import EngineCrashed
from webapp.manager.handles import LoadingEvent, QueuePosition, RequestHandle
from webapp.manager.library import ModelLibrary
from webapp.manager.machine_memory import available_bytes, has_room_beside, memory_facts, needed_bytes
from webapp.manager.model_status import ModelStatus, StatusBoard
from webapp.manager.target import Choice, TargetResolver
from webapp.manager.token_rules import banned_token_ids, penalty_exempt_token_ids
from webapp.manager.wire import pack, read_message, write_frame
from webapp.tokenizer import load_tokenizer
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


def test_frames_of_any_size_cross_a_pipe():
    ends = os.pipe()
    messages = [None, ("x" * 3_000_000, 1), {"id": list(range(1000))}]
    with open(ends[0], "rb", buffering=0) as reader, open(ends[1], "wb", buffering=0) as writer:

        def write() -> None:
            for message in messages:
                write_frame(writer, pack(message))
            writer.close()

        thread = threading.Thread(target=write)
        thread.start()
        assert [read_message(reader) for _ in messages] == messages
        with pytest.raises(EOFError):
            read_message(reader)
        thread.join()


def test_the_board_counts_changes_and_wakes_who_waits():
    board = StatusBoard()
    board.publish(ModelStatus(phase="loading"))
    board.publish(ModelStatus(phase="loading", engine_bytes=5))
    assert (board.status.revision, board.status.engine_bytes) == (1, 5)
    assert board.wait_change(0, 10).revision == 1
    assert board.wait_change(1, 0.01).revision == 1
    threading.Timer(0.05, board.publish, [ModelStatus(phase="ready")]).start()
    assert board.wait_change(1, 10).phase == "ready"


def test_characters_every_text_repeats_are_exempt_from_the_global_penalty():
    tokenizer = load_tokenizer(65536)
    exempt = {tokenizer.decode([token_id]) for token_id in penalty_exempt_token_ids(tokenizer)}
    assert {"\n", " ", "0", "9", ",", "。"} <= exempt
    assert not {"a", "Z", "的"} & exempt


@pytest.fixture
def target(models_dir, tmp_path):
    return TargetResolver(ModelLibrary(models_dir, tmp_path)).resolve(Choice("v7.safetensors", "fake"))


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
        return needed_bytes(replace(target, choice=replace(target.choice, strategy=strategy)))

    assert needed("cpu fp32") > needed("cpu bf16") > target.inspection.parameters * 2
    assert needed("fake") >= sum(tensor.nbytes for tensor in target.inspection.tensors)
    assert not has_room_beside(replace(target, choice=replace(target.choice, strategy="cuda fp16")))
    assert available_bytes() > 0
    assert memory_facts(os.getpid()).engine_bytes > 1_000_000
    assert memory_facts(2**22 + 1) is None
