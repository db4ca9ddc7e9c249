"""Where tools come from and how one is tried: servers that bring them (MCP), and a call a person makes by hand."""
