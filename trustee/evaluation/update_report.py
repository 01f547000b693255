"""Where an update sits and which part of it carries the success: figures, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trustee.evaluation.evaluate import Gain, SuccessRate, gain_between, success_of
from trustee.evaluation.update_size import (
    ATTENTION,
    MLP,
    MatrixUpdate,
    Part,
    relative,
    share_of_update,
)
from trustee.types import Record, Trajectory

BAR = 24
"""Characters of the longest bar."""
EIGHTHS = " ▏▎▍▌▋▊▉"


class KeptPart(Record, frozen=True):
    """What is left of a policy if only a part of its update is kept."""

    name: str
    update_share: float
    """Share of the squared update that the part holds."""
    weight_share: float
    """Share of the base's squared weights that it holds."""
    success: SuccessRate | None = None
    """Held-out success with this part alone; None if it was not played."""
    gain: Gain | None = None
    """Gain over the base on the same tasks."""


class UpdateReport(Record, frozen=True):
    """Size of an update by layer and module, and success with parts of it."""

    adapter: Path
    total: float
    """Norm of the update against that of the weights that it changes."""
    updates: tuple[MatrixUpdate, ...]
    parts: tuple[KeptPart, ...]
    base: SuccessRate | None = None
    whole: SuccessRate | None = None
    gain: Gain | None = None
    """Gain of the whole adapter over the base."""


def report_update(
    updates: Sequence[MatrixUpdate],
    parts: Sequence[Part],
    *,
    adapter: Path,
    base: Sequence[Trajectory] = (),
    whole: Sequence[Trajectory] = (),
    kept: Sequence[Sequence[Trajectory]] = (),
) -> UpdateReport:
    """Return the report on an update.

    Args:
        updates: of all matrices.
        parts: the parts that are described.
        adapter: its folder.
        base: episodes of the base; empty if nothing was played.
        whole: episodes of the whole adapter, on the same tasks.
        kept: episodes of each part alone, on the same tasks.
    """

    def describe(part: Part, played: Sequence[Trajectory]) -> KeptPart:
        update, weight = share_of_update(updates, part)
        return KeptPart(
            name=part.name,
            update_share=update,
            weight_share=weight,
            success=success_of(played) if base else None,
            gain=gain_between(base, played) if base else None,
        )

    return UpdateReport(
        adapter=adapter,
        total=relative(updates),
        updates=tuple(updates),
        parts=tuple(map(describe, parts, kept if base else [()] * len(parts))),
        base=success_of(base) if base else None,
        whole=success_of(whole) if base else None,
        gain=gain_between(base, whole) if base else None,
    )


def update_text(report: UpdateReport) -> str:
    """Return a report as text: bars by layer, then modules, then parts."""
    return "\n".join(
        [
            f"{report.adapter} changes the weights by {report.total:.4f} of their norm",
            f"{'layer':>5}  {'attention':<{BAR + 9}}mlp",
            *_layer_lines(report.updates),
            "module  " + "  ".join(_module_words(report.updates)),
            *_part_lines(report),
            "shares are of the squared norm: a part with more of the update than of the weights "
            "was changed more than its size suggests",
        ]
    )


def _layer_lines(updates: Sequence[MatrixUpdate]) -> list[str]:
    layers = sorted({one.layer for one in updates})
    sizes = {
        (layer, group): relative(
            [one for one in updates if one.layer == layer and one.module in group]
        )
        for layer in layers
        for group in (ATTENTION, MLP)
    }
    most = max(sizes.values(), default=0.0)
    return [
        f"{layer:>5}  "
        + "  ".join(
            f"{draw_bar(size, most):<{BAR}} {size:.4f}"
            for size in (sizes[layer, ATTENTION], sizes[layer, MLP])
        )
        for layer in layers
    ]


def draw_bar(value: float, most: float) -> str:
    """Return a bar of eighths of a character."""
    eighths = round(8 * BAR * value / most) if most else 0
    return ("█" * (eighths // 8) + EIGHTHS[eighths % 8]).rstrip()


def _module_words(updates: Sequence[MatrixUpdate]) -> list[str]:
    found = []
    for module in (*ATTENTION, *MLP):
        own = [one for one in updates if one.module == module]
        if own:
            found.append(f"{module} {relative(own):.4f}")
    return found


def _part_lines(report: UpdateReport) -> list[str]:
    lines = [f"{'kept':<16}{'update':>8}{'weights':>9}   held-out success   gain over the base"]
    if report.base is None or report.whole is None:
        lines[0] = lines[0].partition("   held-out")[0]
    else:
        lines.append(f"{'nothing':<16}{'0.0%':>8}{'0.0%':>9}   {show_share(report.base)}")
    lines += [_part_line(part) for part in report.parts]
    if report.whole is not None:
        whole = KeptPart(
            name="all", update_share=1.0, weight_share=1.0, success=report.whole, gain=report.gain
        )
        lines.append(_part_line(whole))
    return lines


def _part_line(part: KeptPart) -> str:
    line = f"{part.name:<16}{part.update_share:>8.1%}{part.weight_share:>9.1%}"
    if part.success is None or part.gain is None:
        return line
    gain = part.gain
    return (
        f"{line}   {show_share(part.success):<19}"
        f"{gain.points:+.1f} ({gain.low:+.1f} to {gain.high:+.1f}) points"
    )


def show_share(share: SuccessRate) -> str:
    """Return a share with its interval in few characters."""
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
