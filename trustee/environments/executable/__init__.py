"""FTRL: tools that really run in the sandbox, and a reward that code verifies."""
