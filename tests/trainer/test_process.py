"""What the engine's process does at its start, before anything is loaded, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

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
