"""Helpers to drive an engine with the fake backend."""

from collections import defaultdict

from webapp.backends.fake import FakeBackend, FakeOptions, fake_config
from webapp.engine.backend import Backend, Row
from webapp.engine.llm_engine import LLMEngine
from webapp.engine.outputs import GenerationRequest, PrefillProgress, QueueReport, TokenOutput
from webapp.engine.registry import resolve_strategy
from webapp.engine.sampling_params import SamplingParams
from webapp.weights.inspection import inspect

GREEDY = {"temperature": 0.0, "frequency_penalty": 0.0}
SOME_CACHE = 1 << 20


def engine(options="", *, config=None, **kwargs):
    backend = FakeBackend(config or fake_config(), FakeOptions.parse(f"fake {options}"))
    return LLMEngine(backend, **{"state_cache_bytes": SOME_CACHE, **kwargs})


def forward(backend: Backend, slots, token_ids):
    """``(rows, vocab_size)``: logits after the last token of each row; the array stays valid."""
    logits = backend.step([Row(slot, ids) for slot, ids in zip(slots, token_ids, strict=True)])
    return logits.to_numpy(range(len(slots))).copy()


def load_backend(path, strategy="cpu fp32", progress=lambda progress: None, config=None):
    """The strategy's backend."""
    backend, options = resolve_strategy(strategy)
    return backend.load(str(path), config or inspect(path).config, options, progress)


def request(
    request_id="a", prompt=(1, 2, 3), *, client="", boundaries=(), initial_state=None, constraint=None, **params
):
    sampling = SamplingParams(**{"max_tokens": 8, "seed": 1, **params})  # no test is random
    return GenerationRequest(request_id, tuple(prompt), sampling, tuple(boundaries), client, initial_state, constraint)


class Answer:
    """All outputs of one request, combined."""

    def __init__(self):
        self.token_ids = []
        self.logprobs = []
        self.progress = []
        self.finish_reason = None
        self.stats = None
        self.error = None
        self.steps = []
        """The step of each token."""

    def add(self, event, step):
        assert self.finish_reason is None, "an output after the last one"
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs
        self.steps += [step] * len(event.token_ids)
        self.finish_reason, self.stats, self.error = event.finish_reason, event.stats, event.error


def run(engine, *requests, steps=10_000):
    """Adds the requests and steps until none is left (or this many steps); request id -> Answer."""
    for each in requests:
        engine.add_request(each)
    answers, reports = defaultdict(Answer), []
    for step in range(steps):
        if not engine.has_work():
            break
        for event in engine.step():
            if isinstance(event, QueueReport):
                reports.append(event)
            elif isinstance(event, PrefillProgress):
                answers[event.request_id].progress.append((event.done, event.total))
            else:
                assert isinstance(event, TokenOutput)
                answers[event.request_id].add(event, step)
    answers["reports"] = reports
    return answers
