"""Plans: what fits, what is changed where it does not, and in which words it is said."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import msgspec
import pytest

from golden_errors import ErrorCheck
from trustee.config import Config, apply_changes, read_config
from trustee.errors import InputError
from trustee.planning import cards, plan
from trustee.planning.budget import Budget
from trustee.planning.cards import FoundCard, Holder, choose_card
from trustee.planning.fit_search import FREE, HARSH, MILD, SECTIONS, name_changes, raise_cache
from trustee.planning.hours import (
    MIXED,
    STATE,
    THOUGHT,
    USUAL,
    Range,
    Speeds,
    Workload,
    count_episodes,
    estimate_hours,
    forward_operations,
    list_assumptions,
    measured_hours,
)
from trustee.planning.ledger import count_kv_tokens, make_ledger
from trustee.planning.plan import RunPlan, make_plan, read_budget, read_workload
from trustee.planning.plan_text import plan_text, run_plan
from trustee.planning.shapes import find_shape, known_models
from trustee.types import GIB

CONFIGS = Path(__file__).parents[2] / "configs"
WANTED = (
    "engine.context=16384",
    "engine.kv_bytes=12348030976",
    "engine.max_sequences=48",
    "engine.versions=3",
    "learn.activation_checkpointing=offload",
    "learn.head_chunk=256",
    "learn.micro_tokens=16384",
    "learn.mlp_tile=2048",
)
"""What the config of Qwen3-8B says about memory; tests hold it so, should the config change."""
SIZES = (8, 12, 16, 24, 32, 80)


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work with an empty cache of the hub, so that packaged shapes are read."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))


def qwen(*changes: str) -> Config:
    """Read the config of Qwen3-8B with the wanted settings, and further changes."""
    return apply_changes(read_config(CONFIGS / "qwen3-8b.toml"), (*WANTED, *changes))


def plan_for(config: Config, gib: float) -> RunPlan:
    """Plan a config for a size of card."""
    shape = find_shape(config.model.path)
    return make_plan(config, shape, vram_gib=gib, card=choose_card(float(gib)))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        *(("qwen3-8b", 16384), ("ftrl-paper", 16384)),
        *(("trustee-paper", 24576), ("trustee-paper-lora", 24576)),
    ],
)
def test_main_model_on_24_gib(name: str, length: int) -> None:
    """Qwen3-8B trains on 16k tokens and more beside a cache of 60k, over one 5.9 GiB base."""
    config = read_config(CONFIGS / f"{name}.toml")
    made = plan_for(config, 24)
    config = apply_changes(config, made.settings)
    assert made.fits
    assert made.model == "Qwen/Qwen3-8B"
    assert made.episodes == config.rollout.episodes
    assert made.host_gib <= 15.0
    assert made.peak_gib <= 23.3
    assert made.base_gib <= 5.9
    assert made.kv_tokens >= 60_000
    assert made.train_length == length
    assert ((), "") == (made.changes, made.command)


def test_ledger_adds_up_to_the_peak() -> None:
    """The entries of one moment and the entries that are always there are the peak."""
    config = qwen()
    made = plan_for(config, 24)
    ledger = make_ledger(find_shape(made.model), read_budget(config))
    assert ledger.sizes() == made.ledger
    assert ledger.peak / GIB == made.peak_gib
    assert ledger.peak < sum(made.ledger.values())
    assert list(made.ledger) == list(made.reasons)


@pytest.mark.parametrize("gib", SIZES)
@pytest.mark.parametrize("name", known_models())
def test_every_model_on_every_size(name: str, gib: int) -> None:
    """A plan fits, or names changes with which it does, or a smaller model that does."""
    config = qwen(f"model.path={name}")
    made = plan_for(config, gib)
    if made.fits:
        assert made.after is None
        assert made.peak_gib <= gib - 0.5
        return
    assert made.after is not None
    assert made.changes
    changed = apply_changes(config, made.changes)
    again = plan_for(changed, gib)
    assert again.fits
    assert made.after == again
    assert again.peak_gib <= gib - 0.5
    assert again.kv_tokens >= again.train_length >= 4096
    if made.after.model != name:
        assert made.changes[0] == f"model.path={made.after.model}"
        assert find_shape(made.after.model).numel < find_shape(name).numel
        assert any(f"{name} does not fit" in note for note in made.notes)


@pytest.mark.parametrize(
    ("name", "gib", "model"),
    [
        ("Qwen/Qwen3-8B", 24, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", 16, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", 12, "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", 8, "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-14B", 8, "Qwen/Qwen3-4B"),
        ("Qwen/Qwen3-14B", 16, "Qwen/Qwen3-14B"),
    ],
)
def test_which_model_a_size_can_hold(name: str, gib: int, model: str) -> None:
    """The largest model that fits is proposed where the wanted one does not."""
    made = plan_for(qwen(f"model.path={name}"), gib)
    assert model == (made.after or made).model


def test_32k_with_tiles_on_24_gib() -> None:
    """At 32k, what is proposed keeps the length and tiles the MLP."""
    longer = ("engine.context=32768", "learn.micro_tokens=32768", "learn.mlp_tile=none")
    made = plan_for(qwen(*longer), 24)
    assert not made.fits
    assert made.after is not None
    assert made.after.fits
    assert made.after.train_length == 32768
    assert made.after.kv_tokens >= 49_152
    assert "learn.mlp_tile=2048" in made.changes
    assert not any(change.startswith("engine.context") for change in made.changes)


def test_free_changes_go_first() -> None:
    """Where parking layer inputs is enough, nothing else is touched."""
    made = plan_for(qwen("learn.activation_checkpointing=recompute"), 24)
    assert ("learn.activation_checkpointing=offload",) == made.changes
    assert (
        "trustee run --set model.path=Qwen/Qwen3-8B --set learn.activation_checkpointing=offload"
    ) == made.command


def test_command_is_one_that_fits() -> None:
    """The settings on the command line make the plan that is promised."""
    made = plan_for(qwen("learn.activation_checkpointing=recompute", "learn.optimizer=adamw"), 16)
    words = shlex.split(made.command)
    assert words[:2] == ["trustee", "run"]
    assert words[2::2] == ["--set"] * len(words[2::2])
    changed = apply_changes(
        qwen("learn.activation_checkpointing=recompute", "learn.optimizer=adamw"), words[3::2]
    )
    assert plan_for(changed, 16) == made.after


@pytest.mark.parametrize("gib", [12, 16, 20])
@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B-Instruct"])
def test_nothing_can_be_dropped_from_the_changes(name: str, gib: int) -> None:
    """Without any one of the changes it fits no more, or its cache holds too few contexts."""
    config = qwen(f"model.path={name}", "learn.activation_checkpointing=recompute")
    made = plan_for(config, gib)
    assert made.after is not None
    for dropped in made.changes:
        if dropped.startswith(("engine.context", "learn.micro_tokens")):
            continue  # One lever with two keys, of which the larger counts.
        rest = [change for change in made.changes if change != dropped]
        less = plan_for(apply_changes(config, rest), gib)
        assert not less.fits, dropped


def test_levers_name_settings_of_the_config() -> None:
    """Every lever and every key is one that a config accepts."""
    config = qwen()
    for lever in (*MILD, *HARSH):
        value = lever.value if isinstance(lever.value, str) else json.dumps(lever.value)
        changed = read_budget(apply_changes(config, [f"{lever.key}={value}"]))
        assert lever.value == changed.setting(lever.key)
    assert set(FREE) <= set(MILD)
    assert (
        {"engine", "learn"}
        == set(SECTIONS)
        == set(Budget.__struct_fields__)
        - {
            "trained_tokens",
            "reference",
        }
    )


def test_levers_never_raise() -> None:
    """What is already lower than a lever's value stays."""
    budget = read_budget(qwen()).change(
        {
            "engine.context": 4096,
            "learn.micro_tokens": 2048,
            "learn.mlp_tile": 512,
            "learn.head_chunk": 64,
            "engine.max_sequences": 4,
            "engine.batched_tokens": 512,
            "engine.versions": 2,
            "learn.rank": 8,
            "engine.eager": True,
        }
    )
    pulled = budget
    for lever in (*MILD, *HARSH):
        pulled = lever.pull(pulled)
    assert budget == pulled


