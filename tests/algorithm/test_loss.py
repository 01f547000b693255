"""The loss against TRL and verl, its split into micro-batches, and the chunked head."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trustee.algorithm.loss import LossConfig, LossSums, normaliser_of, policy_loss, token_logprobs
from trustee.errors import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TRL: list[dict[str, Any]] = json.loads((GOLDEN / "trl_grpo_loss.json").read_text())["cases"]
VERL: list[dict[str, Any]] = json.loads((GOLDEN / "verl_grpo.json").read_text())["losses"]

KINDS = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "nll")
VERL_KINDS = {
    "token-mean": "dapo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum": "dr_grpo",
    "seq-mean-token-sum-norm": "dr_grpo",
}
VERL_KL = {"kl": "k1", "abs": "abs", "mse": "mse", "low_var_kl": "k3"}


def trl_config(case: dict[str, Any]) -> LossConfig | None:
    """Translate a case of TRL, or give None for one that is not offered."""
    kind = case["loss_type"]
    cispo = kind == "cispo"
    if kind == "luspo":
        # LUSPO weighs a row's loss by its length: a sum over tokens. TRL averages over the padding
        # too as soon as the loss differs within a row, so only this form survives a split.
        if case["importance_sampling_level"] == "token" or case["beta"]:
            return None
        kind = "dr_grpo"
    limit = 1 if case["loss_type"] == "luspo" else case["max_completion_length"]
    raw = {
        "kind": kind,
        "ratio": case["importance_sampling_level"],
        "clip_low": case["epsilon_low"],
        "clip_high": case["epsilon_high"] - cispo,
        "dual_clip": case["delta"],
        "kl_coef": case["beta"],
        "completion_limit": limit,
    }
    return msgspec.convert(raw, LossConfig)


def verl_config(case: dict[str, Any]) -> LossConfig:
    """Translate a case of verl."""
    raw = {
        "kind": VERL_KINDS[case["loss_agg_mode"]],
        "clip_low": case["clip_low"],
        "clip_high": case["clip_high"],
        "dual_clip": case["clip_ratio_c"],
        "kl_coef": case["kl_coef"],
        "kl_kind": VERL_KL[case["kl_loss_type"]],
        "completion_limit": 1,
    }
    return msgspec.convert(raw, LossConfig)


def double(values: Any) -> Tensor:
    """Give recorded figures as float64."""
    return torch.tensor(values, dtype=torch.float64)


def trained(mask: Tensor) -> list[int]:
    """Count the trained tokens of every row."""
    return [int(n) for n in mask.sum(1)]


def slope(loss: Tensor, logprobs: Tensor) -> Tensor:
    """Give the gradient of the loss for every token."""
    [gradient] = torch.autograd.grad(loss, logprobs)
    return gradient


OFFERED = [(case, config) for case in TRL if (config := trl_config(case)) is not None]


@pytest.mark.parametrize(("case", "config"), OFFERED)
def test_loss_and_gradient_are_those_of_trl(case: dict[str, Any], config: LossConfig) -> None:
    """Every offered variant gives TRL's loss and its gradient for every token."""
    logprobs = double(case["logps"]).requires_grad_()
    mask = double(case["completion_mask"]).bool()
    if case["tool_mask"] is not None:
        mask &= double(case["tool_mask"]).bool()
    sums = policy_loss(
        logprobs,
        double(case["old_logps"]),
        mask=mask,
        advantages=double(case["advantages"]),
        config=config,
        normaliser=normaliser_of(trained(mask), config),
        reference_logprobs=None if case["ref_logps"] is None else double(case["ref_logps"]),
    )
    gradient = slope(sums.loss, logprobs)
    assert case["loss"] == pytest.approx(sums.loss.item(), rel=0, abs=1e-12)
    torch.testing.assert_close(gradient, double(case["grad_logps"]), rtol=0, atol=1e-12)
    assert case["num_items_in_batch"] == sums.tokens
    compare_trl_metrics(case, sums)


