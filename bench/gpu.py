"""Run every check that needs a card, never stop at the first failure, print the figures last.

    python bench/gpu.py [--model FOLDER] [--out FOLDER]

The engine's memory is bounded by its own settings; the figures say what torch held.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("gpu-checks"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    figures = options.out / "figures.jsonl"
    figures.unlink(missing_ok=True)
    with (options.out / "pytest.log").open("w", encoding="utf-8") as log:
        code = subprocess.run(
            [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests/test_gpu.py"],
            cwd=ROOT,
            env=os.environ
            | {
                "TRUSTEE_GPU_MODEL": options.model,
                "TRUSTEE_FIGURES": str(figures.resolve()),
                "PYTHONPATH": str(ROOT),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    print((options.out / "pytest.log").read_text(encoding="utf-8")[-6000:])
    print(figures.read_text(encoding="utf-8") if figures.exists() else "no figures: nothing ran")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
