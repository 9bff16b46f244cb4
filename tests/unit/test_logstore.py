"""The log store: what is read back whatever way the chunks came."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.logstore import MAX_SIZE, LogStore, LogStoreError
from flow.errors import FlowError, MessageError

RUN, TASK, TRY = 7, 42, 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LogStore]:
    store = LogStore(tmp_path / "logs")
    yield store
    store.close()


def log_file(folder: Path) -> Path:
    return folder / "logs" / f"{RUN}" / f"{TASK}" / f"{TRY}.log"


def test_what_was_written_is_read(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 0, b"first\n")
    store.write(RUN, TASK, TRY, 6, "zweite Zeile: ä\n".encode())
    assert store.read(RUN, TASK, TRY) == "first\nzweite Zeile: ä\n".encode()
    assert store.size(RUN, TASK, TRY) == 23


def test_a_try_without_output_is_told_from_one_with_empty_output(store: LogStore) -> None:
    assert store.read(RUN, TASK, TRY) is None
    assert store.size(RUN, TASK, TRY) == 0
    store.write(RUN, TASK, TRY, 0, b"")
    assert store.read(RUN, TASK, TRY) == b""


def test_tries_tasks_and_runs_have_logs_of_their_own(store: LogStore) -> None:
    places = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1), (11, 1, 1), (1, 11, 1)]
    for place in places:
        store.write(*place, 0, repr(place).encode())
    for place in places:
        assert store.read(*place) == repr(place).encode()


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A text without NUL, and its chunks in any order, some of them twice."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=12))
    clean = [part.replace(b"\0", b"x") for part in parts]
    starts = [sum(map(len, clean[:number])) for number in range(len(clean))]
    chunks = list(zip(starts, clean, strict=True))
    again = draw(st.lists(st.sampled_from(chunks), max_size=6))
    return b"".join(clean), draw(st.permutations(chunks + again))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(arrival=arrivals())
def test_any_order_and_repetition_of_chunks_gives_the_same_text(
    tmp_path_factory: pytest.TempPathFactory, arrival: tuple[bytes, list[tuple[int, bytes]]]
) -> None:
    text, chunks = arrival
    store = LogStore(tmp_path_factory.mktemp("logs"))
    for offset, data in chunks:
        store.write(RUN, TASK, TRY, offset, data)
    assert store.read(RUN, TASK, TRY) == text
    store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    lines=st.lists(
        st.tuples(st.integers(min_value=1, max_value=200_000), st.booleans()), max_size=10
    )
)
def test_every_lost_stretch_shows_with_its_length_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, bool]]
) -> None:
    store = LogStore(tmp_path_factory.mktemp("logs"))
    expected = b""
    offset = lost = 0
    for length, arrives in lines:
        line = b"x" * (length - 1) + b"\n"
        if arrives:
            store.write(RUN, TASK, TRY, offset, line)
            if lost:
                expected += b"[flow: %d bytes of output were lost here]\n" % lost
            expected += line
        lost = 0 if arrives else lost + length
        offset += length
    store.write(RUN, TASK, TRY, offset, b"")
    if lost:
        expected += b"[flow: %d bytes of output were lost here]\n" % lost
    assert store.read(RUN, TASK, TRY) == expected
    assert store.size(RUN, TASK, TRY) == offset
    store.close()


def test_a_note_about_lost_bytes_stands_on_a_line_of_its_own(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 0, b"half a li")
    store.write(RUN, TASK, TRY, 20, b"ne\n")
    assert store.read(RUN, TASK, TRY) == (
        b"half a li\n[flow: 11 bytes of output were lost here]\nne\n"
    )


def test_what_is_stored_is_given_with_its_offsets_from_any_byte_on(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 0, b"hello\n")
    store.write(RUN, TASK, TRY, 100_000, b"world\n")
    assert list(store.stored(RUN, TASK, TRY)) == [(0, b"hello\n"), (100_000, b"world\n")]
    assert list(store.stored(RUN, TASK, TRY, 3)) == [(3, b"lo\n"), (100_000, b"world\n")]
    assert list(store.stored(RUN, TASK, TRY, 50)) == [(100_000, b"world\n")]
    assert list(store.stored(RUN, TASK, TRY, 100_004)) == [(100_004, b"d\n")]
    assert list(store.stored(RUN, TASK, TRY, 200_000)) == []
    assert list(store.stored(RUN, TASK + 1, TRY)) == []


def test_a_late_chunk_fills_its_hole(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 5, b"world")
    assert store.read(RUN, TASK, TRY) == b"[flow: 5 bytes of output were lost here]\nworld"
    store.write(RUN, TASK, TRY, 0, b"hello")
    assert store.read(RUN, TASK, TRY) == b"helloworld"


def test_an_empty_chunk_at_the_end_shows_that_the_end_was_lost(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 0, b"start\n")
    store.write(RUN, TASK, TRY, 100, b"")
    assert store.read(RUN, TASK, TRY) == b"start\n[flow: 94 bytes of output were lost here]\n"
    store.write(RUN, TASK, TRY, 50, b"")
    assert store.size(RUN, TASK, TRY) == 100


def test_holes_that_the_file_system_filled_with_zeros_are_holes(
    store: LogStore, tmp_path: Path
) -> None:
    store.write(RUN, TASK, TRY, 0, b"a\n")
    with log_file(tmp_path).open("ab") as file:
        file.write(bytes(200_000) + b"b\n")
    assert store.read(RUN, TASK, TRY) == b"a\n[flow: 200000 bytes of output were lost here]\nb\n"


def test_a_nul_is_no_lost_byte(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, 0, b"a\0b\n")
    assert store.read(RUN, TASK, TRY) == b"a?b\n"


def test_a_huge_hole_costs_neither_memory_nor_time(store: LogStore) -> None:
    store.write(RUN, TASK, TRY, MAX_SIZE - 2, b"z\n")
    lost = MAX_SIZE - 2
    assert store.read(RUN, TASK, TRY) == (b"[flow: %d bytes of output were lost here]\nz\n" % lost)


@pytest.mark.parametrize(
    ("place", "offset", "data"),
    [
        ((RUN, TASK, TRY), -1, b"x"),
        ((RUN, TASK, TRY), MAX_SIZE, b"x"),
        ((RUN, TASK, TRY), MAX_SIZE - 1, b"xy"),
        ((RUN, TASK, TRY), 2**63, b""),
        ((-1, TASK, TRY), 0, b"x"),
        ((RUN, -1, TRY), 0, b"x"),
        ((RUN, TASK, -1), 0, b"x"),
    ],
)
def test_a_place_that_no_log_has_is_refused_and_leaves_nothing(
    store: LogStore, tmp_path: Path, place: tuple[int, int, int], offset: int, data: bytes
) -> None:
    with pytest.raises(MessageError, match="expected a chunk within"):
        store.write(*place, offset, data)
    assert not (tmp_path / "logs").exists()


def test_files_and_folders_are_not_for_everybody(store: LogStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.write(RUN, TASK, TRY, 0, b"x")
    finally:
        os.umask(before)
    file = log_file(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    for folder in (file.parent, file.parent.parent, tmp_path / "logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_few_files_are_kept_open(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "logs", open_files=3)
    for number in range(20):
        store.write(RUN, number, TRY, 0, b"x")
    assert len(_open_below(tmp_path)) == 3
    store.write(RUN, 0, TRY, 1, b"y")
    assert store.read(RUN, 0, TRY) == b"xy"
    store.close()
    store.close()
    assert _open_below(tmp_path) == []
    store.write(RUN, 0, TRY, 2, b"z")
    assert store.read(RUN, 0, TRY) == b"xyz"
    store.close()


def _open_below(folder: Path) -> list[Path]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:  # the listing's own
            continue
    return [link for link in links if link.is_relative_to(folder)]


def test_a_log_removed_by_an_operator_starts_anew(store: LogStore, tmp_path: Path) -> None:
    store.write(RUN, TASK, TRY, 0, b"gone\n")
    log_file(tmp_path).unlink()
    store.write(RUN, TASK, TRY, 5, b"new\n")
    assert store.read(RUN, TASK, TRY) == b"[flow: 5 bytes of output were lost here]\nnew\n"


def test_a_full_disk_is_one_clear_error_and_the_chunk_can_be_written_again(
    store: LogStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite

    def full(file: int, data: memoryview, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[:2], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(LogStoreError) as caught:
        store.write(RUN, TASK, TRY, 0, b"hello")
    assert str(caught.value) == f"{log_file(tmp_path)}: cannot be written: No space left on device"
    monkeypatch.setattr(os, "pwrite", real)
    store.write(RUN, TASK, TRY, 0, b"hello")
    assert store.read(RUN, TASK, TRY) == b"hello"


def test_a_write_in_pieces_is_finished(store: LogStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:3], offset))
    store.write(RUN, TASK, TRY, 2, b"hello world")
    monkeypatch.undo()
    assert store.read(RUN, TASK, TRY) == b"[flow: 2 bytes of output were lost here]\nhello world"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    store = LogStore(tmp_path / "logs")
    with pytest.raises(LogStoreError, match=r"cannot be written: (File exists|Not a directory)"):
        store.write(RUN, TASK, TRY, 0, b"x")
    with pytest.raises(LogStoreError, match="cannot be read: Not a directory"):
        store.read(RUN, TASK, TRY)
    with pytest.raises(LogStoreError, match="cannot be read: Not a directory"):
        store.size(RUN, TASK, TRY)
    assert issubclass(LogStoreError, FlowError)


def test_a_log_is_never_written_through_a_symbolic_link(store: LogStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"safe")
    log_file(tmp_path).parent.mkdir(parents=True)
    log_file(tmp_path).symlink_to(victim)
    with pytest.raises(LogStoreError, match="cannot be written"):
        store.write(RUN, TASK, TRY, 0, b"x")
    assert victim.read_bytes() == b"safe"


def test_another_store_reads_while_one_writes(store: LogStore, tmp_path: Path) -> None:
    store.write(RUN, TASK, TRY, 0, b"one\n")
    reader = LogStore(tmp_path / "logs")
    assert reader.read(RUN, TASK, TRY) == b"one\n"
    store.write(RUN, TASK, TRY, 4, b"two\n")
    assert reader.read(RUN, TASK, TRY) == b"one\ntwo\n"
