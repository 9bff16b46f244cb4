"""Following a task's output: chunks, the store and the database told step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from dispatcher.logstore import LogStore
from dispatcher.store.reader import Reader
from flow.cli.follow import Follower, Heard
from flow.cli.invocation import Invocation
from flow.wire import Grant, LogChunk
from tests.database_world import DatabaseWorld, dag, task

ONE = dag("one", task("t", retries=1, retry_delay=0.0))
Steps = Iterator[Heard | None]


class Scene:
    """One task of one run, its store, and a clock that steps forward at every look."""

    def __init__(self, folder: Path) -> None:
        self.world = DatabaseWorld(f"sqlite:///{folder}/flow.db", ONE)
        self.world.hello("node1")
        self.reader = Reader(self.world.database)
        arguments = {"dag_id": "one", "run_id": "r", "conf": {}}
        at = self.world.now().wall
        self.reader.request("trigger", arguments, actor="user t", at=at)
        self.world.serve_requests()
        self.run = self.reader.find_run("one/r")
        self.store = LogStore(folder / "logs")
        self.time = 0.0

    def clock(self) -> float:
        self.time += 0.1
        return self.time

    def follower(self, try_number: int | None = None) -> Follower:
        return Follower(
            *(Invocation(), self.reader, self.store, self.run, "t", try_number), clock=self.clock
        )

    def stored(self, grant: Grant, offset: int, text: str) -> None:
        data = text.encode()
        self.store.write(self.run.pk, grant.task_instance_id, grant.try_number, offset, data)

    def quiet(self, seconds: float) -> Steps:
        """Nothing comes for a while."""
        end = self.time + seconds
        while self.time < end:
            yield None


def chunk(
    grant: Grant, offset: int, text: str, *, last: bool = False, agent: str = "node1"
) -> Heard:
    piece = LogChunk(
        task_instance_id=grant.task_instance_id,
        try_number=grant.try_number,
        token=grant.token,
        run_id="r",
        offset=offset,
        text=text,
        last=last,
    )
    return Heard(agent, piece)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def must_have_ended() -> None:
    pytest.fail("the follower wanted more")


def test_stored_and_live_output_make_each_byte_once(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")
    scene.stored(grant, 0, "eins\nzwölf")

    def steps() -> Steps:
        yield from scene.quiet(0.5)
        yield chunk(grant, 5, "zwölf\n")  # its first part is stored already
        yield chunk(grant, 12, "ende\n", last=True)
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    assert capsys.readouterr() == ("eins\nzwölf\nende\n", "flow: t: try 1 on node1\n")


def test_it_waits_for_the_start_and_says_why(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps() -> Steps:
        yield from scene.quiet(1.0)
        grant = scene.world.start("node1")
        yield chunk(grant, 0, "hi\n", last=True)  # before the database was asked again
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    out, err = capsys.readouterr()
    assert out == "hi\n"
    assert err == "flow: t: queued: waits to be claimed\nflow: t: try 1 on node1\n"


def test_it_goes_on_with_the_next_try(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    def steps() -> Steps:
        first = scene.world.start("node1")
        yield chunk(first, 0, "one\n", last=True)
        yield from scene.quiet(0.5)
        scene.world.finish("node1", first, "failed")
        yield from scene.quiet(0.5)
        scene.world.take(scene.world.core.tick(scene.world.now()))
        second = scene.world.start("node1")
        yield chunk(second, 0, "two\n", last=True)
        scene.world.finish("node1", second)
        yield from scene.quiet(1.5)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    first, between, second = err.splitlines()
    assert (first, second) == ("flow: t: try 1 on node1", "flow: t: try 2 on node1")
    assert between.startswith("flow: t: up_for_retry: ")


def test_a_try_that_was_asked_for_is_the_only_one(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    first = scene.world.start("node1")
    scene.stored(first, 0, "one\n")
    scene.world.finish("node1", first, "failed")
    scene.world.take(scene.world.core.tick(scene.world.now()))
    scene.stored(scene.world.start("node1"), 0, "two\n")

    def steps() -> Steps:
        yield from scene.quiet(4.0)
        must_have_ended()

    scene.follower(1).follow(steps(), live=True)
    assert capsys.readouterr().out == "one\n"


def test_a_gap_is_filled_from_the_store_as_soon_as_it_has_it(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")

    def steps() -> Steps:
        yield from scene.quiet(0.5)
        yield chunk(grant, 4, "two\n", last=True)
        assert capsys.readouterr().out == ""
        scene.stored(grant, 0, "one\n")
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    assert capsys.readouterr().out == "one\ntwo\n"


def test_a_gap_that_stays_is_told_and_left_behind(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")

    def steps() -> Steps:
        yield from scene.quiet(0.5)
        yield chunk(grant, 4, "two\n")
        yield from scene.quiet(3.5)
        yield chunk(grant, 8, "end\n", last=True)
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    out, err = capsys.readouterr()
    assert out == "two\nend\n"
    assert err.splitlines()[-1] == "flow: t: 4 bytes of its output are missing here"


def test_without_the_last_chunk_it_ends_a_little_after_the_task(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")

    def steps() -> Steps:
        yield chunk(grant, 0, "cut")
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        yield chunk(grant, 3, " off")
        yield from scene.quiet(3.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    assert capsys.readouterr().out == "cut off"


def test_chunks_of_another_run_are_not_its_own(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")

    def steps() -> Steps:
        yield from scene.quiet(0.5)
        other = chunk(grant, 0, "other\n").chunk
        yield Heard("node1", msgspec.structs.replace(other, task_instance_id=99))
        yield chunk(grant, 0, "own\n", last=True)
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    assert capsys.readouterr().out == "own\n"


def test_output_of_an_agent_that_does_not_run_the_try_is_not_believed(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps() -> Steps:
        grant = scene.world.start("node1")
        yield chunk(grant, 0, "evil\n", agent="node2")  # before it is known who runs it
        yield from scene.quiet(0.5)
        yield chunk(grant, 0, "evil\n", agent="node2", last=True)
        yield chunk(grant, 0, "good\n", last=True)
        scene.world.finish("node1", grant)
        yield from scene.quiet(1.0)
        must_have_ended()

    scene.follower().follow(steps(), live=True)
    assert capsys.readouterr().out == "good\n"


def test_without_the_broker_what_is_stored_is_followed(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    grant = scene.world.start("node1")

    def steps() -> Steps:
        scene.stored(grant, 0, "one\n")
        yield from scene.quiet(0.5)
        assert capsys.readouterr().out == "one\n"
        scene.stored(grant, 4, "two\n")
        scene.world.finish("node1", grant)
        yield from scene.quiet(4.0)
        must_have_ended()

    scene.follower().follow(steps(), live=False)
    assert capsys.readouterr().out == "two\n"


def test_a_task_that_will_never_start_ends_it(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.world.record(dag("two", task("a"), task("b", "a")))
    arguments = {"dag_id": "two", "run_id": "s", "conf": {}}
    scene.reader.request("trigger", arguments, actor="user t", at=scene.world.now().wall)
    scene.world.serve_requests()
    message = next(item for item in scene.world.published if item.dag_id == "two")
    grant = scene.world.start("node1", message)
    scene.world.finish("node1", grant, "failed")
    run = scene.reader.find_run("two/s")
    follower = Follower(
        *(Invocation(), scene.reader, scene.store, run, "b", None), clock=scene.clock
    )

    def steps() -> Steps:
        yield None
        must_have_ended()

    follower.follow(steps(), live=True)
    assert capsys.readouterr() == (
        "",
        "flow: b: upstream_failed: upstream task 'a' failed\n",
    )
