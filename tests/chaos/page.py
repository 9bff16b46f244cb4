"""``python -m tests.chaos.page FILE``: the figures of a run (``--json FILE``) into
docs/reliability.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.faults import SCENARIOS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN = "<!-- figures: written by `python -m tests.chaos.page` -->"
END = "<!-- end of figures -->"
_HEAD = """\
| scenario | fault: what is expected | recovered in | bound | tasks | starts | lost | twice |
|---|---|---|---|---|---|---|---|"""


def table(reports: Iterable[Mapping[str, Any]]) -> str:
    """The reports of ``--json`` as a Markdown table."""
    return "\n".join([_HEAD, *(_row(report) for report in reports)])


def placed(page: str, content: str) -> str:
    """*page* with *content* between the two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN!r} and {END!r} in the page")
    return f"{before}{begin}\n{content}\n{end}{after}"


def listed(page: str) -> list[str]:
    """The scenarios that the table on *page* has."""
    content = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line for line in content.splitlines() if line.startswith("| `")]
    return [row.split("`")[1] for row in rows]


def _row(report: Mapping[str, Any]) -> str:
    outcome = "" if report["ok"] else "**failed**: "
    cells = (
        f"`{report['name']}`",
        f"{outcome}{report['fault']}: {report['expected']}",
        _seconds(report["recovery"], ".1f"),
        _seconds(report["bound"], "g"),
        *(report[name] for name in ("tasks", "starts", "lost", "twice")),
    )
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _seconds(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}} s"


def main(arguments: Sequence[str]) -> int:
    """Put the figures into the page."""
    order = [scenario.name for scenario in SCENARIOS]
    reports: list[dict[str, Any]] = json.loads(Path(arguments[0]).read_text())
    reports.sort(key=lambda report: order.index(report["name"]))
    scales = {report["scale"] for report in reports}
    tasks, starts = (sum(report[name] for report in reports) for name in ("tasks", "starts"))
    lost, twice = (sum(report[name] for report in reports) for name in ("lost", "twice"))
    kept = sum(report["ok"] for report in reports)
    told = (
        f"A {' and '.join(sorted(scales))} run, {len(reports)} faults, {kept} as expected: "
        f"{tasks} tasks, {starts} starts in the ledger, which those of the clocks do not keep; "
        f"**lost {lost}, twice {twice}**."
    )
    PAGE.write_text(placed(PAGE.read_text(), f"\n{told}\n\n{table(reports)}\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
