"""Engines: the real one, and one that says what a script says."""
