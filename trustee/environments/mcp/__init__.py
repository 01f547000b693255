"""Episodes against a real MCP server: one session an episode, in a folder of its own."""
