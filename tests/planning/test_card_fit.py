"""Room on the card of this machine: what is planned on it, and what is said where it is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.config import Config, read_config
from trustee.engine.model_files import TINY
from trustee.errors import InputError
from trustee.planning import card_fit
from trustee.planning.card_fit import (
    advise,
    know_card,
    know_shape,
    look_at_card,
    plan_on,
    show_holders,
)
from trustee.planning.cards import FoundCard, Holder, choose_card
from trustee.planning.machine import Finding
from trustee.types import GIB

CONFIGS = Path(__file__).parents[2] / "configs"
QWEN = read_config(CONFIGS / "qwen3-8b.toml", ["engine.kv_bytes=12348030976"])
NOTHING = (
    "no setting makes it fit: use a smaller model, or a larger GPU of compute capability 8.0 "
    "(RTX 30, A100) or later"
)


def card(
    name: str = "NVIDIA GeForce RTX 3090",
    *,
    total: float = 24,
    free: float = 23.5,
    driver: str = "580.1",
    holders: tuple[Holder, ...] = (),
) -> FoundCard:
    """Give a card as a driver describes it; sizes in GiB."""
    return FoundCard(
        name=name,
        total=int(total * GIB),
        free=int(free * GIB),
        driver=driver,
        holders=holders,
    )


def look(monkeypatch: pytest.MonkeyPatch, found: FoundCard, config: Config = QWEN) -> list[Finding]:
    """Look at a card that the driver shows."""
    monkeypatch.setattr(card_fit, "read_card", lambda index: found)
    findings = look_at_card(config, 0)
    assert all(finding.state == "ok" or finding.fix for finding in findings)
    return findings


def test_no_card_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU no driver is asked."""
    monkeypatch.setattr(card_fit, "read_card", lambda index: 1 / 0)
    assert look_at_card(read_config(CONFIGS / "tiny.toml"), 0) == [
        Finding(name="card", state="ok", why="not used (engine.device = cpu)")
    ]


def test_driver_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that says nothing is doubtful; the engine may work all the same."""
    asked: list[int] = []
    monkeypatch.setattr(card_fit, "read_card", asked.append)
    (found,) = look_at_card(QWEN, 3)
    assert ([3], "card", "warn") == (asked, found.name, found.state)
    assert "nvidia-smi" in found.fix


def test_free_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default run fits a free card of 24 GiB."""
    free, plan = look(monkeypatch, card())
    why = "NVIDIA GeForce RTX 3090, driver 580.1, 23.5 of 24.0 GiB free"
    assert Finding(name="card", state="ok", why=why) == free
    peak, tokens = plan_on(card(), QWEN).peak_gib, plan_on(card(), QWEN).kv_tokens
    why = (
        f"{peak:.2f} GiB at the peak, a KV cache of {tokens} tokens, training on up to 16384 tokens"
    )
    assert Finding(name="plan", state="ok", why=why) == plan


def test_card_that_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds memory is named, and the plan is made for what is left."""
    holders = (Holder(process=41, bytes=8 * GIB), Holder(process=42, bytes=0))
    used, plan = look(monkeypatch, card(free=15.5, holders=holders))
    assert used == Finding(
        name="card",
        state="warn",
        why="NVIDIA GeForce RTX 3090, driver 580.1, 15.5 of 24.0 GiB free (process 41 holds "
        "8.0 GiB, process 42)",
        fix="close other programs that use the GPU",
    )
    assert "fail" == plan.state
    assert plan.fix.startswith("it fits with: trustee run --set model.path=Qwen/Qwen3-8B --set ")


@pytest.mark.parametrize(
    ("driver", "state"), [("575.64.03", "warn"), ("580.65.06", "ok"), ("610.2", "ok"), ("", "ok")]
)
def test_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch, driver: str, state: str) -> None:
    """A driver without CUDA 13 is named before the engine fails on it."""
    found, _ = look(monkeypatch, card(driver=driver))
    assert (state, state == "warn") == (found.state, "update the driver to 580" in found.fix)


def test_all_that_a_card_needs_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared card with an old driver has two things to fix."""
    found, _ = look(monkeypatch, card(free=10, driver="570.1"))
    assert found.fix == (
        "close other programs that use the GPU; "
        "update the driver to 580 or later, which CUDA 13 needs"
    )


