"""The pure parts of the benchmark: shapes, roles, figures, verdicts, tables and plots."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import pytest

from bench import graphs, plots, report
from bench.contender import Graph, RunTimes, Sample, TaskTimes, Work, fibo, stamp
from bench.counters import Reading, per_task
from bench.flow_contender import dag_file
from bench.processes import Process, by_role
from bench.registry import LIMITS, WORKLOADS, workloads
from bench.results import Results, Value, value_of, verdict
from bench.targets import FIGURES, Figure
from bench.turn import gaps, makespan, percentile
from flow.dagspec import TaskSpec
from tests.unit.authored import author

ROOT = Path(__file__).resolve().parents[2]


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*graphs.FIVE.values(), graphs.scattered])
def test_a_shape_has_as_many_tasks_as_asked_and_names_lower_numbers_only(
    shape: Callable[[int], graphs.Shape],
) -> None:
    made = shape(400)
    assert len(made) == 400
    assert all(before < task for task, upstream in enumerate(made) for before in upstream)
    assert shape(400) == made


def test_the_shapes_have_their_edges() -> None:
    assert graphs.line(3) == ((), (0,), (1,))
    assert graphs.star(3) == ((), (0,), (0,))
    assert graphs.binary_tree(6) == ((), (0,), (0,), (1,), (1,), (2,))
    assert graphs.grid(4) == ((), (0,), (0,), (1, 2))
    assert graphs.fan(2) == ((), (0,), (0,), (1, 2))


@pytest.mark.parametrize("work", [Work("shell"), Work("instant"), fibo(3), stamp(Path("/s"))])
def test_a_graph_is_a_dag_file_of_the_same_edges(work: Work) -> None:
    graph = Graph("w", graphs.fan(2), work)
    found = _tasks_of(dag_file(graph, 4))
    assert {task.task_id: task.upstream for task in found["w"]} == {
        "t0": (),
        "t1": ("t0",),
        "t2": ("t0",),
        "t3": ("t1", "t2"),
    }
    assert len(found.get("w_warm", ())) == (4 if work.kind == "python" else 0)


def test_the_first_instruction_of_a_stamp_is_told_its_run() -> None:
    (task,) = _tasks_of(dag_file(Graph("w", graphs.none(1), stamp(Path("/s"))), 1))["w"]
    assert task.arguments["command"] == "echo ${FLOW_RUN_ID} $EPOCHREALTIME >>/s"


def _tasks_of(text: str) -> dict[str, tuple[TaskSpec, ...]]:
    return {dag.dag_id: dag.tasks for dag in author(text)}


# -- times and costs -------------------------------------------------------------------------------


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7.0], 0.01) == 7
    with pytest.raises(ValueError, match="expected at least one value"):
        percentile([], 0.5)


def test_gaps_begin_with_the_last_end_upstream() -> None:
    times = (TaskTimes(0, 1.0, 2.0), TaskTimes(1, 2.5, 4.0), TaskTimes(2, 4.25, 5.0))
    run = RunTimes("g", "r", begun=0.5, ended=5.5, tasks=times)
    assert gaps(run, Graph("g", ((), (0,), (0, 1)), Work("shell"))) == [0.5, 0.25]
    assert makespan([run, RunTimes("g", "s", begun=1.0, ended=6.0)]) == 5.5


def test_a_process_belongs_to_its_nearest_root() -> None:
    def process(pid: int, parent: int) -> Process:
        return Process(pid, parent, 1.0, 2.0)

    tree = {pid: process(pid, parent) for pid, parent in ((1, 0), (2, 1), (3, 2), (4, 3), (9, 0))}
    found = by_role({"agent": [1], "keeper": [3], "gone": [77]}, tree)
    pids = {role: sorted(p.pid for p in processes) for role, processes in found.items()}
    assert pids == {"agent": [1, 2], "keeper": [3, 4], "gone": []}


def test_costs_are_differences_shared_among_tasks() -> None:
    before = Reading({"agent": 10.0}, {"received": 5}, 100, 1000, 0.0, 0.0, 0.0)
    after = Reading({"agent": 30.0}, {"received": 25}, 104, 5000, 100.0, 40.0, 0.1)
    cost = per_task(before, after, {"broker": 6}, 4)
    assert (cost["agent_cpu_ms"], cost["cpu_ms"]) == (5.0, 5.0)
    assert (cost["messages_received"], cost["commits"], cost["wal_bytes"]) == (5.0, 1.0, 1000.0)
    assert cost["broker_syncs"] == 1.5
    # Of 100 ms the tasks took 20 and the harness 40: somebody else had 40.
    assert cost["others_pct"] == pytest.approx(100 * 40 / (100 * (os.cpu_count() or 1)))


# -- figures and tables ----------------------------------------------------------------------------

LESS = Figure("W1", "true x 20", "makespan_s", "s", 0.2)
MORE = Figure("W5", "c", "rate_per_s", "tasks/s", 400, higher=True)


def test_every_figure_is_of_a_workload() -> None:
    assert {figure.workload for figure in FIGURES} == {workload.name for workload in WORKLOADS}
    assert [workload.name for workload in workloads(["W3", "W1"])] == ["W3", "W1"]


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_script_is_a_screenful(name: str) -> None:
    lines = (ROOT / "bench" / "limits" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 60


def test_a_verdict_says_by_how_much_a_target_is_missed_and_who_is_better() -> None:
    def value(middle: float, note: str = "") -> Value:
        return Value(middle, middle, middle, note, 5)

    assert verdict(LESS, value(0.2), {}) == "met"
    assert verdict(LESS, value(0.3), {"celery": value(0.4)}) == "**missed by 1.50 x**"
    assert verdict(LESS, value(0.1), {"celery": value(0.05)}) == "met, **worse than celery**"
    assert verdict(MORE, value(200), {"celery": value(300)}) == (
        "**missed by 2.00 x**, **worse than celery**"
    )
    # A smaller size says nothing about a time, but something about a rate.
    assert verdict(LESS, value(0.1), {"airflow": value(0.05, "20 tasks")}) == "met"
    assert verdict(MORE, value(500), {"airflow": value(600, "20 tasks")}) == (
        "met, **worse than airflow**"
    )
    assert verdict(LESS, None, {}) == "not measured"
    nothing = Figure("W8", "c", "missed", "missed", 0, worst=True)
    assert verdict(nothing, Value(0, 0, 3, "", 5), {}) == "**missed by 3**"


def test_a_pooled_figure_is_taken_over_the_values_of_all_rounds() -> None:
    figure = Figure("W6", "c", "p99_ms", "ms", 20, pooled=("latency_ms", 0.99))
    rounds = [
        Sample("W6", "c", "flow", n, {"p99_ms": 5.0}, {"latency_ms": values})
        for n, values in enumerate(([1.0] * 99, [1.0] * 99, [50.0, 60.0, 70.0]))
    ]
    found = value_of(figure, rounds)
    assert found is not None
    assert (found.middle, found.count) == (50.0, 3)


def written(folder: Path, *samples: Sample, **about: object) -> Results:
    told: Mapping[str, object] = {
        "machine": "2 cores",
        "services": "RabbitMQ",
        "slots": 4,
        "rounds": 5,
        "begun": "today",
        "quick": False,
        "syncs": "",
        "contenders": {"flow": "flow 1", "celery": "MISSING, so nothing is compared with it: x"},
        "refused": {"flow": {}},
        **about,
    }
    (folder / "about.json").write_text(json.dumps(told))
    lines = [json.dumps(asdict(sample)) + "\n" for sample in samples]
    (folder / "raw.jsonl").write_text("".join(lines))
    return Results.load(folder)


def chain(number: int, seconds: float, **more: float) -> Sample:
    metrics = {"makespan_s": seconds, **more}
    return Sample("W1", "true x 20", "flow", number, metrics)


def test_a_missing_peer_and_a_failure_are_said_in_the_table(tmp_path: Path) -> None:
    samples = [chain(n, 0.1 * (n + 1)) for n in range(3)]
    failed = Sample("W1", "-", "flow", 3, {}, note="ContenderFailed: no")
    results = written(tmp_path, *samples, failed)
    text = "\n".join(report.tables(results))
    row = "| true x 20 | s | 0.200 (0.100-0.300) [3 runs] | MISSING | not run | <= 0.2 | met |"
    assert row in text
    assert "- celery: MISSING, so nothing is compared with it: x" in text
    assert "- flow W1, round 4: ContenderFailed: no" in text


def test_a_limit_is_shown_with_the_distance_to_it(tmp_path: Path) -> None:
    limit = Sample("limit", "pingpong", "limit", 0, {"hop_commit_spawn_ms": 5.0})
    text = "\n".join(report.tables(written(tmp_path, chain(0, 0.3), limit)))
    assert "| 0.100 (3.0 x) | <= 0.2 | **missed by 1.50 x** |" in text


@pytest.mark.parametrize(("others", "said"), [(2.0, "Meanwhile"), (60.0, "**Not to be quoted:")])
def test_a_busy_machine_is_said(tmp_path: Path, others: float, said: str) -> None:
    text = "\n".join(report.tables(written(tmp_path, chain(0, 0.3, others_pct=others))))
    assert f"{said} others used {others:.0f} % of the machine" in text


def test_tables_are_put_between_the_markers_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.put(page, "new")
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="expected the lines"):
        report.put(page, "new")


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    series = {"tasks": [1000.0, 2000.0], "event_us": [30.0, 31.0]}
    core = Sample("W9", "grid of 20,000 tasks", "flow", 0, {"event_us": 31.0}, series)
    results = written(tmp_path, core)
    drawn = plots.growth(results)
    assert drawn is not None
    assert drawn.count("<polyline") == 1
    assert ">grid<" in drawn
    assert plots.latencies(results) is None


def test_ticks_are_round() -> None:
    assert plots.Axis("", 0, 47).ticks() == [0, 10, 20, 30, 40]
    assert plots.Axis("", 3, 2000, logarithmic=True).ticks() == [10, 100, 1000]
    assert math.isclose(plots.Axis("", 10, 1000, logarithmic=True).share(100), 0.5)
