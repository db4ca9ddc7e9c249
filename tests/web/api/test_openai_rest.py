"""Text completions, embeddings, models and tokens, with the official client."""

from __future__ import annotations

import base64
import math
import struct

import pytest

from tests.lazy_import import Lazily
from tests.web.api.api_server import ANSWER, MODEL, ApiServer
from tests.weights.make_checkpoints import write_checkpoint
from webapp.chat.formats import fill_prompt
from webapp.tokenizer import load_tokenizer

openai = Lazily("openai")


def complete(client, prompt="Once", **options):
    return client.completions.create(model="any", prompt=prompt, **options)


def test_a_text_continues_as_it_is(serve):
    found = complete(serve("  upon a time\n\n ").openai())
    assert found.id.startswith("cmpl-") and found.object == "text_completion" and found.model == MODEL
    [choice] = found.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "  upon a time\n\n ", "stop")


def test_the_stream_is_the_same_text(client):
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == ANSWER
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(ANSWER.encode()) + 1


@pytest.mark.parametrize(
    "prompt, count",
    [
        ("Once", 1),
        (["Once", "Twice"], 2),
        ([101, 102, 103], 1),
        ([[101, 102], [103]], 2),
        ("", 1),
        ([""], 1),
        (None, 1),
    ],
)
def test_every_form_of_prompt(client, prompt, count):
    found = complete(client, prompt, max_tokens=3)
    assert [(c.index, c.text, c.finish_reason) for c in found.choices] == [(i, "Bir", "length") for i in range(count)]


def test_several_answers_to_several_prompts_are_numbered_prompt_by_prompt(client):
    found = complete(client, ["Once", "Twice"], n=2, echo=True, max_tokens=2)
    assert [c.text for c in found.choices] == ["OnceBi", "OnceBi", "TwiceBi", "TwiceBi"]
    chunks = complete(client, ["Once", "Twice"], n=2, echo=True, max_tokens=2, stream=True)
    texts = ["", "", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["OnceBi", "OnceBi", "TwiceBi", "TwiceBi"]


def test_only_the_prompt_can_be_had_back(client):
    found = complete(client, "Once", echo=True, max_tokens=0)
    assert (found.choices[0].text, found.usage.completion_tokens) == ("Once", 0)


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 0}])
def test_more_prompts_than_may_be_answered_are_not_read_for_their_echo(serve, changes):
    server = serve(api_max_choices=4)
    asked = {"prompt": ["Once upon"] * 5, "echo": True, "logprobs": 1, **changes}
    status, found = server.post("/v1/completions", asked)
    assert (status, found["error"]["param"]) == (400, "n")
    assert server.manager.counters() == {}, "no model was loaded for it"
    assert server.post("/v1/completions", {**asked, "prompt": ["Once upon"] * 4})[0] == 200


def test_logprobs_have_offsets_in_the_text(client):
    found = complete(client, logprobs=2, max_tokens=5).choices[0]
    assert found.logprobs.tokens == list("Birds") and found.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert all(len(row) == 2 for row in found.logprobs.top_logprobs)


def test_the_prompts_own_logprobs_are_sent_with_its_echo(client):
    found = complete(client, "Once upon", logprobs=1, echo=True, max_tokens=2).choices[0]
    ids = load_tokenizer(65536).encode("Once upon")
    assert len(found.logprobs.tokens) == len(ids) + 2 and "".join(found.logprobs.tokens) == "Once uponBi" == found.text
    assert found.logprobs.token_logprobs[0] is None and found.logprobs.token_logprobs[1] < 0
    assert [found.text[o:] for o in found.logprobs.text_offset[-2:]] == ["Bi", "i"]
    chunks = list(complete(client, "Once upon", logprobs=1, echo=True, max_tokens=2, stream=True))
    assert [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.tokens] == found.logprobs.tokens


