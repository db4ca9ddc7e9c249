"""The client of the Model Context Protocol: servers a person names offer their tools to the model.

The official SDK (`mcp`, the extra of that name) speaks the protocol; it is imported at the first connection. One
thread with one asyncio loop owns all connections, and :class:`webapp.tools.mcp.client.McpClient` is how all
other code uses it, without asyncio. Nothing here knows of the database or of pages.
"""