def test_cache_too_small_for_one_context_is_raised() -> None:
    """A cache that cannot hold one context gets the size that the engine needs."""
    made = plan_for(qwen("engine.kv_bytes=1073741824"), 24)
    assert not made.fits
    assert made.kv_tokens < made.train_length
    assert made.after is not None
    assert made.after.kv_tokens >= 1.5 * 16384
    assert [change.partition("=")[0] for change in made.changes] == ["engine.kv_bytes"]
    assert any("the engine would not start" in note for note in made.notes)


def test_card_without_bf16_gets_no_plan_that_fits() -> None:
    """An RTX 2080 Ti is refused in words, whatever its memory."""
    config = qwen("model.path=tiny", "engine.context=2048", "engine.kv_bytes=1073741824")
    made = make_plan(config, find_shape("tiny"), vram_gib=11, card=choose_card("2080 Ti"))
    assert not made.fits
    assert ((), None) == (made.changes, made.after)
    assert made.notes[0] == (
        "RTX 2080 Ti has compute capability 7.5 and does not compute in bf16, which engine and "
        "trainer need; GPUs from 8.0 (RTX 30, A100) do"
    )


def test_nothing_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no known model is small enough, that is said and nothing is proposed."""
    monkeypatch.setattr(plan, "list_proposed", lambda: ("Qwen/Qwen3-14B",))
    made = plan_for(qwen("model.path=Qwen/Qwen3-14B"), 8)
    assert not made.fits
    assert ((), "", None) == (made.changes, made.command, made.after)
    assert made.notes[-1] == "no known model fits RTX 4060 8GB, whatever the settings"


def test_room_is_pointed_out() -> None:
    """On a large card the plan says which savings can go and what can grow."""
    notes = " ".join(plan_for(qwen(), 80).notes)
    assert "without these savings: learn.activation_checkpointing=recompute" in notes
    assert "engine.kv_bytes=" in notes
    assert "longer episodes: engine.context=32768 and learn.micro_tokens=32768" in notes


def test_no_savings_are_pointed_out_where_there_are_none() -> None:
    """A run that keeps everything on the card is not told to keep more or less of it."""
    notes = " ".join(
        plan_for(qwen("learn.activation_checkpointing=off", "engine.context=4096"), 80).notes
    )
    assert "without these savings" not in notes


def test_what_is_pointed_out_fits() -> None:
    """The larger cache that a note proposes fits."""
    shape, budget = find_shape("Qwen/Qwen3-8B"), read_budget(qwen())
    usable = int(31.5 * GIB)
    raised = raise_cache(shape, budget, usable=usable)
    assert raised.engine.cache_bytes > budget.engine.cache_bytes
    assert usable - make_ledger(shape, raised).peak < 128 << 20
    assert make_ledger(shape, raised).peak <= usable


def test_episodes_at_once_follow_the_cache() -> None:
    """Contexts of episode and simulator may ask for one and a half times the cache."""
    config, shape = qwen(), find_shape("Qwen/Qwen3-8B")
    budget, work = read_budget(config), read_workload(config)
    # 1800 and 1200 tokens of prompts, 6 turns of 204.8 tokens answered with 120 each, twice.
    assert round(work.episode_tokens, 6) == 1800 + 1200 + 2 * 6 * (204.8 + 120)
    assert count_kv_tokens(shape, budget) == 83712
    assert count_episodes(shape, budget, work) == int(1.5 * 83712 / work.episode_tokens) == 18
    few = msgspec.structs.replace(work, at_once=3)
    assert count_episodes(shape, budget, few) == 3


def test_operations_of_a_forward_pass() -> None:
    """A token at 16k costs Qwen3-8B about 1.9e10 operations, attention included."""
    operations = forward_operations(find_shape("Qwen/Qwen3-8B"), length=16384)
    assert operations == 2 * 6_945_767_424 + 36 * 2 * 16384 * 4096


def test_hours_are_ranges_that_follow_the_card() -> None:
    """A faster card takes fewer hours, and every estimate has two ends."""
    config, shape = qwen(), find_shape("Qwen/Qwen3-8B")
    budget, work = read_budget(config), read_workload(config)
    slow = estimate_hours(shape, budget, choose_card("3090"), work)
    fast = estimate_hours(shape, budget, choose_card("4090"), work)
    for name in ("rollout", "training", "total"):
        slower, faster = getattr(slow, name), getattr(fast, name)
        assert 0 < faster.low < faster.high
        assert faster.low < slower.low
        assert faster.high < slower.high
    assert slow.total == Range(
        low=slow.rollout.low + slow.training.low, high=slow.rollout.high + slow.training.high
    )


def test_hours_at_measured_speeds() -> None:
    """A step's tokens over the speeds, with the assumed shares at both ends, by hand."""
    work = Workload(episodes=36, at_once=8, turns=2.0, message_tokens=80.0, context=16384)
    hours = measured_hours(work, Speeds(reading=5400.0, decoding=600.0, training=2200.0))
    assert (2200.0, 1600.0, 600.0) == (
        work.policy_tokens,
        work.simulator_tokens,
        work.generated_tokens,
    )
    assert pytest.approx((1 + 3800 / 5400, 1 + 2 * 3800 / 5400)) == (
        hours.rollout.low,
        hours.rollout.high,
    )
    assert pytest.approx((0.3, 0.7)) == (hours.training.low, hours.training.high)
    groups = msgspec.structs.replace(work, group_size=6)
    assert 2200.0 - 1800 * 5 / 6 == pytest.approx(groups.trained_tokens)
    shared = measured_hours(groups, Speeds(reading=5400.0, decoding=600.0, training=2200.0))
    assert pytest.approx((0.3 * 700 / 2200, 0.7 * 700 / 2200)) == (
        shared.training.low,
        shared.training.high,
    )
    assert shared.rollout == hours.rollout


