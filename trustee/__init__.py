"""Train tool-calling agents at home."""

__version__ = "0.1.0"