def compare_trl_metrics(case: dict[str, Any], sums: LossSums) -> None:
    """Compare the counts with TRL's shares, which are float32 means over tokens."""
    metrics = case["metrics"]
    actual = {
        "kl": sums.kl_sum / sums.tokens,
        "clip_ratio/low_mean": sums.clipped_low / sums.tokens,
        "clip_ratio/high_mean": sums.clipped_high / sums.tokens,
        "cispo_clip_ratio": sums.clipped_high / sums.tokens,
    }
    # With a ratio per row TRL's shares are of rows.
    by_row = case["importance_sampling_level"] == "sequence"
    names = [n for n in actual if n in metrics and not (by_row and n.startswith("clip_ratio"))]
    assert [metrics[n] for n in names] == pytest.approx([actual[n] for n in names], abs=1e-7)


def test_cases_of_trl_that_are_not_offered() -> None:
    """Only those forms of LUSPO are missing whose value depends on the padding."""
    missing = {
        (case["loss_type"], case["importance_sampling_level"], case["beta"])
        for case in TRL
        if trl_config(case) is None
    }
    assert {
        ("luspo", "token", 0.0),
        ("luspo", "token", 0.04),
        ("luspo", "sequence", 0.04),
    } == missing
    assert [c["case"] for c in TRL if trl_config(c) is None] == [96, 98, 104, 106, 108, 110]
    assert len(OFFERED) == 40


@pytest.mark.parametrize("case", VERL)
def test_loss_and_gradient_are_those_of_verl(case: dict[str, Any]) -> None:
    """Every mode of aggregation and every divergence gives verl's loss, gradient and shares."""
    config = verl_config(case)
    logprobs = double(case["logps"]).requires_grad_()
    mask = double(case["mask"]).bool()
    normaliser = normaliser_of(trained(mask), config)
    count = int(mask.sum()) + 1e-8  # verl keeps its token means off zero by this
    if case["loss_agg_mode"] == "token-mean":
        normaliser = count
    if case["loss_agg_mode"] == "seq-mean-token-sum-norm":
        normaliser = mask.shape[1]
    sums = policy_loss(
        logprobs,
        double(case["old_logps"]),
        mask=mask,
        advantages=double(case["advantages"]),
        config=config,
        normaliser=normaliser,
        reference_logprobs=double(case["ref_logps"]),
    )
    gradient = slope(sums.loss, logprobs)
    assert case["total"] == pytest.approx(sums.loss.item(), rel=0, abs=1e-12)
    torch.testing.assert_close(gradient, double(case["grad_logps"]), rtol=0, atol=1e-12)
    shares = ((sums.clipped_low + sums.clipped_high) / count, sums.clipped_dual / count)
    assert (case["pg_clipfrac"], case["pg_clipfrac_lower"]) == pytest.approx(
        shares, rel=0, abs=1e-12
    )
    if case["loss_agg_mode"] == "token-mean":
        assert case["kl_loss"] == pytest.approx(sums.kl_sum / count, rel=0, abs=1e-12)


def test_goldens_cover_what_they_should() -> None:
    """The recorded cases exercise each kind but imitation, and clips on both sides and beyond."""
    assert set(KINDS) - {"nll"} == {config.kind for _, config in OFFERED}
    assert set(VERL_KINDS) == {case["loss_agg_mode"] for case in VERL}
    assert any(case["pg_clipfrac_lower"] > 0 for case in VERL)


def config_of(**fields: Any) -> LossConfig:
    """Give a config, with the one field that `dr_grpo` cannot do without."""
    return msgspec.convert({"completion_limit": 4, **fields}, LossConfig)


def one_token(config: LossConfig, *, ratio: float, advantage: float, **others: Tensor) -> LossSums:
    """Take the loss of a single token whose ratio and advantage are chosen."""
    return policy_loss(
        double([[math.log(ratio)]]),
        double([[0.0]]),
        mask=torch.tensor([[True]]),
        advantages=double([advantage]),
        config=config,
        normaliser=1,
        **others,
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "counts"),
    [
        (1.1, 2.0, -2.2, (0, 0, 0)),
        (5.0, 2.0, -2.56, (0, 1, 0)),
        (0.5, 2.0, -1.0, (0, 0, 0)),
        (1.1, -2.0, 2.2, (0, 0, 0)),
        (0.5, -2.0, 1.6, (1, 0, 0)),
        (2.5, -2.0, 5.0, (0, 0, 0)),
        (5.0, -2.0, 6.0, (0, 0, 1)),
        (5.0, 0.0, 0.0, (0, 0, 0)),
    ],
)
def test_clips_by_hand(
    ratio: float, advantage: float, loss: float, counts: tuple[int, int, int]
) -> None:
    """The clip holds on the side of the advantage, the dual clip where a bad token gained."""
    sums = one_token(config_of(dual_clip=3.0), ratio=ratio, advantage=advantage)
    assert loss == pytest.approx(sums.loss.item(), rel=0, abs=1e-12)
    assert counts == (sums.clipped_low, sums.clipped_high, sums.clipped_dual)


