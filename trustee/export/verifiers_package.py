"""A package for verifiers: tasks as files, and the module that plays and pays them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from trustee import __version__
from trustee.environments.protocol import Package
from trustee.errors import InputError
from trustee.export.staging import refuse_existing, staged
from trustee.tools.values import render_json
from trustee.types import Record

NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
TAKEN = frozenset(("verifiers", "trustee", "mcp", "renderers"))

PROJECT = """\
[project]
name = "{dashed}"
version = "0.1.0"
description = "Tool environments of trustee, as a taskset for verifiers."
requires-python = ">=3.11"
dependencies = ["verifiers>=0.4,<0.5", "trustee>={version}"]

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["{name}"]
"""
INIT = '''\
"""Tool environments of trustee, as a taskset for verifiers."""

from {name}.world import {imported}

__all__ = [{exported}]
'''
README = """\
# {dashed}

{counts}, written by trustee {version} for verifiers 0.4.

```
pip install ./trustee        # from where you have it
pip install "verifiers>=0.4,<0.5" uv
pip install ./{folder}
{before}vf-eval {dashed} -n 10 --no-push --model policy \\
    --client.base-url http://127.0.0.1:8000/v1 --env.taskset.split test \\
    --env.agent.harness.id null --env.agent.runtime.type subprocess
```

The address is that of `trustee serve RUN`, or of any server that answers chat completions with
tools. Without `--no-push` vf-eval would upload the results.

{about}"""
CODE = """\
- The tools are code, and run in trustee's sandbox alone: no network, no files, no processes.
  Where the kernel can confine nothing, their server does not start.
- The reward is trustee's: half for the calls, by what they returned, and half for the right
  answer after them. What solves a task is in `{name}/data` and in no prompt, tool or sandbox.
- A call that the harness's parser cannot read is text for it. trustee counts such a call as one
  that found nothing; here it ends the episode as a wrong answer.
- The tasks are fixed: nothing makes them harder as the policy gets better.
"""
MODEL = """\
- The user, the tools and the judge are the model that wrote the tasks, `{base}`, with trustee's
  prompts, state and checks. `TRUSTEE_SIMULATOR_URL` is where it is served, for example by the same
  `trustee serve`; any server of chat completions will do that keeps to a JSON Schema
  (`response_format`). `TRUSTEE_SIMULATOR_MODEL` is its name there, if another, and
  `TRUSTEE_SIMULATOR_KEY` a key. A harness that runs on this machine inherits them all.
- The model is part of the environment: with another one, rewards are not comparable.
- The package brings its own environment, in which the user answers; in another one, by `--env.id`,
  nobody does. The harness must be able to resume, as `null` is. The policy's messages are limited
  by `--env.agent.max-turns`, {turns} if it is not given.
- The reward is trustee's verdict: 1, 0 or -1. What solves a task is in `{name}/data` and is told
  to the simulator alone.
- A call that the harness's parser cannot read is text for it, which the user answers. trustee gives
  such an episode -1.
- There is no curriculum: a taskset never sees rewards. The tasks are of all difficulties from 1 to
  100, which each task's data names; `--env.taskset.easiest` and `--env.taskset.hardest` choose.
"""


class Form(Record, frozen=True):
    """What differs between packages."""

    world: str
    """The module that is copied."""
    classes: tuple[str, ...]
    """What it has for verifiers."""
    before: str
    """Commands of the README before the evaluation."""
    about: str


TOOLS = Form(
    world="verifiers_world.py",
    classes=("ToolWorlds",),
    before="vf-validate {dashed} --taskset.split test --runtime.type subprocess\n",
    about=CODE,
)
TALKS = Form(
    world="verifiers_talks.py",
    classes=("SimulatedWorlds", "TalkEnv"),
    before="export TRUSTEE_SIMULATOR_URL=http://127.0.0.1:8000/v1\n",
    about=MODEL,
)


def name_module(folder: Path) -> str:
    """Return the module's name for a folder.

    Raises:
        InputError: if no module can be called so.
    """
    name = folder.resolve().name.replace("-", "_").lower()
    if NAME.fullmatch(name) is None or name in TAKEN:
        raise InputError(
            f"{folder}: a package is called as its folder, and no package can be called {name!r}; "
            "name a folder of letters, digits and hyphens, a letter first, such as my-tools"
        )
    return name


def check_place(final: Path) -> None:
    """Refuse a place where no package could be written, before anything is made for it.

    Raises:
        InputError: if the folder exists, or no package can be called so.
    """
    name_module(final)
    refuse_existing(final)


def write_package(final: Path, package: Package) -> str:
    """Write a package completely or not at all, called as its folder; return the taskset's id.

    Raises:
        InputError: if the folder exists, or no package can be called so.
        RunError: if it cannot be written.
    """
    name = name_module(final)
    dashed = name.replace("_", "-")
    counts = " and ".join(
        f"{len(tasks)} tasks in `{split}`" for split, tasks in package.splits.items()
    )
    form = TALKS if package.simulated else TOOLS
    words = {
        "name": name,
        "dashed": dashed,
        "version": __version__,
        "counts": counts,
        "folder": final.name,
        "imported": ", ".join(form.classes),
        "exported": ", ".join(f'"{one}"' for one in form.classes),
        **{key: str(package.rules.get(key, "")) for key in ("base", "turns")},
    }
    words |= {"before": form.before.format(**words), "about": form.about.format(**words)}
    with staged(final) as folder:
        data = folder / name / "data"
        data.mkdir(parents=True)
        for split, tasks in package.splits.items():
            lines = b"".join(msgspec.json.encode(task) + b"\n" for task in tasks)
            (data / f"{split}.jsonl").write_bytes(lines)
        (data / "rules.json").write_text(render_json(package.rules), encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name(form.world), folder / name / "world.py")
        (folder / name / "__init__.py").write_text(INIT.format(**words), encoding="utf-8")
        (folder / "pyproject.toml").write_text(PROJECT.format(**words), encoding="utf-8")
        (folder / "README.md").write_text(README.format(**words), encoding="utf-8")
    return dashed
