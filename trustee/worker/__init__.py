"""What runs inside the engine's process: shared weights, and the trainer over them."""


def register() -> None:
    """Make our linear methods known to vLLM; it calls this as a plug-in in each of its processes."""
    from trustee.worker import sharing

    if sharing.current_platform.is_cpu():
        sharing.mend_cpu_lora()
