"""The pages of tools, of MCP servers, and of the tool bench."""