@pytest.mark.parametrize(("kind", "loss"), [("grpo", 0.0), ("dapo", 0.5)])
def test_row_mean_and_token_mean(kind: str, loss: float) -> None:
    """Rows of 1 and 3 ids with advantages of 1 and -1: their rows cancel, their tokens do not."""
    config = config_of(kind=kind)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    logprobs = double([[-0.1, 0.0, 0.0], [-0.2, -0.3, -0.4]])
    sums = policy_loss(
        logprobs,
        logprobs,
        mask=mask,
        advantages=double([1.0, -1.0]),
        config=config,
        normaliser=normaliser_of(trained(mask), config),
    )
    assert loss == pytest.approx(sums.loss.item(), rel=0, abs=1e-12)


def test_published_dual_clip() -> None:
    """An advantage of -1 at a ratio of 5 costs 3."""
    published = LossConfig(kind="grpo", clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    assert 3.0 == pytest.approx(one_token(published, ratio=5.0, advantage=-1.0).loss.item())


def test_flat_group_moves_by_the_divergence_alone() -> None:
    """Rows without an advantage have the KL term's gradient and nothing else, at any ratio."""
    config = LossConfig(kind="grpo", clip_high=0.2, dual_clip=3.0, kl_coef=0.001)
    logprobs = double([[-0.5, -1.0], [-2.0, -0.1]]).requires_grad_()
    old, reference = double([[-0.4, -3.0], [-2.0, -0.2]]), double([[-0.7, -1.5], [-1.0, -0.1]])
    mask = torch.tensor([[True, True], [True, False]])
    sums = policy_loss(
        logprobs,
        old,
        mask=mask,
        advantages=double([0.0, 0.0]),
        config=config,
        normaliser=normaliser_of(trained(mask), config),
        reference_logprobs=reference,
    )
    weights = double([[0.25, 0.25], [0.5, 0.0]])
    expected = 0.001 * weights * (1 - (reference - logprobs.detach()).exp())
    torch.testing.assert_close(slope(sums.loss, logprobs), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("limit", [1.28, 1.5, 3.0])
def test_dual_clip_is_both_that_of_trl_and_that_of_verl(limit: float) -> None:
    """TRL's two-sided clip and verl's dual clip are one, from 1 + `clip_high` upwards."""
    for ratio in (0.1, 0.8, 1.0, 1.28, 1.4, 2.0, 9.0):
        clipped = min(max(ratio, 0.8), 1.28)
        for advantage in (-1.5, 0.0, 1.5):
            trl = -min(min(ratio, limit) * advantage, clipped * advantage)
            verl = max(-advantage * ratio, -advantage * clipped)
            if advantage < 0:
                verl = min(verl, -advantage * limit)
            sums = one_token(config_of(dual_clip=limit), ratio=ratio, advantage=advantage)
            assert (trl, verl) == pytest.approx((sums.loss.item(),) * 2, rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("kind", "divergence"),
    [
        ("k1", -math.log(2)),
        ("abs", math.log(2)),
        ("mse", math.log(2) ** 2 / 2),
        ("k3", 2 - math.log(2) - 1),
    ],
)
def test_divergences_by_hand(kind: str, divergence: float) -> None:
    """Each estimator at a policy half as likely as its reference, weighed by its coefficient."""
    sums = one_token(
        config_of(kl_kind=kind, kl_coef=0.5),
        ratio=1.0,
        advantage=0.0,
        reference_logprobs=double([[math.log(2)]]),
    )
    assert divergence == pytest.approx(sums.kl_sum, rel=0, abs=1e-12)
    assert divergence / 2 == pytest.approx(sums.loss.item(), rel=0, abs=1e-12)


def test_reference_is_measured_even_without_a_weight() -> None:
    """With a coefficient of 0 the divergence is a figure and no part of the loss."""
    sums = one_token(
        config_of(), ratio=1.0, advantage=1.0, reference_logprobs=double([[math.log(2)]])
    )
    assert (-1.0, 2 - math.log(2) - 1) == pytest.approx(
        (sums.loss.item(), sums.kl_sum), rel=0, abs=1e-12
    )


def test_gap_by_hand() -> None:
    """With the engine's logprobs as the old ones, the gap is the trained policy's to them."""
    sums = policy_loss(
        double([[math.log(0.5), math.log(0.2), math.log(0.9)]]),
        double([[math.log(0.25), math.log(0.4), math.log(0.1)]]),
        mask=torch.tensor([[True, True, False]]),
        advantages=double([1.0]),
        config=config_of(),
        normaliser=2,
    )
    log2 = math.log(2)
    assert pytest.approx((sums.tokens, sums.ratio_max)) == (2, 2.0)
    assert (2 * log2, log2) == pytest.approx((sums.gap_abs_sum, sums.gap_abs_max), rel=0, abs=1e-12)
    assert (2 - log2 - 1) + (0.5 + log2 - 1) == pytest.approx(sums.gap_kl_sum, rel=0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_on_policy_is_the_advantage(kind: str) -> None:
    """While both policies agree, every kind is plain policy gradient up to its weights."""
    config = config_of(kind=kind)
    logprobs = double([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]]).requires_grad_()
    mask = torch.tensor([[True, True, False], [False, False, True]])
    advantages = double([0.5, -2.0])
    normaliser = normaliser_of([2, 1], config)
    sums = policy_loss(
        logprobs,
        logprobs.detach(),
        mask=mask,
        advantages=advantages,
        config=config,
        normaliser=normaliser,
    )
    first = {"grpo": 2 * 2, "sapo": 2 * 2, "dr_grpo": 2 * 4}.get(kind, 3)
    second = {"grpo": 2, "sapo": 2, "dr_grpo": 2 * 4}.get(kind, 3)
    expected = double([[-0.5 / first, -0.5 / first, 0.0], [0.0, 0.0, 2.0 / second]])
    torch.testing.assert_close(slope(sums.loss, logprobs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_nothing_outside_the_mask_is_read(kind: str, ratio: str) -> None:
    """Padding may hold anything, even what is no number, and gets no gradient."""
    config = config_of(kind=kind, ratio=ratio, kl_coef=0.1)
    mask = torch.tensor([[True, False], [False, False]])

    def take(outside: float) -> tuple[float, list[list[float]]]:
        logprobs = double([[-1.0, outside], [outside, outside]]).requires_grad_()
        other = double([[-1.2, outside], [outside, outside]])
        sums = policy_loss(
            logprobs,
            other,
            mask=mask,
            advantages=double([0.7, 0.9]),
            config=config,
            normaliser=2,
            reference_logprobs=other,
        )
        gradient = slope(sums.loss, logprobs)
        return sums.loss.item(), gradient.tolist()

    loss, gradient = take(-3.0)
    assert (loss, gradient) == take(math.nan)
    assert [gradient[0][1:], gradient[1]] == [[0.0], [0.0, 0.0]]
    assert gradient[0][0] != 0


CONFIGS = [
    config_of(kind=kind, ratio=ratio, kl_coef=0.05, dual_clip=1.5)
    for kind in KINDS
    for ratio in ("token", "sequence")
]


@settings(max_examples=40)
@given(
    st.sampled_from(CONFIGS),
    st.lists(st.integers(0, 6), min_size=1, max_size=7),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.integers(0, 10_000),
)
def test_loss_does_not_depend_on_the_split(
    config: LossConfig, lengths: list[int], cuts: list[bool], seed: int
) -> None:
    """However rows are dealt to micro-batches and padded, loss, gradient and figures add up."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 8)
    old = -torch.rand(shape, generator=rng, dtype=torch.float64)
    new, reference = (
        old + 0.4 * torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2)
    )
    advantages = torch.randn(shape[0], generator=rng, dtype=torch.float64)
    mask = torch.arange(8).expand(shape) < torch.tensor(lengths)[:, None]
    normaliser = normaliser_of(lengths, config)

    def take(rows: slice, width: int) -> tuple[LossSums, Tensor]:
        part = new[rows, :width].clone().requires_grad_()
        sums = policy_loss(
            part,
            old[rows, :width],
            mask=mask[rows, :width],
            advantages=advantages[rows],
            config=config,
            normaliser=normaliser,
            reference_logprobs=reference[rows, :width],
        )
        return sums, slope(sums.loss, part)

    whole, gradient = take(slice(None), 8)
    edges = [0, *(i for i in range(1, shape[0]) if cuts[i - 1]), shape[0]]
    total: LossSums | None = None
    for start, end in pairwise(edges):
        width = max(1, *lengths[start:end], 1)
        sums, part = take(slice(start, end), width)
        total = sums if total is None else total + sums
        torch.testing.assert_close(part, gradient[start:end, :width], rtol=0, atol=1e-12)
    assert total is not None
    assert figures(whole) == pytest.approx(figures(total), rel=0, abs=1e-12)


def figures(sums: LossSums) -> dict[str, float]:
    """Give every field as a number."""
    names = [name for name in LossSums.__slots__ if name != "loss"]
    return {"loss": sums.loss.item(), **{name: getattr(sums, name) for name in names}}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 10_000))
def test_sft_is_cross_entropy(lengths: list[int], seed: int) -> None:
    """With advantages of 1, loss and gradient are those of torch's cross entropy over the step."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 6)
    logits = torch.randn((*shape, 7), generator=rng, dtype=torch.float64)
    targets = torch.randint(7, shape, generator=rng)
    mask = torch.arange(6).expand(shape) < torch.tensor(lengths)[:, None]
    config = LossConfig(kind="nll")

    ours = logits.clone().requires_grad_()
    logprobs = ours.log_softmax(2).gather(2, targets[..., None])[..., 0]
    sums = policy_loss(
        logprobs,
        torch.zeros(shape, dtype=torch.float64),
        mask=mask,
        advantages=torch.ones(shape[0], dtype=torch.float64),
        config=config,
        normaliser=normaliser_of(lengths, config),
    )
    theirs = logits.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(theirs[mask], targets[mask], reduction="sum")
    expected = expected / max(1, sum(lengths))
    torch.testing.assert_close(sums.loss, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(slope(sums.loss, ours), slope(expected, theirs), rtol=0, atol=1e-12)
    figures_of_ratio = (sums.gap_abs_sum, sums.gap_kl_sum, sums.clipped_low + sums.clipped_high)
    assert (sum(lengths), (0.0, 0.0, 0)) == (sums.tokens, figures_of_ratio)


def test_sum_of_losses_is_detached() -> None:
    """Adding up a step's figures keeps no graph alive."""
    logprobs = double([[-1.0]]).requires_grad_()
    sums = policy_loss(
        logprobs,
        double([[-1.0]]),
        mask=torch.tensor([[True]]),
        advantages=double([1.0]),
        config=config_of(),
        normaliser=1,
    )
    assert (sums.loss.requires_grad, (sums + sums).loss.requires_grad) == (True, False)


@pytest.mark.parametrize(
    ("kind", "trained_tokens", "normaliser"),
    [
        ("grpo", [2, 0, 3], 3),
        ("sapo", [2, 0, 3], 3),
        ("bnpo", [2, 0, 3], 5),
        ("dapo", [2, 0, 3], 5),
        ("cispo", [2, 0, 3], 5),
        ("nll", [2, 0, 3], 5),
        ("dr_grpo", [2, 0, 3], 12),
        ("grpo", [], 1),
        ("dapo", [0], 1),
        ("dr_grpo", [], 4),
    ],
)
def test_normalisers(kind: str, trained_tokens: list[int], normaliser: float) -> None:
    """Each kind counts its own unit over the step, and never nothing."""
    assert normaliser == normaliser_of(trained_tokens, config_of(kind=kind))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"dual_clip": 1.1}, "dual_clip must be at least 1 + clip_high = 1.28, got 1.1"),
        ({"kind": "dr_grpo"}, "kind dr_grpo needs completion_limit, got none"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"dual_clip": 0.0}, "dual_clip"),
    ],
)
def test_config_refuses(raw: dict[str, Any], message: str) -> None:
    """Contradictions and values out of bounds are named when the config is read."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(raw, LossConfig)
    assert message in str(caught.value)


def test_loss_refuses_to_guess_logprobs() -> None:
    """A term whose logprobs are missing is an error, not a term left out."""
    message = "kl_coef 2 needs reference_logprobs, got none; set it to 0"
    with pytest.raises(InputError, match=message):
        one_token(config_of(kl_coef=2.0), ratio=1.0, advantage=1.0)


def plain_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logprobs and entropies with all logits at once."""
    table = (hidden @ weight.T).log_softmax(1)
    return table.gather(1, targets[:, None])[:, 0], -(table.exp() * table).sum(1).detach()


