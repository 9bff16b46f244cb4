"""The output of tasks, one file per try, on the dispatcher's machine.

Chunks may come late, twice, or never (the log queue drops its oldest). Each is written at its own
offset, so order and repetition change nothing, and what never came stays a hole. A hole reads as
NUL bytes, whether the file system keeps it sparse or not; since the writer stores no NUL itself,
every NUL in a file is a lost byte.
"""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from flow.errors import FlowError, MessageError

#: Ends of chunks beyond this are refused: twice the greatest ``agent.log_max_bytes``.
MAX_SIZE = 32 * 1024**3

_BLOCK = 64 * 1024
_LOST = re.compile(rb"\0+|[^\0]+")


class LogStoreError(FlowError):
    """The folder of the logs cannot be used now: the disk is full, a right is missing."""


class LogStore:
    """Reads and writes ``<folder>/<run>/<task instance>/<try>.log``.

    One thread writes at a time; any number, in any process, read. At most *open_files* files are
    kept open for writing.
    """

    def __init__(self, folder: Path, *, open_files: int = 32) -> None:
        self._folder = folder
        self._limit = open_files
        self._open: OrderedDict[Path, int] = OrderedDict()

    def write(self, run_pk: int, task_pk: int, try_number: int, offset: int, data: bytes) -> None:
        """Put *data* at *offset* (in bytes) of a try's log; *data* may be empty, and then only says
        that the log is at least *offset* long.

        A NUL, which the sender never sends, is stored as ``?``. Raises :class:`MessageError` for
        a place that no log has, :class:`LogStoreError` when it cannot be stored now; writing the
        same chunk again is safe.
        """
        if min(run_pk, task_pk, try_number, offset) < 0 or offset + len(data) > MAX_SIZE:
            raise MessageError(
                f"log of task instance {task_pk}: expected a chunk within {MAX_SIZE} bytes, "
                f"got {len(data)} bytes at {offset} of try {try_number}"
            )
        path = self._path(run_pk, task_pk, try_number)
        try:
            file = self._file(path)
            _write_all(file, data.replace(b"\0", b"?"), offset)
            if not data and os.fstat(file).st_size < offset:
                os.ftruncate(file, offset)
        except OSError as error:
            raise _translated(path, "written", error) from error

    def read(self, run_pk: int, task_pk: int, try_number: int) -> bytes | None:
        """A try's log as far as it is known, or ``None`` where nothing has come of it.

        Bytes that are missing show as a line ``[flow: N bytes of output were lost here]``.
        Raises :class:`LogStoreError`.
        """
        path = self._path(run_pk, task_pk, try_number)
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _translated(path, "read", error) from error
        try:
            return b"".join(_with_notes(_pieces(file)))
        except OSError as error:
            raise _translated(path, "read", error) from error
        finally:
            os.close(file)

    def stored(
        self, run_pk: int, task_pk: int, try_number: int, start: int = 0
    ) -> Iterator[tuple[int, bytes]]:
        """What is known of a try's log from byte *start* on, as (offset, bytes) in order; between
        two of them is what has not come (yet). Raises :class:`LogStoreError`."""
        path = self._path(run_pk, task_pk, try_number)
        try:
            with path.open("rb", buffering=0) as file:
                position = start
                for piece in _pieces(file.fileno(), start):
                    if isinstance(piece, bytes):
                        yield position, piece
                    position += piece if isinstance(piece, int) else len(piece)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _translated(path, "read", error) from error

    def size(self, run_pk: int, task_pk: int, try_number: int) -> int:
        """Bytes of output from the start of the try to the last one known, lost ones included."""
        path = self._path(run_pk, task_pk, try_number)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _translated(path, "read", error) from error

    def close(self) -> None:
        """Close the files kept open. Safe twice; writing opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _path(self, run_pk: int, task_pk: int, try_number: int) -> Path:
        # Numbers only, so that no name from a message or a DAG ever becomes part of a path.
        return self._folder / f"{run_pk:d}" / f"{task_pk:d}" / f"{try_number:d}.log"

    def _file(self, path: Path) -> int:
        file = self._open.pop(path, None)
        if file is not None and os.fstat(file).st_nlink == 0:  # an operator has removed the log
            os.close(file)
            file = None
        if file is None:
            self._make_folders(path.parent)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o640)
        self._open[path] = file
        if len(self._open) > self._limit:
            os.close(self._open.popitem(last=False)[1])
        return file

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        for level in (self._folder, folder.parent, folder):
            level.mkdir(mode=0o750, exist_ok=True)


def _write_all(file: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest = rest[written:]
        offset += written


def _translated(path: Path, verb: str, error: OSError) -> LogStoreError:
    return LogStoreError(f"{path}: cannot be {verb}: {error.strerror or error}")


def _pieces(file: int, position: int = 0) -> Iterator[bytes | int]:
    """Runs of stored bytes from *position* on, and between them how many bytes are missing."""
    end = os.fstat(file).st_size
    while position < end:
        start = min(_next_data(file, position, end), end)
        if start > position:
            yield start - position
        stop = min(start + _BLOCK, end)
        block = os.pread(file, stop - start, start)
        for run in _LOST.findall(block):
            yield len(run) if run[0] == 0 else run
        position = start + len(block) if block else end  # a file cut short meanwhile has ended


def _next_data(file: int, position: int, end: int) -> int:
    """Where data may be next. It saves reading large holes; file systems without holes answer
    *position* (lseek(2), SEEK_DATA)."""
    try:
        return os.lseek(file, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        raise


def _with_notes(pieces: Iterator[bytes | int]) -> Iterator[bytes]:
    lost = 0
    at_line_start = True
    for piece in pieces:
        if isinstance(piece, int):
            lost += piece
            continue
        if lost:
            yield _note(lost, at_line_start=at_line_start)
            lost = 0
        yield piece
        at_line_start = piece.endswith(b"\n")
    if lost:
        yield _note(lost, at_line_start=at_line_start)


def _note(lost: int, *, at_line_start: bool) -> bytes:
    note = f"[flow: {lost} bytes of output were lost here]\n".encode()
    return note if at_line_start else b"\n" + note
