"""What is done with tools as a whole: servers that bring them (MCP), the bench of how well they are called."""
