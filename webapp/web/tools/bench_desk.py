"""What the pages of the tool bench work with beside the desk of the Tools pages. One a request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flask import current_app

from webapp.errors import RoostError
from webapp.services.bench.order import GREEDY, MAX_TOKENS, MODES, BenchOrder
from webapp.services.bench.tool_bench import ToolBench
from webapp.services.chat.tool_loop import is_known_to_call
from webapp.services.presets.presets import Presets
from webapp.tools.bench_case import BenchCase
from webapp.tools.builtin import BUILTINS
from webapp.tools.definition import ToolDefinition
from webapp.web.tools.desk import Desk, the_desk

AS_CHATS = "chat"


@dataclass(frozen=True)
class BenchDesk:
    desk: Desk
    bench: ToolBench
    presets: Presets

    def definitions(self) -> tuple[ToolDefinition, ...]:
        """The tools of the Tools page; before there are any, those that come with Roost."""
        kept = tuple(stored.definition for stored in self.desk.tools.list())
        return kept or tuple(row.definition for row in BUILTINS.values())

    def are_shipped(self) -> bool:
        return not self.desk.tools.list()

    def cases(self) -> tuple[BenchCase, ...]:
        return tuple(stored.case for stored in self.bench.store.cases())

    def order(self, names: frozenset[str], mode: str, dialect: str, sampling: str) -> BenchOrder:
        functions = tuple(row.function for row in self.definitions() if row.name in names)
        modes = (mode,) if mode in MODES else MODES
        params = GREEDY
        if sampling == AS_CHATS:
            parameters = self.desk.manager.model_info().parameters
            params = self.presets.sampling(self.presets.active(), {"max_tokens": MAX_TOKENS}, parameters)
        return BenchOrder(functions, self.cases(), modes, dialect, params)

    def knows_to_call(self) -> bool:
        """Whether the chosen model is of a family trained on function calling; True where none is chosen."""
        try:
            return is_known_to_call(Path(self.desk.manager.model_info().path).name)
        except RoostError:
            return True

    def reason(self, error: RoostError) -> str:
        """What is wrong, alone, in the reader's language."""
        key = error.params.get("reason_key")
        if key is None:
            return self.desk.reason(error) if "reason" in error.params else self.desk.said(error)
        return str(self.desk.t(str(key), **{k: v for k, v in error.params.items() if k not in ("reason_key", "key")}))


def the_bench_desk() -> BenchDesk:
    parts = current_app.extensions
    return BenchDesk(the_desk(), parts["tool_bench"], parts["presets"])
