from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flow.authoring.graph import find_cycle
from flow.errors import DagError
from tests.unit.authored import author, upstream

EDGES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14)


def has_cycle(edges: list[tuple[int, int]]) -> bool:
    """By brute force: reachability, closed step by step."""
    reach = set(edges)
    while True:
        more = {(a, d) for a, b in reach for c, d in reach if b == c} - reach
        if not more:
            return any(a == b for a, b in reach)
        reach |= more


@given(EDGES)
def test_a_cycle_is_found_exactly_when_there_is_one_and_its_path_is_real(
    edges: list[tuple[int, int]],
) -> None:
    graph = {str(n): [str(b) for a, b in edges if a == n] for n in range(7)}
    path = find_cycle(graph)
    assert bool(path) == has_cycle(edges)
    if path:
        assert path[0] == path[-1]
        assert all(after in graph[before] for before, after in pairwise(path))


def test_a_very_long_chain_is_no_problem() -> None:
    graph = {str(n): [str(n + 1)] for n in range(20_000)}
    assert find_cycle({**graph, "20000": []}) == ()
    assert len(find_cycle({**graph, "20000": ["0"]})) == 20_002


@given(EDGES)
def test_drawn_arrows_come_out_as_upstream_or_as_a_cycle(edges: list[tuple[int, int]]) -> None:
    lines = "".join(f" t[{a}] >> t[{b}]\n" for a, b in edges)
    text = (
        "with DAG('d'):\n"
        " t = [BashOperator(task_id=str(n), bash_command='true') for n in range(7)]\n" + lines
    )
    try:
        (dag,) = author(text)
    except DagError:
        assert has_cycle(edges)
    else:
        assert not has_cycle(edges)
        found = {(int(up), int(task.task_id)) for task in dag.tasks for up in task.upstream}
        assert found == set(edges)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_chain_draws_what_arrows_draw(widths: list[int]) -> None:
    """A list between two tasks is the same in chain and with >>."""
    names = iter("abcdef")
    steps: list[str] = []
    for width in widths:
        taken = [name for _, name in zip(range(width), names, strict=False)]
        if not taken:
            break
        steps.append(taken[0] if len(steps) % 2 == 0 else f"[{', '.join(taken)}]")
    assert upstream(f"chain({', '.join(steps)})") == upstream(" >> ".join(steps))
