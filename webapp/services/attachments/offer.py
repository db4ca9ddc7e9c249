"""The tool that searches a chat's files, offered where a chat has files that can only be searched."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.storage.tools import StoredTool, ToolStore
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import NAME
from webapp.tools.definition import Behaviour

AUTOMATIC_ID = "builtin.search_attachments"


def with_search(tools: Sequence[StoredTool], store: ToolStore) -> list[StoredTool]:
    """With the search among them: a person's own copy of it, whose words and approval they chose, else the built-in.
    A tool of theirs that has its name for something else stands in its place."""
    if any(_searches(tool) or tool.definition.name == NAME for tool in tools):
        return list(tools)
    names = {tool.definition.name for tool in tools}
    own = [tool for tool in store.list() if _searches(tool) and tool.definition.name not in names]
    return [*tools, own[0] if own else StoredTool(AUTOMATIC_ID, BUILTINS[NAME].definition, 0.0)]


def _searches(tool: StoredTool) -> bool:
    return tool.definition.behaviour is Behaviour.BUILTIN and tool.definition.builtin == NAME