def test_the_built_in_model_is_known_to_be_brief() -> None:
    """At a small machine's speeds a hundred steps take about the 9 minutes that they took."""
    tiny = read_workload(read_config(CONFIGS / "tiny.toml"))
    hours = measured_hours(tiny, Speeds(reading=9000.0, decoding=2400.0, training=10000.0)).total
    assert hours.low < 9 / 60 < hours.high < 2 * 9 / 60
    usual = read_workload(read_config(CONFIGS / "qwen3-8b.toml"))
    assert (USUAL, 6.0) == (usual.sizes, usual.turns)


def test_twice_the_episodes_take_twice_the_hours() -> None:
    """Hours are those of a hundred steps of so many episodes."""
    shape, card = find_shape("Qwen/Qwen3-8B"), choose_card("3090")
    one, two = (
        estimate_hours(shape, read_budget(config), card, read_workload(config))
        for config in (qwen(), qwen("rollout.groups_per_step=16"))
    )
    assert one.training.times(2) == two.training
    assert one.rollout.times(2) == two.rollout


def test_host_memory_counts_parked_inputs() -> None:
    """Parking takes pinned memory: 35 inputs of 128 MiB at 16k."""
    shape = find_shape("Qwen/Qwen3-8B")
    parked, kept = (
        plan.count_host(shape, read_budget(qwen(f"learn.activation_checkpointing={mode}")))
        for mode in ("offload", "recompute")
    )
    assert parked - kept == 35 * 128 << 20


