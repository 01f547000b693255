"""FTRL: executable tools in the sandbox, and a reward that code verifies."""
