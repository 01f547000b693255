"""The builder's prompts, filled with one example each, and what they may not show.

`TRUSTEE_GOLDEN=1` rewrites the examples in `tests/data/building`; review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from building_answers import PROMPTS, make_simulator, prompt_of, script_builder
from plain_sandbox import PlainSandbox
from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.build import build
from trustee.environments.executable.building.workshop import BuildConfig
from trustee.environments.executable.matching import tells
from trustee.environments.prompts import SLOT, hash_prompts, read_prompt

GOLDEN = Path(__file__).parents[3] / "data" / "building"
NAMES = tuple(PROMPTS.values())
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)


async def collect_prompts(folder: Path, scenario: Scenario) -> list[tuple[str, str]]:
    """Build one environment and give every prompt that was asked, with its name."""
    engine = script_builder()
    report = await build(
        BuildConfig(attempts=1),
        count=1,
        seed=2,
        folder=folder,
        simulator=make_simulator(engine),
        sandbox=PlainSandbox(),
        emit=lambda event: None,
        scenario=scenario,
    )
    assert 1 == report.accepted
    opening, closing = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    return [
        (prompt_of(request), request.prompt.removeprefix(opening).removesuffix(closing))
        for request in engine.requests
    ]


@pytest.mark.anyio
async def test_filled_prompts_are_golden(tmp_path: Path) -> None:
    """The first filled example of each prompt file is the reviewed one."""
    filled: dict[str, str] = {}
    for name, text in await collect_prompts(tmp_path / "out", "parallel_multi_hop"):
        filled.setdefault(name, text + "\n")
    assert set(NAMES) == filled.keys()
    if os.environ.get("TRUSTEE_GOLDEN") == "1":
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for name, text in filled.items():
            (GOLDEN / f"{name}.txt").write_text(text, encoding="utf-8")
    kept = {path.stem: path.read_text(encoding="utf-8") for path in GOLDEN.glob("*.txt")}
    assert kept == filled


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_tools_are_designed_without_the_answers(tmp_path: Path, scenario: Scenario) -> None:
    """Whoever designs, merges, widens or adds tools is not shown any answer of a part."""
    answers = ("Tilda Maren", "BK-2093", "Lehm House", "Otto Kranz", "5581", "214 m", "14.80 euro")
    for name, text in await collect_prompts(tmp_path, scenario):
        if name in ("document", "integrate", "extend"):
            assert [] == [answer for answer in answers if tells(text, answer)]


def test_set_holds_a_prompt_for_each_stage() -> None:
    """The builder's set is complete and holds nothing else."""
    assert sorted(f"{name}.md" for name in NAMES) == list(hash_prompts("builder"))


@pytest.mark.parametrize("name", NAMES)
def test_slots_stand_once(name: str) -> None:
    """A slot that carries much text is filled once, so no prompt says a thing twice."""
    slots = SLOT.findall(read_prompt("builder", name))
    assert len(set(slots)) == len(slots)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_short(name: str) -> None:
    """A prompt leaves room for its answer in a small context."""
    assert len(read_prompt("builder", name)) < 3600