@pytest.mark.parametrize(
    "options, param",
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
    ],
)
def test_what_cannot_be_is_refused(client, options, param):
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, **options)
    assert error.value.param == param


BEFORE, BEHIND = "def f(x):\n    return ", "\n\nprint(f(1))"


@pytest.fixture
def fill(serve, tmp_path):
    """fill(model's name, its output) -> server; the file is the tiny one."""

    def start(name, writes):
        write_checkpoint(tmp_path / name, "7", n_layer=1, n_embd=64, vocab_size=65536)
        return serve(writes, models_dir=tmp_path, model=name)

    return start


def test_a_gap_is_filled_from_both_sides_and_ends_at_the_flower(fill):
    server = fill("rwkv7-g1h-0.1b-20260710-ctx10240.safetensors", "x + 1✿\nUser✿And then?")
    client, asked = server.openai(), len(load_tokenizer(65536).encode(fill_prompt(BEFORE, BEHIND)))
    for stream in (False, True):
        found = complete(client, BEFORE, suffix=BEHIND, stream=stream)
        choices = [chunk.choices[0] for chunk in found] if stream else found.choices
        assert ("".join(choice.text for choice in choices), choices[-1].finish_reason) == ("x + 1", "stop")
        assert stream or found.usage.prompt_tokens == asked
    status, told = server.post(
        "/api/generate", {"model": "any", "prompt": BEFORE, "suffix": BEHIND, "stream": False, "raw": True}
    )
    assert (status, told["response"], told["prompt_eval_count"]) == (200, "x + 1", asked)
    assert complete(client, BEFORE, suffix="").usage.prompt_tokens < asked
    both = complete(client, [BEFORE, "a"], suffix=BEHIND)
    assert [choice.text for choice in both.choices] == ["x + 1", "x + 1"]
    with pytest.raises(openai.BadRequestError) as error:  # ids cannot surround a gap
        complete(client, [33, 44], suffix=BEHIND)
    assert error.value.param == "suffix"


def test_a_gap_is_refused_by_a_model_that_was_not_trained_to_fill_one(fill):
    with pytest.raises(openai.BadRequestError) as error:
        complete(fill("rwkv7-g1b-0.1b-20250822-ctx4096.safetensors", "x").openai(), BEFORE, suffix=BEHIND)
    assert (error.value.code, error.value.param) == ("unsupported_parameter", "suffix")


