"""From the DAG folder to the store: each version of a DAG with the files it was read from."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dispatcher.bundler import Bundler, Limits
from dispatcher.bundling import WHOLE_FOLDER, Bundling
from dispatcher.core.records import DagRow
from dispatcher.dagintake import DagIntake
from dispatcher.processor import Processor
from dispatcher.store import Store, migrate, models, open_database
from flow.bundle import digest_of, read_manifest
from tests.contract.store_fixtures import rows_of
from tests.waiting import eventually

LIMITS = Limits(file=10**6, bundle=10**6)
DAG = """
from flow import DAG, BashOperator
import {helper}
with DAG({dag_id!r}):
    BashOperator(task_id="t", bash_command="echo " + str({helper}.VALUE))
"""


class NoPublisher:
    async def declare(self, queues: set[str]) -> None:
        assert queues <= {"default"}


class Watched:
    """A folder that is processed into a store of its own."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.epoch = store.begin_reign("test", datetime.now(UTC))
        self.seen: list[DagRow] = []
        self.bundler = Bundler(folder, LIMITS)
        self.bundling = Bundling(
            self.bundler,
            store=store,
            on_thread=self.call,
            on_writer=self.call,
            epoch=self.epoch,
            wall=lambda: datetime.now(UTC),
        )

    async def call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return method(*arguments, **named)

    def changed(self, rows: Sequence[DagRow]) -> None:
        self.seen += rows

    def helper(self, value: int, name: str = "helper") -> None:
        new = self.folder / f".{name}.new"
        new.write_text(f"VALUE = {value}\n")
        new.replace(self.folder / f"{name}.py")

    def dag(self, dag_id: str) -> DagRow | None:
        return next((row for row in self.store.load().dags if row.dag_id == dag_id), None)

    def command(self, row: DagRow | None) -> str:
        return str(row.spec.tasks[0].arguments["command"]) if row else ""

    def shipped(self, row: DagRow | None, path: str) -> str | None:
        """A file as the runs of this row would have it."""
        if row is None or row.bundle is None:
            return None
        [(_, manifest)] = self.store.read_pieces([(row.bundle, 0)]).values()
        for file in read_manifest(manifest).files:
            if file.path == path:
                [(_, data)] = self.store.read_pieces([(file.digest, 0)]).values()
                return data.decode()
        return None

    def errors(self) -> dict[str, str]:
        rows = rows_of(models.DagImportError, self.store.database)
        return {row["file"]: row["message"] for row in rows}


@asynccontextmanager
async def processing(watched: Watched) -> AsyncIterator[Watched]:
    processor = Processor(
        watched.folder, list_interval=0.05, bundle=watched.bundling.current, retry_interval=0.3
    )
    intake = DagIntake(
        store=watched.store,
        on_writer=watched.call,
        epoch=watched.epoch,
        publisher=NoPublisher(),  # type: ignore[arg-type]  # all that is used of it
        changed=watched.changed,
        wall=lambda: datetime.now(UTC),
    )
    running = asyncio.create_task(processor.run(intake.take))
    try:
        yield watched
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    store = Store(open_database(f"sqlite:///{tmp_path}/flow.db"))
    migrate(store.database)
    folder = tmp_path / "dags"
    folder.mkdir()
    return Watched(folder, store)


async def test_an_edit_of_a_helper_alone_makes_a_bundle_for_the_next_runs(watched: Watched) -> None:
    (watched.folder / "a.py").write_text(DAG.format(dag_id="a", helper="helper"))
    (watched.folder / "q.sql").write_text("select 1")
    watched.helper(1)
    async with processing(watched):
        await eventually(lambda: watched.command(watched.dag("a")) == "echo 1")
        before = watched.dag("a")
        assert watched.shipped(before, "helper.py") == "VALUE = 1\n"
        (watched.folder / "q.sql").write_text("select 2")
        await eventually(lambda: watched.shipped(watched.dag("a"), "q.sql") == "select 2")
        after = watched.dag("a")
        assert before is not None
        assert after is not None
        assert (before.version_id, before.bundle) != (after.version_id, after.bundle)
        assert before.version_id == after.version_id
        assert watched.seen[-1].bundle == after.bundle
        assert watched.shipped(before, "q.sql") == "select 1"
        (watched.folder / "q.sql").write_text("select 1")
        await eventually(lambda: watched.dag("a") == before)


async def test_a_broken_file_keeps_its_bundle_while_others_move(watched: Watched) -> None:
    for name in ("a", "b"):
        text = DAG.format(dag_id=name, helper=f"helper_{name}")
        (watched.folder / f"{name}.py").write_text(text)
        watched.helper(1, f"helper_{name}")
    async with processing(watched):
        await eventually(lambda: watched.dag("a") is not None and watched.dag("b") is not None)
        old = watched.dag("a")
        (watched.folder / "helper_a.py").write_text("syntax error")
        await eventually(lambda: "a.py" in watched.errors())
        await eventually(lambda: watched.shipped(watched.dag("b"), "helper_a.py") == "syntax error")
        assert watched.dag("a") == old
        assert watched.shipped(watched.dag("a"), "helper_a.py") == "VALUE = 1\n"
        watched.helper(2, "helper_a")
        await eventually(lambda: watched.command(watched.dag("a")) == "echo 2")
        assert watched.shipped(watched.dag("a"), "helper_a.py") == "VALUE = 2\n"


