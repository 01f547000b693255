"""What the engine's process does at its start, before anything is loaded, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from trustee.trainer.die_with_parent import delay_collection

BAR = """
import multiprocessing, sys
multiprocessing.set_start_method("spawn")
from trustee.trainer import keep_bars_local
keep_bars_local()
from tqdm.auto import tqdm
list(tqdm([1, 2]))
print("multiprocessing.synchronize" in sys.modules)
"""


def test_progress_bars_make_no_semaphore() -> None:
    """A named one would outlive a killed process."""
    ran = subprocess.run(
        [sys.executable, "-c", BAR], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "False\n" == ran.stdout, ran.stderr


def test_a_spawned_process_looks_for_no_garbage_while_it_imports() -> None:
    """Only the line that multiprocessing starts a process by is changed."""
    line = "from multiprocessing.spawn import spawn_main; spawn_main(pipe_handle=7)"
    assert f"import gc; gc.disable(); {line}" == delay_collection(line)
    for word in ("-c", "--multiprocessing-fork", "from multiprocessing import resource_tracker"):
        assert word == delay_collection(word)


TOLD = """
import os, signal
from trustee.trainer import follow_parent
signal.signal(signal.SIGTERM, lambda *given: print("taken apart"))
follow_parent()
os.kill(os.getpid(), signal.SIGTERM)
print("still here")
"""


def test_the_process_ends_at_once_when_it_is_told_to() -> None:
    """Whatever vLLM had planned: nothing is left to save."""
    ran = subprocess.run(
        [sys.executable, "-c", TOLD], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert (-signal.SIGTERM, "") == (ran.returncode, ran.stdout), ran.stderr
