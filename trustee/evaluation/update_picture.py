"""An update as one SVG file that needs nothing else: a map of all matrices, and bars of success."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from trustee.evaluation.update_report import UpdateReport
from trustee.evaluation.update_size import ATTENTION, MLP

CELL_WIDTH, CELL_HEIGHT = 62, 18
LEFT, TOP, GAP = 46, 64, 40
BAR_WIDTH, BAR_HEIGHT = 260, 22
NAME_WIDTH = 110
LIGHT, DARK = (238, 243, 248), (8, 69, 122)
"""Colours of no update and of the largest."""
READABLE = 0.55
"""Share of the largest update from which a number is written in white."""


def draw_update(report: UpdateReport) -> str:
    """Return the picture."""
    layers = sorted({one.layer for one in report.updates})
    map_width = LEFT + CELL_WIDTH * len((*ATTENTION, *MLP))
    bars = list(_draw_bars(report, left=map_width + GAP))
    width = map_width + (GAP + NAME_WIDTH + BAR_WIDTH + 60 if bars else 20)
    bars_height = BAR_HEIGHT * (len(report.parts) + 2) if bars else 0
    height = TOP + max(CELL_HEIGHT * len(layers), bars_height) + 20
    title = f"{report.adapter.name}: update against the weights, {report.total:.4f} in all"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            _write(LEFT, 20, title, size=14),
            *_draw_map(report, layers),
            *bars,
            "</svg>\n",
        ]
    )


def _draw_map(report: UpdateReport, layers: list[int]) -> Iterator[str]:
    modules = (*ATTENTION, *MLP)
    for column, module in enumerate(modules):
        x = LEFT + CELL_WIDTH * column + CELL_WIDTH / 2
        yield _write(x, TOP - 8, module, anchor="middle")
    for row, layer in enumerate(layers):
        yield _write(LEFT - 6, TOP + CELL_HEIGHT * row + 13, str(layer), anchor="end")
    sizes = {
        (one.layer, one.module): one.update / one.base if one.base else 0.0
        for one in report.updates
    }
    most = max(sizes.values(), default=0.0) or 1.0
    for (layer, module), size in sizes.items():
        x = LEFT + CELL_WIDTH * modules.index(module)
        y = TOP + CELL_HEIGHT * layers.index(layer)
        share = size / most
        yield (
            f'<rect x="{x}" y="{y}" width="{CELL_WIDTH - 1}" height="{CELL_HEIGHT - 1}" '
            f'fill="{_colour(share)}"><title>{escape(f"layer {layer} {module} {size:.5f}")}'
            "</title></rect>"
        )
        ink = "white" if share > READABLE else "#333"
        yield _write(x + CELL_WIDTH / 2, y + 13, f"{size:.4f}", anchor="middle", ink=ink)


def _draw_bars(report: UpdateReport, *, left: int) -> Iterator[str]:
    if report.base is None or report.whole is None:
        return
    rows = [("nothing (base)", report.base)]
    rows += [(part.name, part.success) for part in report.parts if part.success]
    rows.append(("all", report.whole))
    yield _write(left, TOP - 8, "held-out success with only this part of the update kept")
    for row, (name, share) in enumerate(rows):
        y = TOP + BAR_HEIGHT * row
        start = left + NAME_WIDTH
        yield _write(start - 6, y + 14, name, anchor="end")
        yield (
            f'<rect x="{start}" y="{y + 3}" width="{BAR_WIDTH * share.value:.1f}" '
            f'height="{BAR_HEIGHT - 8}" fill="{_colour(0.6)}"/>'
        )
        low, high = (start + BAR_WIDTH * edge for edge in (share.low, share.high))
        middle = y + BAR_HEIGHT / 2 - 1
        yield (
            f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}" stroke="#333" '
            'stroke-width="1.5"/>'
        )
        yield _write(start + BAR_WIDTH + 8, y + 14, f"{share.value:.0%}")


def _colour(share: float) -> str:
    mixed = (round(low + share * (high - low)) for low, high in zip(LIGHT, DARK, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _write(
    x: float, y: float, text: str, *, anchor: str = "start", ink: str = "#333", size: int = 11
) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{ink}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