def test_a_token_id_beyond_the_vocabulary_is_refused(client):
    for options in ({}, {"echo": True}, {"echo": True, "max_tokens": 0}):
        with pytest.raises(openai.BadRequestError) as error:
            complete(client, [33, 70000], **options)
        assert error.value.code == "token_out_of_range"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A tiny random model on a real backend, because the fake one has no activations."""
    server = ApiServer(tmp_path_factory.mktemp("real"), "cpu fp32")
    yield server.openai()
    server.stop()


def test_embeddings_have_one_size_and_length(real):
    texts = ["a bird", "a much longer text about birds that sit on wires and look at the river", "鸟"]
    found = real.embeddings.create(model="text-embedding-3-small", input=texts, encoding_format="float")
    assert [row.index for row in found.data] == [0, 1, 2] and found.model == MODEL
    assert {len(row.embedding) for row in found.data} == {64}
    assert all(math.isclose(sum(x * x for x in row.embedding), 1, rel_tol=1e-6) for row in found.data)
    assert found.data[0].embedding != found.data[1].embedding
    assert found.usage.prompt_tokens == found.usage.total_tokens > 3


def test_base64_is_the_same_numbers(real):
    """The client requests base64 by default and decodes it."""
    numbers = real.embeddings.create(model="any", input="a bird", encoding_format="float").data[0].embedding
    assert real.embeddings.create(model="any", input="a bird").data[0].embedding == pytest.approx(numbers, rel=1e-6)
    raw = real.post("/embeddings", body={"input": "a bird", "encoding_format": "base64"}, cast_to=dict)
    raw = base64.b64decode(raw["data"][0]["embedding"])
    assert struct.unpack("<64f", raw) == pytest.approx(numbers, rel=1e-6)


def test_token_ids_embed_as_their_text(real):
    ids = load_tokenizer(65536).encode("a bird")
    by_text = real.embeddings.create(model="any", input="a bird").data[0].embedding
    assert real.embeddings.create(model="any", input=ids).data[0].embedding == by_text
    assert real.embeddings.create(model="any", input=[ids, ids]).data[1].embedding == by_text


def test_many_texts_have_the_same_vectors_as_separately(server):
    texts = [f"text number {number}" * (number % 4) for number in range(1, 70)]
    texts = [text for text in texts if text]
    together = [row["embedding"] for row in server.post("/v1/embeddings", {"input": texts})[1]["data"]]
    for place in (0, 17, len(texts) - 1):
        alone = server.post("/v1/embeddings", {"input": texts[place]})[1]["data"][0]["embedding"]
        assert together[place] == pytest.approx(alone, abs=1e-5)


def test_ollamas_embeddings_are_the_same_vectors(real):
    ollama = pytest.importorskip("ollama", reason="the ollama client is not installed")
    client = ollama.Client(host=str(real.base_url).removesuffix("/v1/"))
    numbers = [row.embedding for row in real.embeddings.create(model="any", input=["a bird", "鸟"]).data]
    found = client.embed(model="any", input=["a bird", "鸟"])
    assert [list(row) for row in found.embeddings] == [pytest.approx(row, rel=1e-6) for row in numbers]
    assert found.prompt_eval_count == 3 and found.model == MODEL
    assert len(client.embed(model="any", input="a bird").embeddings) == 1
    assert client.embed(model="any", input="").embeddings == []
    with pytest.raises(ollama.ResponseError):
        client.embed(model="any", input="a", dimensions=63)


@pytest.mark.parametrize("options", [{"input": ""}, {"input": []}, {"dimensions": 63}, {"encoding_format": "int8"}])
def test_embeddings_that_cannot_be_are_refused(client, options):
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(**{"model": "any", "input": "a", **options})


def test_models_are_what_can_be_asked(client):
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by, model.architecture) == (MODEL, "model", "roost", "rwkv-7")
    assert model.created > 1_600_000_000
    assert client.models.retrieve("roost-starter-v7").id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_lm_studios_addresses_are_a_base_url_too(server):
    """Zed asks below /api/v0 only; an error there has OpenAI's form."""
    client = openai.OpenAI(base_url=server.url + "/api/v0", api_key="any", max_retries=0)
    [model] = client.models.list().data
    assert (model.id, model.type, model.arch, model.compatibility_type) == (MODEL, "llm", "rwkv-7", "gguf")
    assert model.state in ("loaded", "not-loaded") and model.max_context_length > 1000
    asked = client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "Hi"}])
    assert asked.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as refused:
        complete(client, temperature=99)
    assert refused.value.param == "temperature"


def test_a_text_goes_to_tokens_and_back(server):
    text = "Birds 🐦 sit.\n\n鸟儿"
    ids = load_tokenizer(65536).encode(text)
    for name in ("prompt", "content", "text"):
        assert server.post("/v1/tokenize", {name: text})[1]["tokens"] == ids
    found = server.post("/tokenize", {"text": text, "with_pieces": True})[1]
    assert (found["count"], found["model"], found["pieces"][0]) == (len(ids), MODEL, "Bir")
    assert "".join(found["pieces"][:2]) == "Birds" and "".join(found["pieces"][-2:]) == "鸟儿"
    found = server.post("/detokenize", {"tokens": ids})[1]
    assert found["text"] == found["prompt"] == found["content"] == text
    assert server.post("/v1/tokenize", {"text": "a", "prompt": "b"})[0] == 400
    assert server.post("/v1/detokenize", {"tokens": [70000]})[1]["error"]["code"] == "token_out_of_range"
