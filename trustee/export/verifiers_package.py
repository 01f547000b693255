"""A package for verifiers: tasks as files, and the module that plays and pays them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec

from trustee import __version__
from trustee.environments.protocol import Package
from trustee.errors import InputError
from trustee.export.staging import staged
from trustee.tools.values import render_json

WORLD = Path(__file__).with_name("verifiers_world.py")
"""The module that is copied."""
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

from {name}.world import ToolWorlds

__all__ = ["ToolWorlds"]
'''
README = """\
# {dashed}

{counts}, written by trustee {version} for verifiers 0.4.

```
pip install ./trustee        # from where you have it
pip install "verifiers>=0.4,<0.5" uv
pip install ./{folder}
vf-validate {dashed} --taskset.split test --runtime.type subprocess
vf-eval {dashed} -n 10 --no-push --model policy \\
    --client.base-url http://127.0.0.1:8000/v1 --env.taskset.split test \\
    --env.agent.harness.id null --env.agent.runtime.type subprocess
```

The address is that of `trustee serve RUN`, or of any server that answers chat completions with
tools. Without `--no-push` vf-eval would upload the results.

- The tools are code, and run in trustee's sandbox alone: no network, no files, no processes.
  Where the kernel can confine nothing, their server does not start.
- The reward is trustee's: half for the calls, by what they returned, and half for the right
  answer after them. What solves a task is in `{name}/data` and in no prompt, tool or sandbox.
- A call that the harness's parser cannot read is text for it. trustee counts such a call as one
  that found nothing; here it ends the episode as a wrong answer.
- The tasks are fixed: nothing makes them harder as the policy gets better.
"""


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
    words = {"name": name, "dashed": dashed, "version": __version__, "counts": counts}
    with staged(final) as folder:
        data = folder / name / "data"
        data.mkdir(parents=True)
        for split, tasks in package.splits.items():
            lines = b"".join(msgspec.json.encode(task) + b"\n" for task in tasks)
            (data / f"{split}.jsonl").write_bytes(lines)
        (data / "rules.json").write_text(render_json(package.rules), encoding="utf-8")
        shutil.copyfile(WORLD, folder / name / "world.py")
        (folder / name / "__init__.py").write_text(INIT.format(**words), encoding="utf-8")
        (folder / "pyproject.toml").write_text(PROJECT.format(**words), encoding="utf-8")
        readme = README.format(**words, folder=final.name)
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return dashed
