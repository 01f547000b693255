"""Reinforcement learning: the asynchronous loop that plays episodes and trains on them."""
