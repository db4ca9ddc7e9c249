"""What can go wrong with a Model Context Protocol server. ``name`` is what a person called it."""

from __future__ import annotations

from webapp.errors.requests import ToolError


class McpError(ToolError):
    code = "mcp_error"
    status = 502
    message_text = "The MCP server {name} gave no answer: {reason}"
    hint_text = "Look at it on the page Tools, MCP servers, and connect it again."


class McpNotInstalled(McpError):
    code = "mcp_not_installed"
    status = 501
    message_text = "MCP servers need the package `mcp`, which is not installed."
    hint_text = 'Install it with `pip install "rwkv-roost[mcp]"`, then start Roost again.'


class McpCommandMissing(McpError):
    code = "mcp_command_missing"
    message_text = "{name} cannot be started: {command}: {reason}."
    hint_text = "Give the command's full path, or install the program it names."


class McpServerEnded(McpError):
    """``said`` is the last line the program wrote to its standard error."""

    code = "mcp_server_ended"
    message_text = "{name} has ended. Its last words: {said}"
    hint_text = "Run its command in a terminal to see the whole of it, then connect again."


class McpTimedOut(McpError):
    code = "mcp_timed_out"
    status = 504
    message_text = "{name} took longer than {seconds} s."
    hint_text = "Raise its time limit, or find out in a terminal what it waits for."


class McpNotSpoken(McpError):
    code = "mcp_not_spoken"
    message_text = "{name} does not speak MCP as it should: {reason}"
    hint_text = "Check that the command or address is that of an MCP server, and that it is up to date."


class McpUnreachable(McpError):
    code = "mcp_unreachable"
    message_text = "Nothing answers at the address of {name}: {reason}"
    hint_text = "Check that the server runs, and its address with its port and path (often /mcp)."


class McpRefused(McpError):
    """``found`` is the HTTP status."""

    code = "mcp_refused"
    message_text = "{name} answered with the HTTP status {found}."
    hint_text = "For 401 and 403 give its key as a header, such as `Authorization: Bearer …`; for 404 check the path."


class McpServerInvalid(McpError):
    """``field`` is a field of the form."""

    code = "mcp_server_invalid"
    status = 422
    message_text = "{field} of the MCP server cannot be used: {reason}."
    hint_text = "Correct that field; nothing was changed."


class McpServerNotFound(McpError):
    code = "mcp_server_not_found"
    status = 404
    message_text = "This MCP server is not there (any more)."
    hint_text = "The page Tools, MCP servers, lists those there are."


class McpServerOff(McpError):
    code = "mcp_server_off"
    status = 409
    message_text = "The MCP server {name} is switched off."
    hint_text = "Switch it on on the page Tools, MCP servers."


class McpProgramsOff(McpError):
    code = "mcp_programs_off"
    status = 403
    message_text = "MCP servers that are programs of this machine are turned off here."
    hint_text = "Turn the setting mcp_stdio on to allow them."
