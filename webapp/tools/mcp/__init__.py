"""The client of the Model Context Protocol: MCP servers, added by a user, offer their tools to the model.

The official SDK (`mcp`, the extra with that name) implements the protocol; it is imported at the first connection. One
thread with one asyncio loop owns all connections; all other code uses :class:`webapp.tools.mcp.client.McpClient`,
without asyncio. This package does not depend on the database or on pages.
"""
