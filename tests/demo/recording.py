"""A recording of a terminal as one animated SVG: no fonts, no scripts, nothing from elsewhere.

Every line that was ever shown is defined once, and every frame refers to its lines. Where
animations are not wanted or not known, the last frame stands.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style

#: Pixels. A cell is 0.6 times as wide as the size of its font, as in nearly all monospaced ones.
_SIZE, _CELL, _LINE, _MARGIN = 15, 9, 20, 18
#: A terminal of its own, so that it can be read on light and on dark pages.
_BACKGROUND, _BORDER, _TEXT = "#0d1117", "#30363d", "#d0d7de"
_FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
#: Seconds for which the last frame stays before all begins again.
_HOLD = 6.0


@dataclass(frozen=True, slots=True)
class Frame:
    """What was shown from *at* on, in seconds; each line as SVG."""

    at: float
    lines: tuple[str, ...]


@dataclass(slots=True)
class Recording:
    """Frames of *width* cells, below the command that was typed."""

    width: int
    command: str
    frames: list[Frame] = field(default_factory=list)
    _classes: dict[str, str] = field(default_factory=dict)
    """From what a style says to the name of its class."""

    def take(self, shown: RenderableType, at: float) -> None:
        """Add a frame, unless it looks like the one before it."""
        console = Console(
            width=self.width, force_terminal=True, color_system="truecolor", highlight=False
        )
        lines = tuple(self._line(line) for line in console.render_lines(shown, pad=False))
        if not self.frames or self.frames[-1].lines != lines:
            self.frames.append(Frame(at, lines))

    def svg(self, title: str) -> str:
        """The whole document; *title* is for those who cannot see it."""
        rows = 2 + max(len(frame.lines) for frame in self.frames)
        width, height = self.width * _CELL + 2 * _MARGIN, rows * _LINE + 2 * _MARGIN
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
            # Browsers and others disagree on what keeps spaces: here for the others.
            'role="img" aria-labelledby="title" xml:space="preserve">',
            f'<title id="title">{escape(title)}</title>',
            f"<style>\n{self._style()}\n</style>",
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"',
            f'fill="{_BACKGROUND}" stroke="{_BORDER}"/>',
            f'<g transform="translate({_MARGIN} {_MARGIN + _SIZE})">',
            _text(0, f"$ {self.command}", ""),
            *self._groups(),
            "</g>",
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    # -- parts ---------------------------------------------------------------------------------

    def _line(self, segments: list[Segment]) -> str:
        texts, column = [], 0
        for text, style, _ in segments:
            inner = text.strip()
            if inner:
                before = cell_len(text) - cell_len(text.lstrip())
                texts.append(_text(column + before, inner, self._class(style)))
            column += cell_len(text)
        return "".join(texts)

    def _class(self, style: Style | None) -> str:
        if style is None:
            return ""
        rules = []
        if style.color is not None and not style.color.is_default:
            rules.append(f"fill:{style.color.get_truecolor().hex}")
        if style.bold:
            rules.append("font-weight:bold")
        if not rules:
            return ""
        return self._classes.setdefault(";".join(rules), string.ascii_letters[len(self._classes)])

    def _style(self) -> str:
        rules = [
            f"text{{font:{_SIZE}px {_FONTS};fill:{_TEXT};white-space:pre}}",
            *(f"text.{name}{{{rule}}}" for rule, name in self._classes.items()),
            ".frame{visibility:hidden}.last{visibility:visible}",
        ]
        if len(self.frames) > 1:
            motion = "\n".join(self._motion())
            rules.append(f"@media (prefers-reduced-motion:no-preference){{\n{motion}\n}}")
        return "\n".join(rules)

    def _motion(self) -> Iterator[str]:
        first, last = self.frames[0].at, self.frames[-1].at
        length = last - first + _HOLD
        moments = [100 * (frame.at - first) / length for frame in self.frames]
        yield f".frame{{animation:{length:.2f}s step-end infinite}}"
        for number, begin in enumerate(moments):
            before = "0%{visibility:hidden}" if number else ""
            shown = f"{begin:.2f}%{{visibility:visible}}"
            over = moments[number + 1] if number + 1 < len(moments) else None
            after = "" if over is None else f"{over:.2f}%,100%{{visibility:hidden}}"
            yield f"#f{number}{{animation-name:m{number}}}"
            yield f"@keyframes m{number}{{{before}{shown}{after}}}"

    def _groups(self) -> Iterator[str]:
        names: dict[str, str] = {}
        for frame in self.frames:
            for line in frame.lines:
                if line:
                    names.setdefault(line, f"l{len(names)}")
        yield "<defs>"
        for line, name in names.items():
            yield f'<g id="{name}">{line}</g>'
        yield "</defs>"
        for number, frame in enumerate(self.frames):
            last = " last" if number == len(self.frames) - 1 else ""
            uses = "".join(
                f'<use href="#{names[line]}" y="{(row + 2) * _LINE}"/>'
                for row, line in enumerate(frame.lines)
                if line
            )
            yield f'<g id="f{number}" class="frame{last}">{uses}</g>'


def _text(column: int, text: str, name: str) -> str:
    # Whatever font there is: a text takes its cells, and bars have no gaps.
    length = f'textLength="{cell_len(text) * _CELL}" lengthAdjust="spacingAndGlyphs"'
    classed = f' class="{name}"' if name else ""
    return f'<text x="{column * _CELL}" {length}{classed}>{escape(text)}</text>'
