"""The run folder on disk: episodes, checkpoints, adapters, and reading them."""
