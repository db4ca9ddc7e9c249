"""``python -m tests.backends.parity_table``: largest absolute differences to the numpy reference, as Markdown."""

from __future__ import annotations

import tempfile
from dataclasses import astuple, fields
from pathlib import Path

from tests.backends.parity import ARCHITECTURES, STRATEGIES, Differences, entries, make_pair, measure


def main() -> None:
    columns = [field.name for field in fields(Differences)]
    print(f"| backend | strategy | architecture | {' | '.join(columns)} |")
    print("|---" * (3 + len(columns)) + "|")
    for entry in entries():
        for architecture in ARCHITECTURES:
            strategy = STRATEGIES[entry.name]
            with tempfile.TemporaryDirectory() as folder:
                backend, reference = make_pair(entry, Path(folder), architecture, strategy)
                figures = [f"{value:.1e}" for value in astuple(measure(backend, reference))]
                backend.close()
            print(f"| {entry.name} | `{strategy}` | RWKV-{architecture} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