async def test_good_files_are_held_back_and_none_is_retired_while_nothing_can_be_shipped(
    watched: Watched,
) -> None:
    (watched.folder / "a.py").write_text(DAG.format(dag_id="a", helper="helper"))
    watched.helper(1)
    async with processing(watched):
        await eventually(lambda: watched.dag("a") is not None)
    old = watched.dag("a")
    (watched.folder / "out").symlink_to("/etc")
    watched.helper(2)
    (watched.folder / "bad.py").write_text("from flow import DAG\n1/0\n")
    again = Watched(watched.folder, watched.store)
    async with processing(again):
        # Errors of files do not wait for a bundle.
        await eventually(lambda: set(again.errors()) == {WHOLE_FOLDER, "bad.py"})
        assert again.dag("a") == old
        (watched.folder / "bad.py").unlink()
        (watched.folder / "out").unlink()
        await eventually(lambda: again.command(again.dag("a")) == "echo 2")
        await eventually(lambda: again.errors() == {})


async def test_dags_behind_a_link_that_leads_out_stay_as_they_are(watched: Watched) -> None:
    for name in ("a.py", "team/b.py"):
        path = watched.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"from flow import DAG\nDAG({path.stem!r})\n")
    async with processing(watched):
        await eventually(lambda: len(watched.store.load().dags) == 2)
    before = watched.store.load().dags
    (watched.folder / "team").rename(watched.folder.parent / "team")
    (watched.folder / "team").symlink_to(watched.folder.parent / "team")
    (watched.folder / "c.py").write_text("from flow import DAG\n1/0\n")
    again = Watched(watched.folder, watched.store)
    async with processing(again):
        await eventually(lambda: set(again.errors()) == {WHOLE_FOLDER, "c.py"})
        assert watched.store.load().dags == before
        (watched.folder / "team").unlink()
        await eventually(lambda: [row.dag_id for row in watched.store.load().dags] == ["a"])


async def test_ignored_files_are_no_dag_files(watched: Watched) -> None:
    (watched.folder / "a.py").write_text(DAG.format(dag_id="a", helper="helper"))
    (watched.folder / "b.py").write_text(DAG.format(dag_id="b", helper="helper"))
    watched.helper(1)
    async with processing(watched):
        await eventually(lambda: len(watched.store.load().dags) == 2)
        (watched.folder / ".flowignore").write_text("b.py\n")
        await eventually(lambda: [row.dag_id for row in watched.store.load().dags] == ["a"])
        await eventually(lambda: watched.shipped(watched.dag("a"), "b.py") is None)


async def test_every_version_comes_with_the_files_it_was_read_from(watched: Watched) -> None:
    (watched.folder / "a.py").write_text(DAG.format(dag_id="a", helper="helper"))
    watched.helper(0)
    async with processing(watched):
        await eventually(lambda: watched.dag("a") is not None)
        for value in range(1, 91):
            watched.helper(value)
            # Bursts, within which hardly any parse is steady, and pauses, before which some are.
            await asyncio.sleep(0.3 if value % 10 == 0 else 0.013)
        await eventually(lambda: watched.command(watched.dag("a")) == "echo 90")
        await eventually(lambda: watched.shipped(watched.dag("a"), "helper.py") == "VALUE = 90\n")
    assert len(watched.seen) >= 2
    for row in watched.seen:
        read = watched.command(row).removeprefix("echo ")
        assert watched.shipped(row, "helper.py") == f"VALUE = {read}\n"


async def test_a_folder_that_never_rests_is_shown_after_a_while(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = watched.folder / "log"
    log.write_text("")
    real = Bundler._hash_file

    def grow(self: Bundler, path: str, at: Any) -> object:
        hashed = real(self, path, at)
        with log.open("a") as file:
            file.write("line\n")
        return hashed

    monkeypatch.setattr(Bundler, "_hash_file", grow)
    assert [await watched.bundling.current() for _ in range(2)] == [None, None]
    assert watched.errors() == {}
    assert await watched.bundling.current() is None
    assert "expected files at rest" in watched.errors()[WHOLE_FOLDER]
    monkeypatch.undo()
    assert await watched.bundling.current() is not None
    assert watched.errors() == {}


async def test_a_folder_that_is_not_there_is_the_processors_business(watched: Watched) -> None:
    shutil.rmtree(watched.folder)
    assert await watched.bundling.current() is None
    assert watched.errors() == {}


async def test_bundles_go_at_the_second_look_that_finds_them_unused(watched: Watched) -> None:
    (watched.folder / "f").write_text("1")
    first = await watched.bundling.current()
    (watched.folder / "f").write_text("2")
    second = await watched.bundling.current()
    assert first is not None
    assert second is not None
    unused = await watched.bundling.prune(set())
    assert unused == {first.id, second.id}
    unused = await watched.bundling.prune(unused)
    # What is current stays: DAGs may be about to take it.
    assert {row["id"] for row in rows_of(models.Bundle, watched.store.database)} == {second.id}
    assert watched.store.lacking([digest_of(b"1"), digest_of(b"2")]) == {digest_of(b"1")}
