"""An agent is killed under load, and nothing is lost: ``python -m tests.demo [--svg FILE]``.

``make demo-kill`` runs it beside private services. They are found in ``FLOW_TEST_BROKER_URL`` and
``FLOW_TEST_DATABASE_URL``, never in the variables of flow's own, which may name a system in use.
Exit code 1: a task was lost, ran twice or needlessly, or did not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dispatcher.board.live import Watcher
from dispatcher.board.terminal import Quit
from dispatcher.store import open_database
from dispatcher.store.boardreader import BoardReader
from flow.cli.liveboard import has_room
from tests.acceptance.ledger import Ledger, now
from tests.acceptance.system import System
from tests.demo.recording import Recording
from tests.demo.stage import BOARD, STORY, Lines, Screen, Stage, scene
from tests.demo.story import Story, Stuck
from tests.demo.verdict import Verdict

#: Of the recording: cells, and seconds between two frames.
_WIDTH, _FRAME = 100, 0.25
#: Seconds that a daemon without work may take to stop.
_PATIENCE = 30.0


def main() -> int:
    """Play the demo; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo", description="An agent is killed under load."
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="record it there")
    svg: Path | None = parser.parse_args().svg
    if svg is not None and not svg.parent.is_dir():
        parser.error(f"--svg: expected a file in an existing folder, got {str(svg)!r}")
    try:
        return _run(svg)
    except Quit as end:
        code = 128 + end.signum if end.signum else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Stuck as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("demo: stopped before its end", file=sys.stderr)
    return code


def _run(svg: Path | None) -> int:
    print("a dispatcher and three agents start; one agent will be killed", flush=True)
    with _system() as system, _watching(system.database_url) as watcher:
        story = Story(system, Ledger(system.root / "ledger"), lambda: watcher.sight().view)
        stage: Stage = Screen.of(story, watcher.sight) if has_room(sys.stdout) else Lines(story)
        recording = Recording(_WIDTH, "make demo-kill")
        with stage.lent():
            verdict = _play(story, stage, watcher, recording)
        if not verdict.holds:
            _complain(verdict, system)
        elif svg is not None:
            _write(svg, recording, verdict)
        stage.close()
    return 0 if verdict.holds else 1


def _play(story: Story, stage: Stage, watcher: Watcher, recording: Recording) -> Verdict:
    recorded = 0.0
    for wait in story.steps():
        end = time.monotonic() + wait.within
        while not wait.so():
            if time.monotonic() > end:
                raise Stuck(f"waited {wait.within:g} s in vain for {wait.what}")
            if story.began is not None and time.monotonic() > recorded + _FRAME:
                recorded = time.monotonic()
                _record(story, watcher, recording)
            stage.breathe()
    _record(story, watcher, recording)
    assert story.verdict is not None, "the last step judges"
    return story.verdict


def _record(story: Story, watcher: Watcher, recording: Recording) -> None:
    shown = scene(watcher.sight(), story, _WIDTH, BOARD + STORY)
    recording.take(shown, now() - (story.began or 0.0))


def _write(svg: Path, recording: Recording, verdict: Verdict) -> None:
    hit = len(verdict.interrupted)
    title = f"An agent of flow is killed while it runs {hit} tasks: {verdict.line()}"
    svg.write_text(recording.svg(title), encoding="utf-8")
    print(f"recorded in {svg}", flush=True)


def _complain(verdict: Verdict, system: System) -> None:
    _show_logs(system)
    for complaint in verdict.complaints():
        print(f"demo: {complaint}", file=sys.stderr)


def _show_logs(system: System) -> None:
    for daemon in system.daemons:
        print(f"--- {daemon.output.name}\n{daemon.output.read_text()}", file=sys.stderr)


# -- what it needs ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _system() -> Iterator[System]:
    """A migrated database and nothing running; in the end nothing runs any more."""
    urls = [os.environ.get(f"FLOW_TEST_{name}_URL") for name in ("BROKER", "DATABASE")]
    broker, database = urls
    if broker is None or database is None:
        raise Stuck("expected FLOW_TEST_BROKER_URL and FLOW_TEST_DATABASE_URL; run: make demo-kill")
    with tempfile.TemporaryDirectory(prefix="flow-demo-", ignore_cleanup_errors=True) as folder:
        # What is left behind by a kill of this process is found by its mark (tests.services).
        settings = {"FLOW_TEST_SESSION": os.environ.get("FLOW_TEST_SESSION", "")}
        # Not the user's: what is shown are flow's defaults.
        settings |= {"FLOW_CONFIG": "", "FLOW_DISPATCHER_NAME": "control"}
        system = System(Path(folder), broker, database, settings)
        try:
            system.flow("db", "migrate")
            yield system
            for daemon in system.daemons:
                daemon.process.send_signal(signal.SIGTERM)
            for daemon in system.daemons:
                daemon.process.wait(_PATIENCE)
        except Stuck:
            _show_logs(system)
            raise
        finally:
            for daemon in system.daemons:
                daemon.kill()
            for command in system.commands:
                command.kill()
                command.communicate()


@contextlib.contextmanager
def _watching(url: str) -> Iterator[Watcher]:
    watcher = Watcher(BoardReader(open_database(url)), lambda: datetime.now(UTC))
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


if __name__ == "__main__":
    sys.exit(main())
