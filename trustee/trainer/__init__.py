"""What runs inside the engine's process: shared weights, and the trainer over them."""

import faulthandler
import multiprocessing
import os
import signal
import threading

from trustee.trainer.die_with_parent import ask_for_death

SMOLLM3, SMOLLM3_MODULE = "SmolLM3ForCausalLM", "trustee.trainer.smollm3"
"""A class of ours for vLLM, which is imported only where such a model is loaded."""


def register() -> None:
    """Make linear methods and a model known to vLLM, which calls this in each of its processes."""
    from vllm import ModelRegistry

    # Importing it registers our linear methods and our loader.
    from trustee.trainer import cpu_lora, cpu_norm, vllm_layers

    if multiprocessing.parent_process() is not None:
        follow_parent()
        keep_bars_local()
    ModelRegistry.register_model(SMOLLM3, f"{SMOLLM3_MODULE}:{SMOLLM3}")
    cpu_lora.fix_cpu_lora()
    cpu_norm.fix_cpu_norm()
    vllm_layers.count_default_loading()


def follow_parent() -> None:
    """Die when the parent dies or says so, and leave the terminal's interrupt to it.

    Where `engine/scratch.py` could tie this process from its start, the first is done already.
    """
    parent = multiprocessing.parent_process()
    pid = None if parent is None else parent.pid
    ask_for_death(os.getppid() if pid is None else pid)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The parent asks for it when nothing is left to save. vLLM and Python would first take apart
    # what the kernel frees at once, which takes three seconds of a processor.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # For the watchdog, which asks where this process hangs.
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def keep_bars_local() -> None:
    """Let progress bars lock among threads alone.

    Their lock for processes is a named semaphore, which stays in shared memory if this process and
    those around it are killed; and no other process draws a bar.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    tqdm.set_lock(threading.RLock())
