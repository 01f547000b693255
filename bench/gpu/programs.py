"""The command line itself: a run of two steps, and the doctor."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import anyio

from gpu.models import ROOT, make_small
from gpu.report import Figures, Setting, report

CHANGES = (
    "run.steps=2",
    "run.minutes=none",
    "rollout.groups_per_step=4",
    "eval.tasks=8",
    "eval.parallel=8",
    "engine.max_sequences=64",
)
ERRORS_SHOWN = 1500


async def check_programs(setting: Setting) -> None:
    """Check both commands."""
    await report(setting, "run", partial(run, setting))
    await report(setting, "doctor", partial(examine, setting))


def changes_of(setting: Setting) -> list[str]:
    """Give the changes of the tiny config: fewer steps, and heads that a card's kernels know."""
    if setting.device == "cpu":
        return list(CHANGES)
    model = make_small(setting.scratch / "small")
    return [*CHANGES, "engine.device=cuda", f"model.path={model}"]


async def call(setting: Setting, command: str, *options: str) -> tuple[int, str, str]:
    """Call a command of the program with the tiny config; give exit code, output and errors."""
    changes = [part for change in changes_of(setting) for part in ("--set", change)]
    config = ("--config", str(ROOT / "configs" / "tiny.toml"))
    done = await anyio.run_process(
        [sys.executable, "-m", "trustee", command, *config, *options, *changes],
        cwd=ROOT,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def run(setting: Setting) -> Figures:
    """Train two steps; both must be in the metrics."""
    folder = setting.scratch / "run"
    shutil.rmtree(folder, ignore_errors=True)
    code, _, errors = await call(setting, "run", "--json", "--out", str(folder))
    steps = read_steps(folder)
    problems = []
    if code:
        log = folder / "engine.log"
        said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        problems = [f"exit code {code}: {errors[-ERRORS_SHOWN:]}", said[-ERRORS_SHOWN:]]
    if not code and len(steps) != 2:
        problems.append(f"two steps were asked for, {len(steps)} were made")
    return {"exit_code": code, "steps": steps, "problems": problems}


def read_steps(folder: Path) -> list[dict[str, float]]:
    """Read the figures of every step that a run made."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: v for key, v in line.items() if isinstance(v, int | float)} for line in lines]


async def examine(setting: Setting) -> Figures:
    """Call the doctor; the small model may judge badly, all else must be well."""
    code, out, errors = await call(setting, "doctor", "--json")
    if code not in (0, 1) or not out.strip():
        return {"exit_code": code, "problems": [f"exit code {code}: {errors[-ERRORS_SHOWN:]}"]}
    findings = json.loads(out.strip().splitlines()[-1])["findings"]
    problems = [f"{one['name']}: {one['why']}" for one in findings if one["state"] == "fail"]
    said = {one["name"]: f"{one['state']}: {one['why']}" for one in findings}
    return {"exit_code": code, "findings": said, "problems": problems}