def head_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw hidden states, head, targets and the gradient that comes from above."""
    rng = torch.Generator().manual_seed(5)
    hidden = torch.randn(11, 6, generator=rng, dtype=dtype)
    weight = torch.randn(29, 6, generator=rng, dtype=dtype)
    targets = torch.randint(29, (11,), generator=rng)
    return hidden, weight, targets, torch.randn(11, generator=rng, dtype=dtype)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_chunked_head_is_the_plain_one(chunk: int, dtype: torch.dtype, atol: float) -> None:
    """Values and gradient do not depend on the chunk, whether or not it divides."""
    hidden, weight, targets, above = head_inputs(dtype)
    hidden.requires_grad_()
    weight.requires_grad_()
    expected, expected_entropy = plain_head(hidden, weight, targets)
    [expected_gradient] = torch.autograd.grad(expected, hidden, above)
    logprobs, entropy = token_logprobs(hidden, weight, targets=targets, chunk=chunk)
    gradient, head_gradient = torch.autograd.grad(
        logprobs, (hidden, weight), above, allow_unused=True
    )
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=atol)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=atol)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=atol)
    assert [entropy.requires_grad, head_gradient is None] == [False, True]


def test_head_widens_to_float32() -> None:
    """A bfloat16 head gives float32 logprobs and a gradient in the hidden states' own type."""
    hidden, weight, targets, above = head_inputs(torch.float32)
    hidden = hidden.bfloat16().requires_grad_()
    weight = weight.bfloat16()
    logprobs, entropy = token_logprobs(hidden, weight, targets=targets, chunk=4)
    [gradient] = torch.autograd.grad(logprobs, hidden, above.float())
    assert (torch.float32, torch.float32, torch.bfloat16) == (
        logprobs.dtype,
        entropy.dtype,
        gradient.dtype,
    )
    table = (hidden @ weight.T).float().log_softmax(1)
    expected = table.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)


def test_head_keeps_no_logits() -> None:
    """Nothing as wide as the vocabulary is kept for the backward pass, unlike by the plain head."""
    hidden, weight, targets, _ = head_inputs(torch.float64)
    hidden.requires_grad_()

    def kept(compute: Callable[[], object]) -> bool:
        widths: set[int] = set()

        def note(tensor: Tensor) -> Tensor:
            widths.update(tensor.shape[-1:])
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            compute()
        return 29 in widths

    assert (
        kept(lambda: plain_head(hidden, weight, targets)),
        kept(lambda: token_logprobs(hidden, weight, targets=targets, chunk=4)),
    ) == (True, False)


def test_head_takes_no_positions() -> None:
    """A micro-batch without trained tokens gives empty logprobs."""
    hidden, weight, targets, _ = head_inputs(torch.float64)
    logprobs, entropy = token_logprobs(hidden[:0], weight, targets=targets[:0], chunk=4)
    assert (tuple(logprobs.shape), tuple(entropy.shape)) == ((0,), (0,))


def test_import_loads_no_torch() -> None:
    """The configuration may name `LossConfig` in a process that never loads torch."""
    code = "import sys, trustee.algorithm.loss; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
