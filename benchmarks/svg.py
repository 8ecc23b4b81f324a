"""The charts of a run as SVG, without a library: growth curves and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

from benchmarks.tally import Figure

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 380, 70, 50, 120, 50
COLOURS: Mapping[str, str] = {
    "hybridvif": "#0b7a75",
    "os-vif": "#b5452c",
    "recipe": "#8a6d3b",
    "floor": "#7a7a7a",
}


def growth(figures: Sequence[Figure], measure: str, title: str) -> str:
    """Draw one curve per contender: milliseconds per port over the number of ports, both logarithmic."""
    points: dict[str, list[tuple[int, float]]] = {}
    for figure in figures:
        if figure.measure == measure:
            points.setdefault(figure.contender, []).append((figure.ports, 1000 * figure.median / figure.ports))
    sizes = sorted({size for some in points.values() for size, _ in some})
    values = [value for some in points.values() for _, value in some]
    x, y = _scale(sizes, LEFT, WIDTH - RIGHT), _scale(values, HEIGHT - BOTTOM, TOP)
    drawn = [_text(x(size), HEIGHT - BOTTOM + 20, str(size), "middle") for size in sizes]
    drawn += [_grid(y(value), _number(value)) for value in _ticks(values)]
    for name, some in points.items():
        colour, line = COLOURS.get(name, "#444"), sorted(some)
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        drawn += [f'<circle cx="{x(size):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>' for size, value in line]
        drawn.append(_text(x(line[-1][0]) + 10, y(line[-1][1]) + 4, name, "start", colour))
    return _page(title, "milliseconds a port, by the ports of the call", drawn)


def bars(figures: Sequence[Figure], measures: Sequence[str], ports: int, title: str) -> str:
    """Draw a group of bars per measure: milliseconds, logarithmic, with a line from minimum to maximum."""
    shown = [figure for figure in figures if figure.measure in measures and figure.ports == ports]
    values = [1000 * value for figure in shown for value in (figure.least, figure.most)]
    y = _scale([*values, min(values) / 2], HEIGHT - BOTTOM, TOP)
    room = (WIDTH - LEFT - RIGHT) / len(measures)
    drawn = [_grid(y(value), _number(value)) for value in _ticks(values)]
    for index, measure in enumerate(measures):
        group = [figure for figure in shown if figure.measure == measure]
        wide = room * 0.8 / max(len(group), 1)
        drawn.append(_text(LEFT + room * (index + 0.5), HEIGHT - BOTTOM + 20, measure, "middle"))
        for place, figure in enumerate(group):
            colour, start = COLOURS.get(figure.contender, "#444"), LEFT + room * (index + 0.1) + wide * place
            top, middle = y(1000 * figure.median), start + wide / 2
            drawn += [
                _bar(start, top, wide * 0.9, colour),
                _whisker(middle, y(1000 * figure.least), y(1000 * figure.most)),
                _text(middle, top - 6, _number(1000 * figure.median), "middle"),
            ]
    names = list(dict.fromkeys(figure.contender for figure in shown))
    drawn += [
        _text(WIDTH - RIGHT + 12, TOP + 20 * index, name, "start", COLOURS.get(name, "#444"))
        for index, name in enumerate(names)
    ]
    return _page(title, "milliseconds: median, and from the least to the most", drawn)


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    return _Scale(log10(min(values)), log10(max(values)), start, end)


class _Scale:
    """Return a function from a value to a coordinate, logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self._low, self._span, self._start, self._length = low, (high - low) or 1.0, start, end - start

    def __call__(self, value: float) -> float:
        return self._start + self._length * (log10(value) - self._low) / self._span


def _ticks(values: Sequence[float]) -> list[float]:
    """Return the powers of ten between the minimum and the maximum."""
    low, high = int(log10(min(values)) // 1), int(log10(max(values)) // 1)
    return [10.0**power for power in range(low, high + 1) if min(values) <= 10.0**power <= max(values)]


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _grid(y: float, label: str) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
    return line + _text(LEFT - 8, y + 4, label, "end")


def _bar(x: float, y: float, width: float, colour: str) -> str:
    height = HEIGHT - BOTTOM - y
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _whisker(x: float, start: float, end: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{start:.1f}" y2="{end:.1f}" stroke="#222"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _page(title: str, unit: str, drawn: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
            "<style>text { font: 12px sans-serif }</style>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="22" style="font-size: 16px">{escape(title)}</text>',
            _text(LEFT, 38, unit, "start", "#666"),
            *drawn,
            "</svg>\n",
        ]
    )