def test_disk_counts_the_model_twice_in_nf4() -> None:
    """The download stays beside the quantised copy."""
    config, shape = qwen("run.steps=1"), find_shape("Qwen/Qwen3-8B")
    work = read_workload(config)
    plain = apply_changes(config, ["engine.weights=bf16"])
    more = plan.count_disk(config, shape, read_budget(config), work)
    less = plan.count_disk(plain, shape, read_budget(plain), work)
    assert round((more - less) / GIB, 2) == 5.66
    assert less > 2 * shape.numel


def run(*changes: str, **options: Any) -> tuple[str, bool]:
    """Plan as the command line does."""
    given: dict[str, Any] = {"model": None, "vram": None, "card": None, "as_json": False}
    return run_plan(qwen(*changes), **(given | options))


def test_json_has_what_programs_read() -> None:
    """The JSON names all that is promised, and is valid."""
    text, fits = run(vram=24.0, as_json=True)
    read = json.loads(text)
    assert fits is read["fits"] is True
    assert read["api_calls"] == 0
    assert read["card"] == "RTX 3090"
    assert read["train_length"] == 16384
    assert set(read["hours_per_100_steps"]) == {"rollout", "training", "total"}
    assert (
        set(read["hours_per_100_steps"]["total"])
        == {"low", "high"}
        == set(read["kwh_per_100_steps"])
    )
    wanted = {"peak_gib", "kv_tokens", "ledger", "episodes", "host_gib", "disk_gib", "notes"}
    assert wanted <= set(read)
    assert all(isinstance(size, int) for size in read["ledger"].values())
    assert msgspec.json.decode(text, type=RunPlan).fits


