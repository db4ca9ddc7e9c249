"""The pages of MCP servers: which there are, how they are reached, how they are, and what of their tools is offered."""