def test_memory_that_nobody_is_said_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver names no process, what is missing is noticed all the same."""
    assert [("warn", "ok"), ("ok", "ok")] == [
        tuple(f.state for f in look(monkeypatch, card(total=48, free=free))) for free in (40, 47.5)
    ]


@pytest.mark.parametrize("free", [0.1, 5.0, 7.9, 11.5])
def test_nearly_full_card_is_a_finding(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    """However little is free, the card stays what it is, and the plan says that it is short."""
    _, plan = look(monkeypatch, card(free=free))
    assert "fail" == plan.state


def test_card_is_known_by_its_name_and_not_by_what_is_free() -> None:
    """A new card of which 11 GiB are free is none of the old ones that had 11 GiB."""
    half = plan_on(card(free=11.5), QWEN)
    assert "RTX 3090 with 12 GiB" == half.card
    assert advise(half, card(free=11.5)).startswith("it fits with: trustee run --set model.path=")


@pytest.mark.parametrize("free", [10.6, 3.0])
def test_card_that_is_too_old(free: float) -> None:
    """Where the card itself is the reason, neither settings nor room are advised."""
    old = card("NVIDIA GeForce RTX 2080 Ti", total=11, free=free)
    plan = plan_on(old, QWEN)
    assert (False, NOTHING) == (plan.fits, advise(plan, old))


def test_card_on_which_only_room_helps() -> None:
    """Where so little is free that no model fits, others must leave."""
    full = card(free=2)
    assert "no setting makes it fit the free memory: close other programs that use the GPU" == (
        advise(plan_on(full, QWEN), full)
    )


@pytest.mark.parametrize(("free", "usable"), [(24, 23.5), (23.8, 23.5), (23.2, 23.2), (9, 9)])
def test_what_driver_and_desktop_keep_is_counted_once(free: float, usable: float) -> None:
    """What is free is without their part, so all of it may be used, but never more than that."""
    assert usable == pytest.approx(plan_on(card(free=free), QWEN).usable_gib)


def test_unknown_card_is_known_by_its_size() -> None:
    """A card of no known name stands as one of all its memory."""
    assert "RTX 5090 with 48 GiB" == know_card(card("RTX 9999", total=48, free=3)).name
    assert choose_card("RTX 3090") == know_card(card("RTX 9999", total=24, free=3))


def test_unknown_small_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is too small to be of use is a finding and no error."""
    _, plan = look(monkeypatch, card("RTX 9999", total=4, free=3.9))
    assert plan == Finding(
        name="plan",
        state="fail",
        why="a GPU with 4 GiB is too small; at least 8 GiB are needed (--vram)",
        fix="choose another model with --set model.path=DIR, or another GPU with --gpu N",
    )


def test_model_that_cannot_be_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that is not there fails the plan; nothing is raised."""
    path = tmp_path / "none"
    config = read_config(CONFIGS / "qwen3-8b.toml", [f"model.path={path}"])
    _, plan = look(monkeypatch, card(), config)
    assert "fail" == plan.state
    assert plan.why.startswith(f"model.path '{path}' is not a folder; give a Hugging Face model")


def test_plan_needs_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose shape is at hand is not fetched to say that it does not fit."""
    monkeypatch.setattr(card_fit, "find_model", lambda path: 1 / 0)
    assert "Qwen/Qwen3-8B" == know_shape("Qwen/Qwen3-8B").name


def test_shape_of_a_model_that_must_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a model that nobody knows is fetched first."""
    monkeypatch.setattr(card_fit, "find_model", lambda path: TINY)
    assert know_shape("owner/unheard-of").hidden == know_shape("tiny").hidden


def test_model_of_a_kind_that_cannot_be_trained(tmp_path: Path) -> None:
    """A model that was found and is of another kind is refused in the words for that."""
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match="has the unsupported type 'mamba'"):
        know_shape(str(tmp_path))


@pytest.mark.parametrize(
    ("holders", "text"),
    [
        ((), ""),
        ((Holder(process=7, bytes=0),), " (process 7)"),
        (
            (Holder(process=7, bytes=GIB // 2), Holder(process=8, bytes=3 * GIB)),
            " (process 7 holds 0.5 GiB, process 8 holds 3.0 GiB)",
        ),
    ],
)
def test_holders(holders: tuple[Holder, ...], text: str) -> None:
    """A process whose share the driver does not tell is not said to hold nothing."""
    assert text == show_holders(card(holders=holders))