def test_text_is_a_sorted_table() -> None:
    """The text says the verdict first and the largest entries on top."""
    text, fits = run(card="RTX 4090")
    lines = text.splitlines()
    assert fits
    assert lines[0] == (
        "Qwen/Qwen3-8B fits RTX 4090: 22.93 of 23.50 GiB usable (24 GiB minus what driver and "
        "desktop keep)"
    )
    sizes = [float(line[23:31]) for line in lines if line[32:35] == "GiB"]
    assert len(sizes) >= 15
    assert sorted(sizes, reverse=True) == sizes
    assert lines[2].startswith("KV cache                 11.500 GiB")
    assert "calls to paid APIs    0" in lines
    assert not any("--set" in line for line in lines)


def test_text_ends_with_the_command() -> None:
    """What does not fit ends with a command line that does."""
    text, fits = run("learn.activation_checkpointing=recompute", vram=24.0)
    lines = text.splitlines()
    assert not fits
    assert lines[0].startswith("Qwen/Qwen3-8B does not fit RTX 3090: 27.40 of 23.50 GiB")
    assert lines[-1] == (
        "  trustee run --set model.path=Qwen/Qwen3-8B --set learn.activation_checkpointing=offload"
    )


def test_other_model_is_planned() -> None:
    """`--model` stands in for the config's."""
    text, _ = run(vram=24.0, model="Qwen/Qwen3-4B")
    assert text.startswith("Qwen/Qwen3-4B fits RTX 3090: ")


def test_unknown_model_is_refused() -> None:
    """A model whose sizes are not known gets no plan."""
    with pytest.raises(InputError, match="no config of model 'owner/unknown' was found"):
        run(vram=24.0, model="owner/unknown")


def test_card_with_another_size() -> None:
    """Name and size together are that card with so much memory."""
    text, _ = run(card="RTX 3090", vram=20.0)
    assert "RTX 3090 with 20 GiB" in text.splitlines()[0]


def test_card_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word about the card, the one in the machine counts, less what others hold."""
    found = FoundCard(
        name="NVIDIA GeForce RTX 4090",
        total=24564 << 20,
        free=22500 << 20,
        driver="580.1",
        holders=(Holder(process=7, bytes=1 << 29),),
    )
    monkeypatch.setattr(cards, "read_card", lambda index: found)
    text, fits = run()
    assert fits
    assert text.startswith("Qwen/Qwen3-8B fits RTX 4090 with 23.49 GiB: 22.93 of 22.99 GiB")
    assert "- found NVIDIA GeForce RTX 4090, 23.99 GiB, driver 580.1" in text
    assert "- other processes hold 0.50 GiB (7)" in text


def test_unknown_card_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is not in the table counts as a known one of its size."""
    found = FoundCard(name="RTX 9999", total=48 << 30, free=48 << 30, driver="1", holders=())
    monkeypatch.setattr(cards, "read_card", lambda index: found)
    text, _ = run()
    assert text.startswith("Qwen/Qwen3-8B fits RTX 5090 with 48 GiB: ")


