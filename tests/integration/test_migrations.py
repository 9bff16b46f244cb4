"""Migrating: from nothing, twice, by several at once, from the installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from peewee import Database, SqliteDatabase
from playhouse.migrations import Runner  # type: ignore[import-untyped]  # peewee-stubs lack it
from playhouse.schema_diff import diff_models  # type: ignore[import-untyped]

import dispatcher.store.schema
from dispatcher.store import Store, check_schema, migrate, open_database
from dispatcher.store.models import TABLES
from flow.errors import SchemaError, StoreError
from tests.contract.store_fixtures import START, reign_with_run

ROOT = Path(__file__).resolve().parent.parent.parent
ALL = ["0001_initial", "0002_nodes"]
LATEST = ALL[-1]

_MIGRATE_WHEN_TOLD = """
import sys
from dispatcher.store import check_schema, migrate, open_database
database = open_database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(",".join(migrate(database)))
check_schema(database)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing is yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/flow.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """It, opened."""
    opened = open_database(url)
    yield opened
    opened.close()


def test_migrating_from_nothing_makes_a_store_that_works(database: Database) -> None:
    assert migrate(database) == ALL
    check_schema(database)
    assert reign_with_run(Store(database)) == 1


def test_a_second_migration_finds_nothing_to_do(database: Database) -> None:
    migrate(database)
    reign_with_run(Store(database))
    before = Store(database).load()
    assert migrate(database) == []
    assert Store(database).load() == before


def test_agents_of_the_first_release_are_kept_with_nothing_known_of_their_nodes(
    database: Database,
) -> None:
    if isinstance(database, SqliteDatabase):
        Path(database.database).parent.mkdir()
    with database.connection_context():
        Runner(database, str(dispatcher.store.schema.MIGRATIONS)).up(ALL[0])
        database.execute_sql(  # type: ignore[no-untyped-call]
            "INSERT INTO agent (name, session, state, home_id, boot_id, incarnation, queues, slots,"
            " lease, software, suspended) VALUES ('node1', 3, 'online', 'h', 'b', 'i', '[\"q1\"]',"
            " 4, 60.0, 'flow 0.1', '')"
        )
    assert migrate(database) == ALL[1:]
    [kept] = Store(database).load().agents
    assert (kept.name, kept.session, kept.queues, kept.slots) == ("node1", 3, ("q1",), 4)
    assert (kept.gpus, kept.gpu_share, kept.limits, kept.drained) == ((), 1, False, "")
    assert (kept.wanted_queues, kept.wanted_slots, kept.charged) == (None, None, ())


def test_several_processes_may_migrate_at_once(url: str) -> None:
    command = [sys.executable, "-c", _MIGRATE_WHEN_TOLD, url]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        outputs.append(output)
    assert sorted(outputs) == ["\n", "\n", "\n", f"{','.join(ALL)}\n"]


def test_the_models_are_what_the_migrations_make(database: Database) -> None:
    migrate(database)
    with database.connection_context():
        difference = diff_models(database, TABLES)
        assert not difference, str(difference)
        for table in TABLES:
            name, fields = table._meta.table_name, table._meta.columns
            columns = {column.name: column for column in database.get_columns(name)}
            assert {key: column.null for key, column in columns.items()} == {
                key: field.null for key, field in fields.items()
            }
            assert [key for key, column in columns.items() if column.primary_key] == [
                key for key, field in fields.items() if field.primary_key
            ]
            types = {
                key: field.ddl_datatype(database.get_sql_context()).sql
                for key, field in fields.items()
            }
            assert {key: _plain(column.data_type) for key, column in columns.items()} == {
                key: _plain(kind) for key, kind in types.items()
            }


def _plain(kind: str) -> str:
    """Postgres' own name of a type."""
    names = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE", "BIGSERIAL": "BIGINT"}
    return names.get(kind.upper(), kind.upper())


def test_every_table_has_a_model(database: Database) -> None:
    migrate(database)
    with database.connection_context():
        made = set(database.get_tables()) - {"schema_migration", "sqlite_sequence"}
    assert made == {table._meta.table_name for table in TABLES}


def test_a_database_that_was_never_migrated_is_refused_with_the_remedy(
    database: Database,
) -> None:
    with pytest.raises(SchemaError, match=r"run `flow db migrate`$"):
        check_schema(database)


def test_checking_creates_no_file(tmp_path: Path) -> None:
    path = tmp_path / "flow.db"
    with pytest.raises(SchemaError) as caught:
        check_schema(open_database(f"sqlite:///{path}"))
    assert str(caught.value) == f"database {path}: expected a file, got none; run `flow db migrate`"
    assert not path.exists()


def test_missing_migrations_are_named(database: Database, tmp_path: Path) -> None:
    empty = tmp_path / "flow.db"
    empty.touch()
    with pytest.raises(SchemaError) as caught:
        check_schema(open_database(f"sqlite:///{empty}"))
    assert str(caught.value) == (
        f"database {empty}: expected migration {LATEST!r}, got a schema without "
        f"{', '.join(ALL)}; "
        "run `flow db migrate`"
    )
    migrate(database)
    check_schema(database)


@pytest.mark.parametrize("deed", [check_schema, migrate])
def test_a_schema_of_a_newer_release_is_refused(database: Database, deed: object) -> None:
    assert callable(deed)
    migrate(database)
    with database.connection_context():
        Runner(database).History.create(name="0099_future", applied=START.replace(tzinfo=None))
    with pytest.raises(SchemaError, match="got '0099_future' of a newer release; upgrade flow"):
        deed(database)


def test_a_failed_migration_leaves_nothing_behind_and_can_be_repeated(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(dispatcher.store.schema.MIGRATIONS, folder)
    broken = folder / "0099_broken.py"
    broken.write_text(
        "def up(migrator, db):\n"
        "    db.execute_sql('CREATE TABLE half (id INTEGER)')\n"
        "    db.execute_sql('CREATE TABEL rest (id INTEGER)')\n"
    )
    monkeypatch.setattr(dispatcher.store.schema, "MIGRATIONS", folder)
    with pytest.raises(StoreError, match="syntax error"):
        migrate(database)
    with database.connection_context():
        assert "half" not in database.get_tables()
    # Of another size: Python takes a compiled file for current by its seconds and its size.
    broken.write_text(broken.read_text().replace("TABEL", "TABLE") + "# mended\n")
    assert migrate(database)[-1] == "0099_broken"
    with database.connection_context():
        assert {"half", "rest"} <= set(database.get_tables())


def test_foreign_keys_hold_again_after_a_migration(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/flow.db")
    migrate(database)
    assert isinstance(database, SqliteDatabase)
    assert database.pragma("foreign_keys") == 1
    database.close()


def test_the_migrations_are_found_in_an_installed_package(tmp_path: Path) -> None:
    """Every folder that the wheel is made of is a package, so setuptools takes it along."""
    site = tmp_path / "site"
    for package in ("flow", "dispatcher"):
        for module in (ROOT / package).rglob("*.py"):
            if (module.parent / "__init__.py").exists():
                copy = site / module.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(module, copy)
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{_MIGRATE_WHEN_TOLD}"
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path}/flow.db"],
        input="\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == f"ready\n{','.join(ALL)}\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = open_database(f"sqlite:///{tmp_path}/file/flow.db")
    with pytest.raises(StoreError) as caught:
        migrate(database)
    assert str(caught.value) == (
        f"database {tmp_path}/file/flow.db: expected a folder that can be made, "
        "got 'File exists'; correct database.url"
    )
