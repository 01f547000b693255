"""What the engine's process is told through its environment: vLLM gives it none of our config."""

HOST_EMBEDDING = "TRUSTEE_HOST_EMBEDDING"
"""`1` keeps the embedding table in host memory."""
