"""The quality loss of each number format: KL divergence, same best token and perplexity, on a trained model.

    python -m tests.acceptance.quantisation [MODEL] [--cases 24] [--only WORDS] [--llama]

Uses held-out cases of ``roost eval``, which are not in the bundled model's training data, and measures only the
answers, because a model trained on dialogues does not learn the prompts. An answer is the expected call, for which the
perplexity is computed, otherwise the text that ``native f32`` writes. The divergence is that of each format's
distribution from ``native f32``'s over the usable tokens, the mean of all positions.

``--llama`` adds llama.cpp's formats: its own quantiser (package ``xllamacpp``) packs head and matrices, the package
``gguf`` unpacks them, and the result runs in ``native f32``. So it has no error from 8-bit activations, and small
matrices and the embedding are as in the file, which favours it. Rows of Q4_K, Q5_K and Q6_K are multiples of 256:
narrower ones are joined. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.acceptance.served_roost import ROOT
from tests.weights.make_checkpoints import write_tensors
from webapp.backends.native.backend import NativeBackend
from webapp.backends.native.model import MATRICES, NativeModel
from webapp.chat.formats import default_template
from webapp.chat.messages import Message, Role, ToolCall
from webapp.chat.prompts import render
from webapp.chat.tool_dialects import fenced_calls, json_offer
from webapp.cli.evaluate import PromptCase, ToolCase, evenly, held_out
from webapp.engine.registry import resolve_strategy
from webapp.tokenizer import Tokenizer, load_tokenizer
from webapp.weights.checkpoint import open_checkpoint
from webapp.weights.inspection import inspect, used_token_bitmap

BUNDLED = ROOT / "models" / "roost-starter-v7.safetensors"
NATIVE = (
    *("bf16", "f16", "q8", "q6", "q6 scales=fitted", "q4", "q4 scales=fitted"),
    *("q4 head=q6", "q4 head=q6 scales=fitted"),
)
LLAMA = {"Q8_0": 8, "Q6_K": 14, "Q5_1": 7, "Q5_K": 13, "Q4_1": 3, "Q4_K": 12, "Q4_0": 2}
"""The numbers of ggml_type."""
ANSWER_TOKENS = 60
NOTHING, LAST, ALL = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """``is_given``: the expected answer, not one that the model wrote."""

    prompt: list[int]
    ids: list[int]
    is_given: bool


@dataclass
class Cost:
    divergence: float = 0.0
    same_best: int = 0
    positions: int = 0
    surprise: float = 0.0
    given_positions: int = 0

    def figures(self) -> dict[str, float]:
        return {
            "kl": self.divergence / self.positions,
            "same_best": self.same_best / self.positions,
            "perplexity": math.exp(self.surprise / max(1, self.given_positions)),
        }


class Measurement:
    def __init__(self, path: Path, cases: int) -> None:
        inspection = inspect(path)
        assert inspection.config is not None
        self.path, self.config = path, inspection.config
        self.tokenizer: Tokenizer = load_tokenizer(self.config.vocab_size, path)
        bitmap = used_token_bitmap(inspection)
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little") if bitmap else None
        self.usable = np.arange(self.config.vocab_size) if bits is None else np.flatnonzero(bits)
        self.place = np.full(self.config.vocab_size, -1)
        self.place[self.usable] = np.arange(len(self.usable))
        exact = self.load(path, "native f32")
        self.answers = [self._answer(exact.model, case) for case in self._cases(cases)]
        self.expected = [self._logprobs(exact.model, answer) for answer in self.answers]
        exact.close()

    def load(self, path: Path, strategy: str) -> NativeBackend:
        cls, options = resolve_strategy(strategy, threads=1)
        made = cls.load(str(path), self.config, options, lambda progress: None)
        assert isinstance(made, NativeBackend)
        return made

    def cost(self, path: Path, strategy: str) -> dict[str, float]:
        backend, cost = self.load(path, strategy), Cost()
        for answer, p in zip(self.answers, self.expected, strict=True):
            q = self._logprobs(backend.model, answer)
            cost.divergence += float((np.exp(p) * (p - q)).sum())
            cost.same_best += int((p.argmax(-1) == q.argmax(-1)).sum())
            cost.positions += len(q)
            if answer.is_given:
                places = self.place[answer.ids]
                cost.surprise -= float(q[np.arange(len(places)), places][places >= 0].sum())
                cost.given_positions += int((places >= 0).sum())
        found = {**cost.figures(), "read_mb": backend.model.weight_bytes / 1e6}
        backend.close()
        return found

    def _cases(self, count: int) -> list[ToolCase | PromptCase]:
        cases = held_out()
        prompts = [case for language in ("en", "zh") for case in cases.prompts[language][: count // 2]]
        return [*evenly(cases.tools, count), *evenly(cases.natural, count // 2), *prompts]

    def _answer(self, model: NativeModel, case: ToolCase | PromptCase) -> Answer:
        template = default_template(self.config.architecture, self.config.vocab_size)
        messages = [Message(Role(row["role"]), row["content"]) for row in case.messages]
        offer = json_offer(case.tools) if isinstance(case, ToolCase) else ""
        prompt = self.tokenizer.encode(render(template, messages, offer).text)
        if isinstance(case, ToolCase) and case.calls:
            calls = [ToolCall("", call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in case.calls]
            return Answer(prompt, self.tokenizer.encode(" " + fenced_calls(calls)), True)
        written: list[int] = []
        slot, fed = model.new_slot(), prompt
        while len(written) < ANSWER_TOKENS:
            best = int(self.usable[model.step([slot], [fed], [LAST])[0, self.usable].argmax()])
            written.append(best)
            fed = [best]
            if best == 0 or self.tokenizer.decode(fed).endswith("\n\n"):
                break
        model.free_slot(slot)
        return Answer(prompt, written, False)

    def _logprobs(self, model: NativeModel, answer: Answer) -> np.ndarray:
        """Of the usable tokens, before each token of the answer."""
        slot = model.new_slot()
        model.step([slot], [answer.prompt[:-1]], [NOTHING])
        fed = [answer.prompt[-1], *answer.ids[:-1]]
        logits = model.step([slot], [fed], [ALL])[:, self.usable].astype(np.float64)
        model.free_slot(slot)
        logits -= logits.max(-1, keepdims=True)
        found: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return found


class LlamaFormats:
    """Quantises with llama.cpp and back."""

    def __init__(self) -> None:
        import gguf
        import xllamacpp

        self._gguf = gguf
        folder = Path(xllamacpp.__file__).parent
        self._library = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
        sizes = (ctypes.c_int, ctypes.c_int64)
        self._library.ggml_row_size.restype, self._library.ggml_row_size.argtypes = ctypes.c_size_t, sizes
        pack = self._library.ggml_quantize_chunk
        pack.restype = ctypes.c_size_t
        pack.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def there_and_back(self, values: np.ndarray, name: str) -> np.ndarray:
        number = LLAMA[name]
        unit = 256 if name.endswith("_K") else 32
        inputs = values.shape[1] if values.shape[1] % unit == 0 else math.lcm(values.shape[1], unit)
        if values.size % inputs:
            raise ValueError(f"{name}: {values.shape} is no multiple of {unit}")
        rows = np.ascontiguousarray(values.reshape(-1, inputs), np.float32)
        packed = np.empty((len(rows), self._library.ggml_row_size(number, inputs)), np.uint8)
        self._library.ggml_quantize_chunk(number, rows.ctypes.data, packed.ctypes.data, 0, len(rows), inputs, None)
        found = self._gguf.quants.dequantize(packed, self._gguf.GGMLQuantizationType(number))
        return np.asarray(found, np.float32).reshape(values.shape)

    def write(self, model: Path, to: Path, name: str) -> None:
        with open_checkpoint(model) as source:
            arrays = {each: np.asarray(source.array(each), np.float32) for each in source.names()}
        for each in arrays:
            if each == "head.weight" or each.split(".", 2)[-1] in MATRICES:
                arrays[each] = self.there_and_back(arrays[each], name)
        write_tensors(to, arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=BUNDLED)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--only", nargs="+", default=[], help="formats, such as q4 or Q4_K")
    parser.add_argument("--llama", action="store_true")
    args = parser.parse_args()
    measured = Measurement(args.model, args.cases)
    rows: dict[str, dict[str, float]] = {}
    for name in _chosen(NATIVE, args.only):
        rows[name] = _print(name, measured.cost(args.model, f"native {name}"))
    if args.llama:
        formats = LlamaFormats()
        with tempfile.TemporaryDirectory() as folder:
            for name in _chosen(tuple(LLAMA), args.only):
                formats.write(args.model, path := Path(folder) / "model.safetensors", name)
                rows[name] = _print(name, measured.cost(path, "native f32"))
    positions = sum(len(answer.ids) for answer in measured.answers)
    print(json.dumps({"model": args.model.name, "positions": positions, "formats": rows}))


def _chosen(names: Sequence[str], only: Sequence[str]) -> list[str]:
    return [name for name in names if not only or name in only]


def _print(name: str, found: dict[str, float]) -> dict[str, float]:
    shown = f"KL {found['kl']:.2e}  same best {found['same_best']:.4f}  perplexity {found['perplexity']:.4f}"
    print(f"{name:<26}{shown}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
