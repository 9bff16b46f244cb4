"""Plots of a run's raw data, as SVG: ``python -m bench.plots FOLDER INTO``.

Drawn here and not by a library, which would be larger than all of flow: they are lines in a frame.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median

from bench.results import Results

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 150, 36, 48
#: Colours that people with any colour vision can tell apart (Okabe and Ito, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLE = "font-family:sans-serif;font-size:12px"


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plot."""

    label: str
    least: float
    most: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where *value* is between the ends: 0 to 1."""
        if self.logarithmic:
            span = math.log10(self.most) - math.log10(self.least)
            return (math.log10(value) - math.log10(self.least)) / span
        return (value - self.least) / (self.most - self.least)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.least)), math.floor(math.log10(self.most))
            return [10.0**power for power in range(first, last + 1)]
        rough = (self.most - self.least) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= rough)
        first = math.ceil(self.least / step)
        return [step * n for n in range(first, math.floor(self.most / step + 1e-9) + 1)]


def chart(title: str, x: Axis, y: Axis, lines: Mapping[str, Points]) -> str:
    """An SVG with a line and a name for each of *lines*."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(value: float) -> float:
        return _LEFT + width * x.share(value)

    def up(value: float) -> float:
        return _TOP + height * (1 - y.share(value))

    box = f"0 0 {_WIDTH} {_HEIGHT}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" style="{_STYLE}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for tick in x.ticks():
        at = across(tick)
        parts.append(_rule(at, _TOP, at, _TOP + height))
        parts.append(_text(at, _TOP + height + 16, f"{tick:,g}", "middle"))
    for tick in y.ticks():
        at = up(tick)
        parts.append(_rule(_LEFT, at, _LEFT + width, at))
        parts.append(_text(_LEFT - 6, at + 4, f"{tick:,g}", "end"))
    parts.append(_text(_LEFT + width / 2, _HEIGHT - 10, x.label, "middle"))
    parts.append(_text(_LEFT, _TOP - 4, y.label, "start"))
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        beside = _TOP + 14 + 18 * number
        parts.append(_text(_WIDTH - _RIGHT + 10, beside, name, "start", colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "black") -> str:
    said = escape(text)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{said}</text>'


def growth(results: Results) -> str | None:
    """The core's time per event over the size of the DAG; None if W9 was not measured."""
    lines = {}
    for (workload, case, _), samples in results.samples.items():
        if workload == "W9":
            sizes = samples[0].series["tasks"]
            spent = zip(*(sample.series["event_us"] for sample in samples), strict=True)
            name = case.partition(" of ")[0]
            lines[name] = list(zip(sizes, map(median, spent), strict=True))
    if not lines:
        return None
    ends = [point for points in lines.values() for point in points]
    x = Axis("tasks in the DAG", 0, max(a for a, _ in ends))
    y = Axis("CPU microseconds per event", 0, 1.2 * max(b for _, b in ends))
    return chart("The dispatcher's core: cost of an event", x, y, lines)


def latencies(results: Results) -> str | None:
    """From a trigger to the first instruction, idle: all contenders; None if W6 was not
    measured."""
    lines = {}
    for (workload, _, contender), samples in results.samples.items():
        if workload == "W6":
            values = sorted(v for s in samples for v in s.series["latency_ms"])
            lines[contender] = [
                (value, 100 * (n + 1) / len(values)) for n, value in enumerate(values)
            ]
    if not lines:
        return None
    values = [a for points in lines.values() for a, _ in points]
    x = Axis(
        "ms from the trigger to the first instruction", min(values), max(values), logarithmic=True
    )
    return chart("W6: an idle system", x, Axis("% of tasks started", 0, 100), lines)


PLOTS = {"performance-growth.svg": growth, "performance-latency.svg": latencies}


def main(arguments: Sequence[str]) -> int:
    """Write those plots that the data in the folder is enough for."""
    if len(arguments) != 2:  # noqa: PLR2004 - see the usage
        print("usage: python -m bench.plots FOLDER INTO", file=sys.stderr)
        return 2
    results = Results.load(Path(arguments[0]))
    for name, draw in PLOTS.items():
        drawn = draw(results)
        if drawn is None:
            print(f"{name}: its workload was not measured", file=sys.stderr)
        else:
            (Path(arguments[1]) / name).write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
