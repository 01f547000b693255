"""What runs inside the engine's process: shared weights, and the trainer over them."""

import ctypes
import faulthandler
import multiprocessing
import signal
import sys

DEATH_SIGNAL = 1
"""prctl's PR_SET_PDEATHSIG."""


def register() -> None:
    """Make our linear methods known to vLLM, which calls this in each of its processes."""
    # Importing it registers our linear methods and our loader.
    from trustee.trainer import cpu_lora, cpu_norm, vllm_layers  # noqa: F401

    if multiprocessing.parent_process() is not None:
        follow_parent()
    cpu_lora.fix_cpu_lora()
    cpu_norm.fix_cpu_norm()


def follow_parent() -> None:
    """Die when the parent dies, however it dies, and leave the terminal's interrupt to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # For the watchdog, which asks where this process hangs.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
