"""A build in parts: the same environments as one build, also where parts built the same twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from building_answers import (
    FAULTLESS,
    decomposition,
    document,
    make_simulator,
    part,
    prompt_of,
)
from golden_errors import ErrorCheck
from plain_sandbox import PlainSandbox
from trustee.engine.script import Request
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.building.build import build
from trustee.environments.executable.building.candidate import Decomposition
from trustee.environments.executable.building.folder import Folder
from trustee.environments.executable.building.joining import Joined, join_builds
from trustee.environments.executable.building.report import BuildReport
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.errors import InputError
from trustee.runs.shards import WHOLE, Share
from trustee.runs.store import read_lines

pytestmark = pytest.mark.anyio
CONFIG = BuildConfig(attempts=12, tries=1, distractors=(0, 0), parallel=3)
COUNT = 6
TOWERS = 9
"""So few that places ask for the same one, and enough for every place."""


async def answer(request: Request) -> str:
    """Build one of a few towers, one in three with a fault, in a time that the seed decides."""
    seed = request.sampling.seed or 0
    await anyio.sleep(seed % 5 / 1000)

    def ask(request: Request) -> dict[str, Any]:
        asked = f"How high is the tower T{seed % TOWERS}?"
        return decomposition(Decomposition(question=asked, parts=(part(asked, "214 m"),)))

    def call(request: Request) -> dict[str, Any]:
        name = request.prompt.partition("is the tower ")[2].partition("?")[0]
        return {"arguments": {"subject": name}}

    scripts = FAULTLESS | {"decompose": ask, "call": call}
    if seed % 3 == 0:
        scripts = scripts | {"document": lambda request: document("Nothing")}
    return json.dumps(scripts[prompt_of(request)](request))


async def build_towers(
    folder: Path, *, share: Share = WHOLE, resume: bool = False, parallel: int = 3
) -> BuildReport:
    """Build towers, or a share of them."""
    return await build(
        msgspec.structs.replace(CONFIG, parallel=parallel),
        count=COUNT,
        seed=5,
        folder=folder,
        simulator=make_simulator(ScriptedEngine(answer, context=60000)),
        sandbox=PlainSandbox(),
        emit=lambda event: None,
        scenario="single_hop",
        resume=resume,
        share=share,
    )


def files(folder: Path) -> dict[str, bytes]:
    """Return what was built, byte for byte."""
    return {path.name: path.read_bytes() for path in (folder / "blueprints").iterdir()}


def rejected(folder: Path) -> list[tuple[int, int, str]]:
    """Return the rejections by place and attempt."""
    lines = read_lines(folder / "rejected.jsonl")
    return sorted((line["place"], line["attempt"], line["kind"]) for line in lines)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build everything at once in `whole`, and in three parts; give the folder of all four."""
    folder = tmp_path_factory.mktemp("built")

    async def build_all() -> None:
        await build_towers(folder / "whole")
        for number in (1, 2, 3):
            await build_towers(folder / f"part-{number}", share=Share(number=number, of=3))

    anyio.run(build_all)
    return folder


def join(built: Path, out: Path) -> Joined:
    """Join the three parts."""
    parts = [built / f"part-{number}" for number in (1, 2, 3)]
    return join_builds(parts, out, count=COUNT, attempts=CONFIG.attempts)


async def test_parts_give_the_build_of_one(built: Path, tmp_path: Path) -> None:
    """What is double between parts is built again after the joining, as one build does."""
    whole = msgspec.json.decode((built / "whole" / "report.json").read_bytes(), type=BuildReport)
    assert COUNT == whole.accepted
    assert whole.reasons["verification: duplicate"] > 0
    joined = join(built, tmp_path)
    assert 0 < len(joined.unfilled) < COUNT
    assert joined.report.accepted == COUNT - len(joined.unfilled)
    assert files(tmp_path).items() <= files(built / "whole").items()
    report = await build_towers(tmp_path, resume=True)
    assert files(built / "whole") == files(tmp_path)
    assert rejected(built / "whole") == rejected(tmp_path)
    assert (whole.accepted, whole.candidates, whole.reasons, whole.stages) == (
        report.accepted,
        report.candidates,
        report.reasons,
        report.stages,
    )
    assert whole.cost.tokens == report.cost.tokens


async def test_order_of_completion_does_not_decide(built: Path, tmp_path: Path) -> None:
    """One candidate after another, or all at once: the same environments."""
    await build_towers(tmp_path / "1", parallel=1)
    assert files(tmp_path / "1") == files(built / "whole")
    assert rejected(tmp_path / "1") == rejected(built / "whole")


class Died(Exception):
    """Stands for a kill."""


def die_before_the_line(folder: Folder, *given: Any, **more: Any) -> None:
    """Die instead of writing a rejection."""
    raise Died


def die_before_the_removal(path: Path, *, missing_ok: bool = False) -> None:
    """Die instead of removing the file of an environment; what is half written may go."""
    if not path.name.startswith("."):
        raise Died
    assert missing_ok
    if path.exists():
        os.unlink(path)


@pytest.mark.parametrize(
    "at",
    [(Folder, "reject", die_before_the_line), (Path, "unlink", die_before_the_removal)],
    ids=["line", "removal"],
)
async def test_kill_in_the_middle_of_a_withdrawal(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[Any, str, Any]
) -> None:
    """Before the line of the rejection, or between line and removal: what goes on ends alike."""
    with monkeypatch.context() as patch:
        patch.setattr(*at)
        with pytest.raises(Died):
            join(built, tmp_path)
    assert len(files(tmp_path)) == COUNT
    await build_towers(tmp_path, resume=True)
    assert files(built / "whole") == files(tmp_path)
    assert rejected(built / "whole") == rejected(tmp_path)


def test_parts_of_other_builds(check_error: ErrorCheck, built: Path, tmp_path: Path) -> None:
    """Parts with other seeds are of other builds."""
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(built / "part-1", one)
    shutil.copytree(built / "part-2", other)
    recipe = msgspec.json.decode((other / "build.json").read_bytes())
    (other / "build.json").write_bytes(msgspec.json.encode(recipe | {"seed": 6}))
    with pytest.raises(InputError) as caught:
        join_builds([one, other], tmp_path / "out", count=COUNT, attempts=12)
    check_error(caught, one, other, "build.json")
    assert not (tmp_path / "out").exists()
