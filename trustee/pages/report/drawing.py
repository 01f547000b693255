"""Charts of a report, as SVG that needs no script and prints on paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trustee.pages.report.document import Markup, element

WIDTH, HEIGHT = 340.0, 150.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 10.0, 12.0, 20.0
MOST_POINTS = 240
"""Points of a line; of more, neighbours are averaged."""

Point = tuple[float, float]


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    points: Sequence[Point]
    colour: int = 0


class Mark(NamedTuple):
    """What happened at a step."""

    x: float
    kind: str
    text: str


class Bar(NamedTuple):
    """A value with its interval."""

    name: str
    value: float
    low: float
    high: float
    said: str
    colour: int = 0


def thin(points: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` points, each the mean of neighbours."""
    each = math.ceil(len(points) / MOST_POINTS) or 1
    return [
        (
            sum(x for x, _ in points[at : at + each]) / len(points[at : at + each]),
            sum(y for _, y in points[at : at + each]) / len(points[at : at + each]),
        )
        for at in range(0, len(points), each)
    ]


def round_numbers(low: float, high: float, wanted: int) -> list[float]:
    """Return about so many round numbers between two values."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


class Frame(NamedTuple):
    """The bounds of a chart, and where a value lies in it."""

    first: float
    last: float
    least: float
    most: float

    @classmethod
    def around(
        cls, lines: Sequence[Line], *, low: float | None, high: float | None, limit: float | None
    ) -> Frame:
        """Return a frame that holds all points, and the limit where it is near."""
        xs = [x for line in lines for x, _ in line.points]
        ys = [y for line in lines for _, y in line.points]
        least, most = min(ys) if low is None else low, max(ys) if high is None else max(high, *ys)
        if limit is not None and limit <= 3 * most:
            most = max(most, 1.1 * limit)
        if most - least < 1e-9:
            least, most = (least if low is not None else least - 1), most + 1
        pad = 0.06 * (most - least)
        return cls(
            first=min(xs),
            last=max(xs) if max(xs) > min(xs) else min(xs) + 1,
            least=least if low is not None else least - pad,
            most=most if high else most + pad,
        )

    def x_of(self, value: float) -> float:
        """Return the place of a step."""
        share = (value - self.first) / (self.last - self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y_of(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.least) / (self.most - self.least)
        return round(TOP + (1 - share) * (HEIGHT - TOP - BOTTOM), 1)

    def draw_axes(self, show: Callable[[float], str]) -> Iterator[Markup]:
        """Yield the grid and the numbers beside it."""
        for at in round_numbers(self.least, self.most, 4):
            y = self.y_of(at)
            yield element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
            yield element("text", show(at), class_="axis", x=LEFT - 5, y=y + 3.5, text_anchor="end")
        for at in round_numbers(self.first, self.last, 4):
            if at == int(at):
                x, y = self.x_of(at), HEIGHT - 5
                yield element("text", f"{at:.0f}", class_="axis", x=x, y=y, text_anchor="middle")

    def draw_marks(self, marks: Sequence[Mark], *, limit: float | None) -> Iterator[Markup]:
        """Yield the limit and what happened."""
        if limit is not None and self.least <= limit <= self.most:
            y = self.y_of(limit)
            yield element("line", class_="limit", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
        for mark in marks:
            if self.first <= mark.x <= self.last:
                x, told, kind = self.x_of(mark.x), element("title", mark.text), f"mark {mark.kind}"
                yield element("line", told, class_=kind, x1=x, x2=x, y1=4, y2=HEIGHT - BOTTOM)
                yield element("circle", told, class_=kind, cx=x, cy=5, r=3.5)

    def draw_line(self, line: Line) -> Iterator[Markup]:
        """Yield a line, with dots where it has few points."""
        colour = f"c{line.colour % 8}"
        path = "".join(
            f"{'L' if at else 'M'}{self.x_of(x)} {self.y_of(y)}"
            for at, (x, y) in enumerate(line.points)
        )
        yield element("path", class_=f"line {colour}", d=path)
        if len(line.points) < 13:
            for x, y in line.points:
                yield element(
                    "circle", class_=f"dot {colour}", cx=self.x_of(x), cy=self.y_of(y), r=2
                )


def draw_lines(
    title: str,
    lines: Sequence[Line],
    *,
    show: Callable[[float], str],
    low: float | None = None,
    high: float | None = None,
    limit: float | None = None,
    marks: Sequence[Mark] = (),
) -> Markup | None:
    """Return a chart of lines over steps; None if there is nothing to draw.

    Args:
        title: what is drawn.
        lines: the lines; values that are not finite are passed over.
        show: writes a value.
        low: value at the bottom; None leaves it to the values.
        high: value at the top.
        limit: a value that should not be crossed, drawn where it is near.
        marks: what happened, by step.
    """
    known = [
        line._replace(points=thin([(x, y) for x, y in line.points if math.isfinite(y)]))
        for line in lines
    ]
    known = [line for line in known if line.points]
    if not known:
        return None
    frame = Frame.around(known, low=low, high=high, limit=limit)
    shapes = [*frame.draw_axes(show), *frame.draw_marks(marks, limit=limit)]
    for line in known:
        shapes += frame.draw_line(line)
    newest = show(known[0].points[-1][1]) if len(known) == 1 else ""
    legend = [
        element("span", element("i", class_=f"key c{line.colour % 8}"), line.name) for line in known
    ]
    return element(
        "figure",
        element("figcaption", element("span", title), element("b", newest)),
        element(
            "svg",
            element("title", f"{title}: {'; '.join(_say(line, show) for line in known)}"),
            shapes,
            viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
            role="img",
        ),
        element("div", legend, class_="legend") if len(known) > 1 else None,
        class_="chart",
    )


def _say(line: Line, show: Callable[[float], str]) -> str:
    return f"{line.name} from {show(line.points[0][1])} to {show(line.points[-1][1])}"


def draw_bars(
    bars: Sequence[Bar],
    *,
    show: Callable[[float], str],
    begin: float = 0.0,
    end: float = 1.0,
    zero: bool = False,
) -> Markup:
    """Return values with their intervals, one row each.

    Args:
        bars: the values.
        show: writes a value.
        begin: value at the left end of the scale.
        end: value at the right end.
        zero: whether zero has a line.
    """

    def x_of(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - begin) / (end - begin))), 2)

    rows = []
    for bar in bars:
        colour = f"c{bar.colour % 8}"
        left, right, at = x_of(bar.low), x_of(bar.high), x_of(bar.value)
        shapes = [element("line", class_="rail", x1=0, x2=100, y1=8, y2=8)]
        if zero:
            shapes.append(element("line", class_="zero", x1=x_of(0), x2=x_of(0), y1=0, y2=16))
        shapes += [
            element("line", class_=f"span {colour}", x1=left, x2=right, y1=8, y2=8),
            element("line", class_=f"value {colour}", x1=at, x2=at, y1=2, y2=14),
        ]
        rows.append(
            element(
                "div",
                element("span", bar.name),
                element(
                    "svg",
                    element("title", f"{bar.name}: {show(bar.value)}, {bar.said}"),
                    shapes,
                    viewBox="0 0 100 16",
                    preserveAspectRatio="none",
                    role="img",
                ),
                element("b", show(bar.value)),
                element("span", bar.said, class_="quiet"),
                class_="bar",
            )
        )
    return element("div", rows, class_="bars")