def test_no_card_in_this_machine(check_error: ErrorCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a card one must be named, and the message says how."""
    monkeypatch.setattr(cards, "read_card", lambda index: None)
    with pytest.raises(InputError) as caught:
        run()
    check_error(caught, "no GPU", "--card", "--vram")


def test_changes_are_written_as_the_config_reads_them() -> None:
    """Words, numbers and booleans come back as they were meant."""
    before = read_budget(qwen())
    after = before.change(
        {"learn.activation_checkpointing": "off", "learn.rank": 8, "engine.eager": True}
    )
    changes = name_changes(before, after)
    assert ("engine.eager=true", "learn.rank=8", "learn.activation_checkpointing=off") == changes
    assert after == read_budget(apply_changes(qwen(), changes))


def test_a_thought_is_expected_where_the_policy_thinks() -> None:
    """A thought comes on top of what is said, and a high limit for both is not filled."""
    silent = read_workload(qwen("rollout.limits.tokens=1024"))
    thinking = read_workload(qwen("rollout.limits.tokens=8192", "model.thinking=true"))
    assert thinking.message_tokens == silent.message_tokens + THOUGHT
    short = read_workload(qwen("rollout.limits.tokens=300", "model.thinking=true"))
    assert short.message_tokens == 300


def test_single_turns_are_planned_as_such() -> None:
    """An episode that is one message from a stored state has no simulator."""
    work = read_workload(read_config(CONFIGS / "ftrl-paper.toml"))
    assert (work.turns, work.simulator_tokens, work.sizes) == (1.0, 0, STATE)
    assert work.generated_tokens == work.message_tokens


@pytest.mark.parametrize("config", ["ftrl.toml", "ftrl-tiny.toml"])
def test_tools_that_run_sample_nothing(config: str) -> None:
    """Code answers: the context grows by its answers, and the policy alone samples."""
    work = read_workload(read_config(CONFIGS / config))
    assert work.generated_tokens == work.turns * work.message_tokens
    assert work.simulator_tokens == 0
    assert work.policy_tokens > work.sizes.prompt + work.turns * work.message_tokens


def test_the_published_way_is_planned() -> None:
    """Roles think, all groups are trained on, and each of four updates has prompts of its own."""
    paper = CONFIGS / "trustee-paper.toml"
    work = read_workload(read_config(paper))
    silent = (f"simulator.{role}.thinking=false" for role in ("writer", "user", "tool", "judge"))
    plain = read_workload(read_config(paper, [*silent, "learn.updates=1", "learn.keep_flat=false"]))
    thoughts = work.turns * THOUGHT + THOUGHT + THOUGHT / 8
    assert work.generated_tokens == pytest.approx(plain.generated_tokens + thoughts)
    assert (work.group_size, plain.group_size, plain.mixed) == (2, 8, MIXED)
    assert "all groups are trained on (learn.keep_flat)" in list_assumptions(work)
    assert work.trained_tokens > plain.trained_tokens


def test_tokens_of_a_step_and_hours_of_the_run_are_printed() -> None:
    """Tokens are those of the assumed episodes; the run's hours are those of all its steps."""
    config = qwen("run.steps=200", "rollout.groups_per_step=16", "rollout.group_size=8")
    made, work = plan_for(config, 24), read_workload(config)
    step = made.tokens_per_step
    assert step.policy == 128 * work.turns * work.message_tokens
    assert step.policy + step.simulator == pytest.approx(128 * work.generated_tokens)
    assert step.read.high == 2 * step.read.low == 2 * 128 * work.episode_tokens
    assert step.trained.high < 128 * work.policy_tokens
    text = plan_text(made)
    assert f"  sampled             {step.policy / 1000:.0f} by the policy, " in text
    total = made.hours_per_100_steps["total"]
    assert f"  all 200 steps       {2 * total.low:.0f} to {2 * total.high:.0f} hours" in text
