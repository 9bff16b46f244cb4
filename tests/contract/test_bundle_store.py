"""What is kept of bundles, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.core.records import InsertRun
from dispatcher.store import Store, bundles, migrate, models, open_database
from flow.bundle import PIECE_BYTES, digest_of
from flow.errors import EpochLost, GuardFailed
from tests.contract.store_fixtures import START, at, rows_of, run_row, spec, task_row


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty, migrated store."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/flow.db" if sqlite else request.getfixturevalue("postgres_url")
    opened = Store(open_database(url))
    migrate(opened.database)
    yield opened
    opened.close()


def keep(store: Store, *contents: bytes) -> list[str]:
    store.store_blobs({digest_of(content): content for content in contents})
    return [digest_of(content) for content in contents]


def bundle_of(store: Store, *contents: bytes) -> str:
    """A bundle of files with these contents; its manifest here is a text of its own."""
    manifest = b"manifest of " + b",".join(contents)
    (bundle,) = keep(store, manifest)
    store.store_bundle(bundle, keep(store, *contents), START)
    return bundle


# -- contents ----------------------------------------------------------------------------------


def test_content_is_read_back_piece_by_piece(store: Store) -> None:
    large = bytes(range(256)) * 2048 + b"the rest"
    contents = (b"", b"\x00small\xff", large)
    nothing, small, big = keep(store, *contents)
    wanted = {(nothing, 0), (small, 0), *((big, number) for number in range(3))}
    found = store.read_pieces(wanted)
    assert found.keys() == wanted
    assert found[nothing, 0] == (0, b"")
    assert found[small, 0] == (7, b"\x00small\xff")
    assert [len(found[big, number][1]) for number in range(3)] == [PIECE_BYTES, PIECE_BYTES, 8]
    assert b"".join(found[big, number][1] for number in range(3)) == large
    assert {size for size, _ in (found[big, number] for number in range(3))} == {len(large)}


def test_what_is_not_stored_is_left_out(store: Store) -> None:
    (known,) = keep(store, b"known")
    unknown = digest_of(b"unknown")
    assert store.read_pieces([(known, 0), (known, 1), (unknown, 0)]).keys() == {(known, 0)}
    assert store.lacking([known, unknown]) == {unknown}
    assert store.read_pieces([]) == {}


def test_content_whose_storing_was_cut_short_counts_as_lacking_and_is_completed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * (8 * PIECE_BYTES)
    digest = digest_of(content)
    portions = bundles._portions

    def only_the_first(pieces: Iterator[tuple[str, int, bytes]]) -> object:
        yield next(portions(pieces))
        raise KeyboardInterrupt

    monkeypatch.setattr(bundles, "_portions", only_the_first)
    with pytest.raises(KeyboardInterrupt):
        keep(store, content)
    assert len(rows_of(models.BlobPiece, store.database)) == 4
    assert store.lacking([digest]) == {digest}
    assert store.read_pieces([(digest, 0)]) == {}
    monkeypatch.undo()
    keep(store, content)
    keep(store, content)
    assert store.lacking([digest]) == set()
    assert len(rows_of(models.BlobPiece, store.database)) == 8


def test_many_small_files_are_stored_at_once(store: Store) -> None:
    digests = keep(store, *(str(number).encode() for number in range(1200)))
    assert store.lacking(digests) == set()
    assert len(store.read_pieces((digest, 0) for digest in digests)) == 1200


# -- bundles -----------------------------------------------------------------------------------


def test_a_bundle_whose_content_is_not_there_is_refused(store: Store) -> None:
    (manifest,) = keep(store, b"manifest")
    with pytest.raises(GuardFailed):
        store.store_bundle(manifest, [digest_of(b"missing")], START)
    assert rows_of(models.Bundle, store.database) == []
    store.store_bundle(manifest, keep(store, b"missing"), START)
    store.store_bundle(manifest, keep(store, b"missing"), at(1))
    (row,) = rows_of(models.Bundle, store.database)
    assert (row["id"], row["created_at"]) == (manifest, START)


def test_dags_and_their_runs_carry_the_bundle_they_were_recorded_with(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    first, second = bundle_of(store, b"1"), bundle_of(store, b"2")
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "source", START, bundle=first)
    assert (dag.bundle, store.load().dags[0].bundle) == (first, first)
    run = run_row(1, dag.version_id, bundle=dag.bundle)
    store.commit(epoch, [InsertRun(run=run, tasks=(task_row(1, 1),))])
    assert store.record_dags(epoch, "etl.py", [spec()], "source", at(1), bundle=first) == []
    [same] = store.record_dags(epoch, "etl.py", [spec()], "source", at(2), bundle=second)
    assert (same.version_id, same.bundle) == (dag.version_id, second)
    assert [run.bundle for run in store.load().runs] == [first]
    assert len(rows_of(models.DagVersion, store.database)) == 1


def test_a_file_keeps_its_bundle_while_it_cannot_be_read(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    first = bundle_of(store, b"1")
    store.record_dags(epoch, "etl.py", [spec()], "source", START, bundle=first)
    store.record_error(epoch, "etl.py", "broken", at(1))
    assert store.load().dags[0].bundle == first


def test_unchanged_files_move_to_another_bundle_together(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    first, second = bundle_of(store, b"1"), bundle_of(store, b"2")
    for name in ("a", "b", "c"):
        file = f"{name}.py"
        store.record_dags(epoch, file, [spec(name, file=file)], "", START, bundle=first)
    moved = store.use_bundle(epoch, second, ["a.py", "b.py", "none.py"], at(1))
    assert sorted((row.dag_id, row.bundle) for row in moved) == [("a", second), ("b", second)]
    assert store.use_bundle(epoch, second, ["a.py"], at(2)) == []
    assert [row.bundle for row in store.load().dags] == [second, second, first]
    store.begin_reign("two", at(3))
    with pytest.raises(EpochLost):
        store.use_bundle(epoch, first, ["a.py"], at(4))


# -- pruning -----------------------------------------------------------------------------------


def test_only_what_no_dag_and_no_run_has_is_removed(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    of_run, of_dag, of_nobody = (bundle_of(store, b"both", text) for text in (b"1", b"2", b"3"))
    [dag] = store.record_dags(epoch, "etl.py", [spec()], "", START, bundle=of_run)
    run = run_row(1, dag.version_id, bundle=of_run)
    store.commit(epoch, [InsertRun(run=run, tasks=())])
    store.use_bundle(epoch, of_dag, ["etl.py"], at(1))
    assert store.unused_bundles() == {of_nobody}
    assert store.prune_bundles([of_run, of_dag, of_nobody]) == 2
    assert {row["id"] for row in rows_of(models.Bundle, store.database)} == {of_run, of_dag}
    gone = digest_of(b"3")
    assert store.lacking([gone, of_nobody, digest_of(b"both"), digest_of(b"1"), of_run]) == {
        gone,
        of_nobody,
    }
    assert store.prune_bundles([]) == 0
    assert store.unused_bundles() == set()


def test_nothing_is_unused_where_nothing_has_a_bundle(store: Store) -> None:
    epoch = store.begin_reign("one", START)
    store.record_dags(epoch, "etl.py", [spec()], "", START)
    bundle = bundle_of(store, b"1")
    assert store.unused_bundles() == {bundle}
    assert store.prune_bundles([bundle]) == 2
    assert rows_of(models.BlobPiece, store.database) == []
