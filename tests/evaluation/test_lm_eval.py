"""The harness as we call it: what it is asked, what its samples mean, and what cannot be played.

A package with the harness's name stands in for it, which writes samples in its form.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.errors import InputError
from trustee.evaluation import lm_eval
from trustee.evaluation.lm_eval import LmEval
from trustee.evaluation.outside import Place

pytestmark = pytest.mark.anyio

HARNESS = """
import json, os, sys
from pathlib import Path
said = dict(zip(sys.argv[2::2], sys.argv[3::2])) | dict(zip(sys.argv[3::2], sys.argv[4::2]))
tasks, out = said["--tasks"].split(","), Path(said["--output_path"]) / "model"
if tasks == ["far"]:
    sys.exit("ConnectionError: cannot reach the hub with " + os.environ["OPENAI_API_KEY"])
out.mkdir(parents=True)
asks = said["--model"] == "local-chat-completions"
if asks:
    assert "base_url=http://127.0.0.1:1/v1/chat/completions" in said["--model_args"]
    assert "--apply_chat_template" in sys.argv
    assert os.environ["OPENAI_API_KEY"] == "secret-key"
for task in tasks:
    with (out / f"samples_{task}_2026-01-01T00-00-00.123456.jsonl").open("w") as file:
        for row in range(int(said.get("--limit", 3))):
            how = " B" if task == "likely" else {"until": []}
            right = float(asks and "adapter" in said["--model_args"] and row > 0)
            for filter in ("strict", "lax"):
                sample = {"doc_id": row, "filter": filter, "metrics": ["exact_match"]}
                sample["exact_match"] = {"strict": right, "lax": 1.0}[filter]
                if task == "graded":
                    sample["exact_match"] = 0.5
                sample["arguments"] = {"gen_args_0": {"arg_0": "question", "arg_1": how}}
                file.write(json.dumps(sample) + "\\n")
"""
BASE, ADAPTER = (
    Place(url="http://127.0.0.1:1/v1", model=name, key="secret-key") for name in ("base", "adapter")
)


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a package of that name in front of any other."""
    package = tmp_path / "packages" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(HARNESS)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{os.getcwd()}")


@pytest.mark.usefixtures("harness")
async def test_tasks_are_played() -> None:
    """Each row of each task is one, by the first of several filters."""
    benchmark = LmEval(("arithmetic", "letters"))
    done: list[int] = []
    async with benchmark.open() as opened:
        tasks = await opened.read_tasks(2)
        floor, oracle = await opened.floor(tasks), await opened.oracle(tasks)
        played: dict[str, list[Any]] = {}
        for place in (BASE, ADAPTER):
            played[place.model] = await opened.play(
                tasks, policy=place, base=BASE, done=lambda: done.append(1)
            )
    ids = ["arithmetic/0", "arithmetic/1", "letters/0", "letters/1"]
    assert ids == [task.id for task in tasks] == [one.task_id for one in played["adapter"]]
    assert {"all tasks": ["arithmetic", "letters"]} == benchmark.groups
    assert [False] * 4 == [floor[id] for id in ids] == [one.success for one in played["base"]]
    assert [None] * 4 == [oracle[id] for id in ids]
    assert [False, True] * 2 == [one.success for one in played["adapter"]]
    assert 8 == len(done)


@pytest.mark.usefixtures("harness")
@pytest.mark.parametrize(
    ("task", "named"), [("likely", "likelihoods"), ("graded", "right or"), ("far", "--data DIR")]
)
async def test_what_cannot_be_played(check_error: ErrorCheck, task: str, named: str) -> None:
    """Tasks of other kinds are refused before an engine starts, and so is one without data."""
    with pytest.raises(InputError) as caught:
        async with LmEval((task,)).open() as opened:
            await opened.read_tasks(None)
    check_error(caught, named)


async def test_package_that_is_missing(
    check_error: ErrorCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what brings it."""
    monkeypatch.setattr(lm_eval, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        async with LmEval(("gsm8k",)).open():
            pass
    check_error(caught, "trustee[lm-eval]")


@pytest.mark.usefixtures("harness")
async def test_folder_that_is_none(check_error: ErrorCheck, tmp_path: Path) -> None:
    """Tasks of one's own are looked for in a folder."""
    with pytest.raises(InputError) as caught:
        async with LmEval(("mine",), folder=tmp_path / "nowhere").open():
            pass
    check_error(caught, tmp_path / "nowhere")


def test_the_extra_brings_what_asks_an_endpoint() -> None:
    """The harness leaves the packages of its endpoint models to an extra of its own."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    (harness,) = project["optional-dependencies"]["lm-eval"]
    assert harness.startswith("lm-eval[api]")
