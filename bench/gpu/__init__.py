"""Checks that need a card, by family; `gpu_check.py` runs them."""
