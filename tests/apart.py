"""Run a test's function in a process of its own: Triton reads its mode when it is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_apart(file: str, function: str, **environment: str) -> str:
    """Call `function` of the module in `file`, and give what it wrote to standard output."""
    module = Path(file)
    code = f"import {module.stem} as tests; tests.{function}()"
    path = os.pathsep.join([str(module.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
