"""Largest absolute differences to the numpy reference, as Markdown.

``python -m tests.backends.parity_table``: every backend in float32. ``… rwkv.cpp``, or another first word of a strategy
whose option ``format`` names a type: each version in each type, logits alone.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import astuple, fields
from pathlib import Path

from tests.backends.parity import ARCHITECTURES, STRATEGIES, Differences, entries, make_pair, measure
from webapp.engine.registry import BackendEntry, resolve_strategy

WIDTH = 256
"""For models with quantised types: K types need rows that are multiples of 256."""


def main() -> None:
    if len(sys.argv) > 1:
        table_of_types(sys.argv[1])
        return
    columns = [field.name for field in fields(Differences)]
    print(f"| backend | strategy | architecture | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    for entry in entries():
        for architecture in ARCHITECTURES:
            strategy = STRATEGIES[entry.name]
            figures = [f"{value:.1e}" for value in astuple(differences(entry, architecture, strategy))]
            print(f"| {entry.name} | `{strategy}` | RWKV-{architecture} | {' | '.join(figures)} |")


def table_of_types(word: str) -> None:
    backend, _ = resolve_strategy(word)
    entry = next(entry for entry in entries() if entry.load_class() is backend)
    option = next(option for option in backend.OPTIONS if option.name == "format")
    types = [name for name in option.choices if name != option.default]
    print(f"| version | {' | '.join(types)} |")
    print("|---" * (1 + len(types)) + "|")
    for architecture in ARCHITECTURES:
        figures = []
        for name in types:
            found = differences(entry, architecture, f"{word} {name} threads=1", n_embd=WIDTH)
            figures.append(f"{max(found.chunks, found.single_tokens, found.continued):.1e}")
        print(f"| {architecture} | {' | '.join(figures)} |")


def differences(entry: BackendEntry, architecture: str, strategy: str, **options: object) -> Differences:
    with tempfile.TemporaryDirectory() as folder:
        backend, reference = make_pair(entry, Path(folder), architecture, strategy, **options)
        found = measure(backend, reference)
        backend.close()
    return found


if __name__ == "__main__":
    main()
