"""What a server answered to a call, in words a text model can read."""

from __future__ import annotations

import json
from typing import Any

from webapp.tools.runner import ToolResult, bounded, error_result


def tool_result(result: Any) -> ToolResult:
    """From the SDK's CallToolResult; ``isError`` becomes an error result."""
    text = result_text(result)
    return error_result(text or "the tool failed without a word") if result.is_error else ToolResult(bounded(text))


def result_text(result: Any) -> str:
    """Texts one below the other, then the structured content unless the text says the same already."""
    text = "\n".join(filter(None, (block_text(block) for block in result.content)))
    structured = result.structured_content
    if structured is None or says(text, structured):
        return text
    return "\n".join(filter(None, (text, json.dumps(structured, ensure_ascii=False))))


def says(text: str, structured: Any) -> bool:
    """Servers repeat their structured content as text, often without the ``result`` or ``content`` around one value."""
    wanted = [structured]
    if isinstance(structured, dict) and len(structured) == 1:
        wanted += structured.values()
    return text in wanted or _parsed(text) in wanted


def block_text(block: Any) -> str:
    """Text as it is; what a text model cannot take is said to be there."""
    if block.type == "text":
        return str(block.text)
    if block.type in ("image", "audio"):
        return f"[{block.type}: {block.mime_type}, {_bytes(block.data)}]"
    if block.type == "resource_link":
        return f"[resource: {block.name}, {block.uri}]"
    if block.type == "resource":
        resource = block.resource
        if getattr(resource, "text", None) is not None:
            return f"[resource: {resource.uri}]\n{resource.text}"
        return f"[resource: {resource.uri}, {_bytes(resource.blob)}]"
    return f"[{block.type}]"


def _bytes(base64_text: str) -> str:
    return f"{len(base64_text) * 3 // 4:,} bytes"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
