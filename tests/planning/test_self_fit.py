"""Settings that fill a card by themselves: one table of cards, and what holds for any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.config import Config, apply_changes, read_config
from trustee.planning.cards import choose_card
from trustee.planning.plan import RunPlan, make_plan
from trustee.planning.plan_text import introduce
from trustee.planning.self_fit import RESERVE
from trustee.planning.shapes import find_shape
from trustee.types import GIB

QWEN = Path(__file__).parents[2] / "configs/qwen3-8b.toml"


def plan_for(gib: float, *changes: str) -> RunPlan:
    """Plan the config of Qwen3-8B for a card of so much memory."""
    config = read_config(QWEN, list(changes))
    shape = find_shape(config.model.path)
    return make_plan(config, shape, vram_gib=gib, card=choose_card(max(8.0, gib)))


TABLE = {
    8: ("Qwen/Qwen3-4B", 8192, 12720, 2, 7.5),
    12: ("Qwen/Qwen3-8B", 8192, 12720, 2, 11.38),
    16: ("Qwen/Qwen3-8B", 16384, 29104, 6, 15.43),
    24: ("Qwen/Qwen3-8B", 16384, 83824, 18, 22.95),
    32: ("Qwen/Qwen3-8B", 16384, 142080, 30, 30.95),
    48: ("Qwen/Qwen3-8B", 16384, 257680, 56, 46.98),
    80: ("Qwen/Qwen3-8B", 16384, 486144, 105, 78.96),
}
"""By GiB of a card: model, training length, KV tokens, episodes at once, computed peak in GiB."""


@pytest.mark.parametrize("gib", TABLE)
def test_each_card_is_filled(gib: int) -> None:
    """From 8 to 80 GB something is trained, within what is usable, and large cards are used."""
    plan = plan_for(gib)
    taken = plan.after or plan
    length, tokens = taken.train_length, taken.kv_tokens
    assert TABLE[gib] == (taken.model, length, tokens, taken.episodes, round(taken.peak_gib, 2))
    assert taken.fits
    assert taken.peak_gib <= taken.usable_gib
    if gib >= 24:
        assert taken.usable_gib - taken.peak_gib < RESERVE / GIB + 0.15


@pytest.mark.parametrize("gib", [8, 10, 12, 16, 20, 22, 24, 32, 48, 80, 141])
def test_chosen_settings_are_a_plan_that_fits(gib: float) -> None:
    """Taken by hand, the settings give the same plan: nothing else was changed."""
    plan = plan_for(gib)
    taken, chosen = plan.after or plan, plan.settings or plan.changes
    assert chosen
    again = plan_for(gib, *chosen)
    assert (taken.ledger, taken.kv_tokens) == (again.ledger, again.kv_tokens)
    assert again.fits
    assert () == again.settings


def test_settings_that_the_user_gave_are_kept() -> None:
    """Episodes at once are chosen only where the config leaves them open."""
    plan = plan_for(24, "rollout.parallel=5")
    assert "rollout.parallel" not in {setting.partition("=")[0] for setting in plan.settings}
    assert 5 == plan.episodes


def test_a_card_that_is_too_small_for_any_model() -> None:
    """It is said, and nothing is chosen."""
    plan = plan_for(3)
    assert (False, (), ()) == (plan.fits, plan.settings, plan.changes)


def test_one_paragraph_says_what_will_run() -> None:
    """It names model, lengths, cache, peak, settings and minutes, and that nothing confirmed it."""
    text = introduce(plan_for(32))
    assert "\n" not in text
    for part in (
        "Qwen/Qwen3-8B on RTX 5090: a base of 5.7 GiB",
        "up to 16384 tokens, a KV cache of 142080 tokens for 30 episodes at once",
        "computed peak is 30.9 of 31.5 GiB",
        "Chosen for this card: engine.kv_bytes=20954742784, rollout.parallel=30",
        "minutes, all 200 at",
        "no card has confirmed these figures yet",
    ):
        assert part in text


def test_auto_has_a_size_where_no_card_is_asked() -> None:
    """An engine that is started by another command has a fixed cache."""
    config: Config = apply_changes(read_config(QWEN), ["engine.device=cpu"])
    assert 9 * GIB == config.engine.cache_bytes
