"""llama.cpp's endpoints, with the fields that its server accepts and returns."""

from __future__ import annotations

import json

import pytest

from tests.web.api.api_server import ANSWER, MODEL
from tests.web.chat.running_roost import fake_strategy, models_dir
from tests.weights.make_checkpoints import write_checkpoint
from webapp.tokenizer import load_tokenizer

SIZE = len(ANSWER.encode()) + 1
"""Tokens of the scripted answer, including the end."""


def complete(server, **body):
    status, found = server.post("/completion", {"prompt": "Once", **body})
    assert status == 200, found
    return found


def test_a_completion_has_llama_cpps_fields(server):
    found = complete(server, n_predict=500, cache_prompt=True, id_slot=-1, n_keep=4, seed=-1, return_tokens=True)
    assert found["content"] == ANSWER and found["stop"] is True and found["stop_type"] == "eos"
    assert (found["tokens_predicted"], found["tokens_evaluated"], found["truncated"]) == (SIZE, 1, False)
    assert found["tokens"] == [byte + 1 for byte in ANSWER.encode()] and found["has_new_line"] is True
    assert found["prompt"] == "Once" and found["model"] == MODEL and found["stopping_word"] == ""
    assert found["generation_settings"]["n_predict"] == 500
    timings = found["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == 1 and timings["predicted_n"] == SIZE
    assert timings["predicted_per_second"] > 0 and timings["predicted_ms"] > 0


@pytest.mark.parametrize("body, kind, word", [({"n_predict": 3}, "limit", ""), ({"stop": ["sit"]}, "word", "sit")])
def test_it_says_what_ended_it(server, body, kind, word):
    found = complete(server, **body)
    assert (found["stop_type"], found["stopping_word"]) == (kind, word)
    assert found["content"] == {"limit": "Bir", "word": "Birds 🐦 "}[kind]


def test_a_stream_joins_to_the_same_text_and_ids(server):
    *pieces, last = server.events("/completion", {"prompt": "Once", "stream": True})
    assert "".join(piece["content"] for piece in pieces) == ANSWER and last["content"] == ""
    assert [one for piece in pieces for one in piece["tokens"]] == [byte + 1 for byte in ANSWER.encode()]
    assert not any(piece["stop"] for piece in pieces) and last["stop"] and last["timings"]["predicted_n"] == SIZE


@pytest.mark.parametrize(
    "prompt, count",
    [([101, 102], None), (["On", 101, "ce"], None), (["Once", "Twice"], 2), ([[101, "b"], "Once"], 2), (["Once"], 1)],
)
def test_every_form_of_prompt(server, prompt, count):
    found = complete(server, prompt=prompt, n_predict=2)
    rows = [found] if count is None else found
    assert [(row["index"], row["content"]) for row in rows] == [(number, "Bi") for number in range(count or 1)]


def test_probabilities_of_each_token(server):
    found = complete(server, n_probs=3, n_predict=4)["completion_probabilities"]
    assert [row["token"] for row in found] == list("Bird") and [row["id"] for row in found] == [67, 106, 115, 101]
    assert all(len(row["top_logprobs"]) == 3 and row["logprob"] <= 0 for row in found)
    assert found[0]["top_logprobs"][0]["id"] == 67 and found[0]["bytes"] == [66]


def test_biases_may_be_pairs_of_ids_or_texts(serve):
    server = serve(strategy="fake slots=4")
    for biases in ([[98, 100.0]], [["a", 100]], {"98": 100}):
        assert complete(server, n_predict=2, logit_bias=biases, temperature=0)["content"] == "aa"
    first = complete(server, n_predict=1, temperature=0, return_tokens=True)["tokens"]
    assert (
        complete(server, n_predict=1, temperature=0, return_tokens=True, logit_bias=[[first[0], False]])["tokens"]
        != first
    )


def test_progress_is_told_while_a_long_prompt_is_read(serve):
    server = serve(prefill_chunk=8)
    long = {"prompt": list(range(100, 140)), "stream": True, "return_progress": True, "n_predict": 2}
    told = [piece["prompt_progress"] for piece in server.events("/completion", long) if "prompt_progress" in piece]
    assert told and told[0]["total"] == 40 and 0 < told[0]["processed"] <= 40
    body = {"messages": [{"role": "user", "content": "word " * 200}], "stream": True, "return_progress": True}
    chunks = [chunk for chunk in server.events("/v1/chat/completions", body) if chunk != "[DONE]"]
    assert any("prompt_progress" in chunk for chunk in chunks)


def test_a_chats_last_piece_has_the_timings(server):
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    assert server.post("/v1/chat/completions", hello)[1]["timings"]["predicted_n"] == SIZE
    chunks = [chunk for chunk in server.events("/v1/chat/completions", {**hello, "stream": True}) if chunk != "[DONE]"]
    assert [("timings" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@pytest.mark.parametrize("name", ["rwkv7-g1c-0.1b-20260110-ctx8192", "rwkv7-g1h-0.1b-20260710-ctx10240"])
def test_a_gap_is_filled_where_the_model_can(serve, tmp_path, monkeypatch, name):
    """In the format of these models: the engine gets exactly these tokens, and the mark between the texts ends the
    answer, also streamed."""
    folder = tmp_path / "models"
    folder.mkdir()
    write_checkpoint(folder / f"{name}.safetensors", "7", n_layer=1, n_embd=64, vocab_size=65536)
    server, read = serve("x=1✿suffix✿", models_dir=folder, model=f"{name}.safetensors"), []
    submit = server.manager.submit
    monkeypatch.setattr(
        server.manager, "submit", lambda asked, *more: read.append(asked.prompt_token_ids) or submit(asked, *more)
    )
    body = {"input_prefix": "def f(", "input_suffix": "):", "input_extra": [{"text": "# a", "filename": "a.py"}]}
    status, found = server.post("/infill", {**body, "prompt": "y, ", "n_predict": 40})
    assert status == 200, found
    asked = load_tokenizer(65536).encode("✿prefix✿✿suffix✿):✿middle✿\n\n--- snippet ---\n\n# adef f(y, ")
    assert tuple(read[0]) == tuple(asked) and found["tokens_evaluated"] == len(asked)
    assert (found["content"], found["stop_type"]) == ("x=1", "eos")
    pieces = server.events("/infill", {**body, "prompt": "y, ", "stream": True})
    assert "".join(piece["content"] for piece in pieces) == "x=1" and read[1] == read[0]


def test_a_model_that_cannot_fill_gaps_says_so_and_continues_only_from_a_prefix(server):
    status, found = server.post("/infill", {"input_prefix": "a", "input_suffix": "b"})
    assert (status, found["error"]["code"]) == (400, "unsupported_parameter")
    assert found["error"]["param"] == "input_suffix" and "G1c" in found["error"]["message"]
    assert server.post("/infill", {"input_prefix": "a", "n_predict": 2})[1]["content"] == "Bi"


def test_the_prompt_of_a_conversation_can_be_seen(server):
    asked = {"messages": [{"role": "user", "content": "Hello"}], "tools": [{"function": {"name": "look"}}]}
    assert server.post("/apply-template", {"messages": asked["messages"]})[1] == {"prompt": "User: Hello\n\nAssistant:"}
    assert "look" in server.post("/apply-template", asked)[1]["prompt"]


def test_props_and_slots(serve):
    server = serve(max_sequences=3)
    props = server.get("/props")[1]
    assert props["total_slots"] == 3 and props["model_alias"] == MODEL and str(models_dir()) not in json.dumps(props)
    assert props["default_generation_settings"]["n_ctx"] == server.settings.max_prompt_tokens
    assert props["is_sleeping"] is True and complete(server, n_predict=1)["stop"]
    assert server.get("/props")[1]["is_sleeping"] is False
    slots = server.get("/slots")[1]
    assert [slot["id"] for slot in slots] == [0, 1, 2] and not any(slot["is_processing"] for slot in slots)
    assert server.get("/slots?fail_on_no_slot=1")[0] == 200


def test_tokens_with_pieces_are_llama_cpps_for_its_field(server):
    found = server.post("/tokenize", {"content": "a🐦", "with_pieces": True})[1]["tokens"]
    assert found[0] == {"id": 98, "piece": "a"} and "".join(str(one["piece"]) for one in found[1:])
    ids = server.post("/tokenize", {"content": "a🐦"})[1]["tokens"]
    assert [one["id"] for one in found] == ids
    assert server.post("/tokenize", {"text": "a", "with_pieces": True})[1]["pieces"] == ["a"]


def test_an_answer_may_ignore_its_end(serve):
    """The script ends after "Yes."; then the fake model writes likely tokens, never token 0."""
    server = serve("Yes.")
    for path, body in (("/completion", {"prompt": "x"}), ("/v1/completions", {"prompt": "x"})):
        counted = server.post(path, {**body, "n_predict": 12, "ignore_eos": True})[1]
        found = counted.get("tokens_predicted") or counted["usage"]["completion_tokens"]
        assert found == 12
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    found = server.post("/v1/chat/completions", {**hello, "max_tokens": 12, "ignore_eos": True})[1]
    assert found["usage"]["completion_tokens"] == 12 and found["choices"][0]["finish_reason"] == "length"
    found = server.post("/v1/chat/completions", {**hello, "max_tokens": 40, "min_tokens": 9})[1]
    assert found["usage"]["completion_tokens"] >= 9


def test_until_then_no_stop_counts_and_after_it_every_one(serve):
    server = serve("Yes\n\nUser: no. Then END and END and more.")
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 30}

    def said(**more):
        return server.post("/v1/chat/completions", {**chat, **more})[1]["choices"][0]["message"]["content"]

    assert said() == "Yes"
    assert said(min_tokens=20, stop="END") == "Yes\n\nUser: no. Then "
    assert said(min_tokens=25, stop="END").startswith("Yes\n\nUser: no. Then END")
    assert said(ignore_eos=True, stop="END") == "Yes\n\nUser: no. Then "


@pytest.mark.parametrize("extra", [{}, {"response_format": {"type": "json_object"}}])
def test_a_thought_is_closed_where_its_budget_ends(serve, extra):
    server = serve(">\nI think and I think and I think of this and that.\n</think>\n{}")
    asked = {"messages": [{"role": "user", "content": "Hello"}], "reasoning_effort": "high", "max_tokens": 120, **extra}

    def thought(**more):
        choice = server.post("/v1/chat/completions", {**asked, **more})[1]["choices"][0]["message"]
        return choice.get("reasoning_content", ""), choice["content"]

    assert thought()[0] == "I think and I think and I think of this and that."
    reasoning, content = thought(thinking_budget_tokens=9)
    assert reasoning == "I think" and content, "the script knows of no end and goes on"
    assert thought(thinking_budget_tokens=0, reasoning_effort=None)[0] == ""
    assert thought(thinking_budget_tokens=500) == thought()


def test_anthropics_budget_is_one_too(serve):
    server = serve(">\n" + "think " * 300 + "\n</think>\nYes.")
    asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2000}
    found = server.post("/v1/messages", {**asked, "thinking": {"type": "enabled", "budget_tokens": 1024}})[1]["content"]
    assert found[0]["type"] == "thinking" and 900 < len(found[0]["thinking"]) < 1024


def test_a_form_that_is_complete_ends_all_the_same(serve):
    server = serve("true", strategy=fake_strategy("true"))
    asked = {"prompt": "x", "json_schema": {"type": "boolean"}, "ignore_eos": True, "n_predict": 50}
    assert json.loads(complete(server, **asked)["content"]) in (True, False)
