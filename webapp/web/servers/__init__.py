"""The pages of MCP servers: the list, connections, status, and which of their tools are offered."""
