"""Tables from the raw data of a run: ``python -m bench.report FOLDER [--docs FILE]``.

Prints one table per workload; with ``--docs`` it also puts them between the markers of a page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.registry import WORKLOADS, Workload
from bench.results import Results, Value, value_of, verdict
from bench.targets import COSTS, FIGURES, OTHER, Figure

BEGIN, END = "<!-- begin: python -m bench.report -->", "<!-- end -->"
#: Percent of the machine that others may use before times are worth little.
_QUIET = 5.0
#: Many small tasks: what sizing goes by, the first of them that was measured.
_TYPICAL = (("W5", "100 DAGs x 10 runs x 10 tasks"), ("W3", "none, true"))
#: Fewer than these are said in the table.
_RUNS = 5
_COST_CASES = {"W1", "W3", "W4", "W5", "W6"}


def tables(results: Results) -> Iterator[str]:
    """Markdown: what was run, a table per workload, costs, limits, what failed."""
    yield _about(results)
    limits = results.limits()
    for workload in WORKLOADS:
        figures = [figure for figure in FIGURES if figure.workload == workload.name]
        rows = [row for figure in figures if (row := _row(figure, results, limits)) is not None]
        if rows or any(key[0] == workload.name for key in results.failed):
            table = _table(_heads(results), rows)
            head = f"### {workload.name}: {workload.title}\n"
            yield "\n".join([head, table, *_out(workload, results)])
    costs = list(_costs(results))
    if costs:
        heads = ["", "case", *(head for _, head, _ in COSTS)]
        yield "### What a task costs\n\n" + _table(heads, costs)
    sizing = _sizing(results)
    if sizing:
        yield "### Sizing\n\n" + sizing
    if limits:
        rows = [[f"`{name}`", f"{value:,.2f}"] for name, value in sorted(limits.items())]
        yield "### The machine's limits\n\n" + _table(["limit", "median"], rows)
    if results.failed:
        yield "### What failed\n\n" + "\n".join(_failures(results))


def _about(results: Results) -> str:
    about = results.about
    when = f"{about['rounds']} rounds, begun {about['begun']}, {about.get('minutes', '?')} minutes"
    lines = [f"{about['machine']}. {about['services']}. {about['slots']} slots. {when}."]
    if about["quick"]:
        lines.append("**Quick: sizes that only show whether everything works.**")
    if about["syncs"]:
        lines.append(f"**Syncs were not counted: {about['syncs']}.**")
    others = [s.metrics["others_pct"] for s in results.all() if "others_pct" in s.metrics]
    if others:
        used = f"others used {median(others):.0f} % of the machine (median of all samples)"
        quiet = median(others) <= _QUIET
        lines.append(f"Meanwhile {used}." if quiet else f"**Not to be quoted: {used}.**")
    for name, what in about["contenders"].items():
        lines.append(f"- {name}: {what}")
    return "\n".join(lines)


def _out(workload: Workload, results: Results) -> list[str]:
    """Why who is not in the table of *workload* is not."""
    lines = [
        f"{name} does not take part: {reason}."
        for name, reasons in results.about["refused"].items()
        if (reason := reasons.get(workload.name))
    ]
    return [f"\n{line}" for line in lines]


def _heads(results: Results) -> list[str]:
    return ["case", "", *results.contenders, "limit", "target", "verdict"]


def _row(figure: Figure, results: Results, limits: Mapping[str, float]) -> list[str] | None:
    """None where nobody has a value."""
    values = {
        name: value_of(figure, results.of(figure.workload, figure.case, name))
        for name in results.contenders
    }
    there = {name: value for name, value in values.items() if value is not None}
    if not there:
        return None
    first = results.contenders[0]
    own = there.pop(first, None)
    cells = [_cell(figure, value, results, name) for name, value in values.items()]
    target = "" if figure.target is None else f"{'>=' if figure.higher else '<='} {figure.target:g}"
    bare = _limit(figure, limits, own)
    return [figure.case, figure.unit, *cells, bare, target, verdict(figure, own, there)]


def _cell(figure: Figure, value: Value | None, results: Results, name: str) -> str:
    if value is None:
        failed = results.failed.get((figure.workload, name))
        if failed:
            return "FAILED"
        missing = str(results.about["contenders"][name]).startswith("MISSING")
        return "MISSING" if missing else "-"
    shown = f"{value.middle:,.{figure.digits}f}"
    spread = f" ({value.least:,.{figure.digits}f}-{value.most:,.{figure.digits}f})"
    told = [value.note] if value.note else []
    if value.count < _RUNS:
        told.append(f"{value.count} run" + ("s" if value.count > 1 else ""))
    return shown + spread + (f" [{', '.join(told)}]" if told else "")


def _limit(figure: Figure, limits: Mapping[str, float], own: Value | None) -> str:
    """The bare machine's figure, and how far flow is from it."""
    if figure.limit is None:
        return ""
    try:
        bare = figure.limit(limits)
    except KeyError:
        return "not run"
    shown = f"{bare:,.{figure.digits}f}"
    if own is None:
        return shown
    ratio = bare / own.middle if figure.higher else own.middle / bare
    return f"{shown} ({ratio:.1f} x)"


def _costs(results: Results) -> Iterator[list[str]]:
    for (workload, case, contender), samples in results.samples.items():
        if workload not in _COST_CASES:
            continue
        row = [contender, f"{workload} {case}"]
        for metric, _, digits in COSTS:
            costs = [_with_other(sample.metrics) for sample in samples]
            values = [cost[metric] for cost in costs if metric in cost]
            row.append(f"{median(values):,.{digits}f}" if values else "")
        yield row


def _with_other(metrics: Mapping[str, float]) -> dict[str, float]:
    shown = {metric for metric, _, _ in COSTS}
    roles = (name for name in metrics if name.endswith("_cpu_ms") and name not in shown)
    return {**metrics, OTHER: sum(metrics[role] for role in roles)}


def _sizing(results: Results) -> str:
    """What a core carries, by what a task of many small ones costs; empty if that was not
    measured."""
    for workload, case in _TYPICAL:
        samples = results.of(workload, case, results.contenders[0])
        if samples:
            break
    else:
        return ""

    def cost(*roles: str) -> float:
        return sum(median(s.metrics[f"{role}_cpu_ms"] for s in samples) for role in roles)

    control, node = cost("broker", "database", "dispatcher"), cost("agent", "keeper")
    alone, own = cost("dispatcher"), cost("task")
    return (
        f"By {workload} ({case}) a task costs the machines of broker, database and dispatcher "
        f"{control:.1f} ms of CPU together (the dispatcher {alone:.1f}, which is one process: at "
        f"most {1000 / alone:,.0f} tasks/s), and its node {node:.1f} ms beside its own work "
        f"({own:.1f} ms for a `bash -c true`). With half of each core to spare: one core of "
        f"control for every {500 / control:,.0f} tasks/s, and one core of nodes for every "
        f"{500 / (node + own):,.0f} such tasks per second."
    )


def _failures(results: Results) -> Iterator[str]:
    for (workload, contender), samples in results.failed.items():
        rounds = ", ".join(str(sample.round + 1) for sample in samples)
        yield f"- {contender} {workload}, round {rounds}: {samples[0].note}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put(page: Path, text: str) -> None:
    """Replace what is between the markers of *page*. Raises ValueError where they are missing."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: expected the lines {BEGIN!r} and {END!r}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(arguments: Sequence[str]) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.report")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path, help="a page with markers")
    given = parser.parse_args(arguments)
    text = "\n\n".join(tables(Results.load(given.folder)))
    print(text)
    if given.docs is not None:
        put(given.docs, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
