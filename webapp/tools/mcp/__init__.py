"""The client of the Model Context Protocol: MCP servers, named by a person, offer their tools to the model.

The official SDK (`mcp`, the extra with that name) implements the protocol; it is imported at the first connection. One
thread with one asyncio loop owns all connections; all other code uses :class:`webapp.tools.mcp.client.McpClient`,
without asyncio. Nothing here depends on the database or on pages.
"""
