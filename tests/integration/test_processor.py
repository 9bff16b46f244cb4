"""The processor with real parser processes: what a DAG file does is seen in its own result only."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import flow
from dispatcher.dagfolder import Listing
from dispatcher.dagparser import Limits, Parser
from dispatcher.processor import ParsedFile, Processor, ScanResult

DEADLINE = 30.0
DAG_FILE = "from flow import DAG, BashOperator\nwith DAG({!r}):\n    {}\n"
TASK = "BashOperator(task_id='t', bash_command='true')"


def write_dag(path: Path, dag_id: str, body: str = TASK) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(DAG_FILE.format(dag_id, body), encoding="utf-8")


class Heard:
    """What a processor has told so far."""

    def __init__(self) -> None:
        self.results: list[ScanResult] = []
        self.files: dict[str, ParsedFile] = {}
        self._news = asyncio.Condition()

    async def __call__(self, result: ScanResult) -> None:
        async with self._news:
            self.results.append(result)
            self.files.update({file.file: file for file in result.files})
            for name in result.removed:
                del self.files[name]
            self._news.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE), self._news:
            await self._news.wait_for(condition)

    async def everything(self) -> None:
        await self.until(lambda: any(result.present is not None for result in self.results))

    def has(self, file: str, dag_id: str) -> bool:
        return self.dags.get(file) == [dag_id]

    @property
    def dags(self) -> dict[str, list[str]]:
        return {name: [dag.dag_id for dag in file.dags] for name, file in self.files.items()}

    @property
    def errors(self) -> dict[str, str]:
        return {name: file.error for name, file in self.files.items() if file.error is not None}


@asynccontextmanager
async def processing(folder: Path, **settings: Any) -> AsyncIterator[Heard]:
    heard = Heard()
    processor = Processor(folder, **{"list_interval": 0.05, **settings})
    running = asyncio.create_task(processor.run(heard))
    try:
        yield heard
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def error_of(folder: Path, text: str | bytes, **settings: Any) -> str:
    """The error of a file ``x.py`` with *text*."""
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "x.py").write_bytes(data)
    async with processing(folder, **settings) as heard:
        await heard.everything()
        return heard.errors["x.py"]


async def test_the_first_results_deliver_everything_there_is(tmp_path: Path) -> None:
    write_dag(tmp_path / "a.py", "a")
    write_dag(tmp_path / "sub" / "deep" / "b.py", "b")
    write_dag(tmp_path / ".hidden" / "c.py", "c")
    write_dag(tmp_path / "__pycache__" / "d.py", "d")
    write_dag(tmp_path / ".e.py", "e")
    (tmp_path / "plain.py").write_text("raise SystemExit  # mentions nothing")
    (tmp_path / "notes.txt").write_text("flow DAG")
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.dags == {"a.py": ["a"], "sub/deep/b.py": ["b"]}
        assert heard.results[-1].present == ("a.py", "sub/deep/b.py")
        a = heard.files["a.py"]
        assert a.source == (tmp_path / "a.py").read_text()
        assert a.digest == hashlib.sha256(a.source.encode()).hexdigest()
        assert (a.error, a.dags[0].file, a.dags[0].tasks[0].line) == (None, "a.py", 3)


async def test_an_empty_folder_is_told_as_such(tmp_path: Path) -> None:
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.results == [ScanResult(present=())]


async def test_changes_additions_and_removals_are_told(tmp_path: Path) -> None:
    write_dag(tmp_path / "a.py", "a")
    async with processing(tmp_path) as heard:
        await heard.everything()
        write_dag(tmp_path / "a.py", "a2")
        await heard.until(lambda: heard.dags == {"a.py": ["a2"]})
        write_dag(tmp_path / "b.py", "b")
        await heard.until(lambda: heard.dags == {"a.py": ["a2"], "b.py": ["b"]})
        (tmp_path / "a.py").unlink()
        await heard.until(lambda: heard.dags == {"b.py": ["b"]})
        (tmp_path / "b.py").write_text("print('nothing any more')")
        await heard.until(lambda: heard.dags == {})


async def test_an_unchanged_file_is_not_run_again(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    folder = tmp_path / "dags"
    write_dag(folder / "a.py", "a", f"open({str(ledger)!r}, 'a').write('x')")
    async with processing(folder) as heard:
        await heard.everything()
        for dag_id in ("b0", "b1", "b2"):  # each is seen by a later look at the folder
            write_dag(folder / "b.py", dag_id)
            await heard.until(partial(heard.has, "b.py", dag_id))
    assert ledger.read_text() == "x"


async def test_a_file_is_run_again_when_a_helper_or_data_file_of_the_folder_changes(
    tmp_path: Path,
) -> None:
    (tmp_path / "helper.py").write_text("NAME = 'one'")
    (tmp_path / "more.txt").write_text("uno")
    (tmp_path / "x.py").write_text(
        "from flow import DAG\nimport helper, os\n"
        "here = os.path.dirname(__file__)\n"
        "DAG(helper.NAME + '-' + open(os.path.join(here, 'more.txt')).read())\n"
    )
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["one-uno"]}
        (tmp_path / "helper.py").write_text("NAME = 'two'")
        await heard.until(lambda: heard.dags == {"x.py": ["two-uno"]})
        (tmp_path / "more.txt").write_text("due")
        await heard.until(lambda: heard.dags == {"x.py": ["two-due"]})


async def test_a_failed_file_is_tried_again_when_another_file_appears(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("from flow import DAG\nimport helper\nDAG(helper.NAME)\n")
    async with processing(tmp_path, retry_interval=1000) as heard:
        await heard.everything()
        assert heard.errors == {
            "x.py": "x.py:2: ModuleNotFoundError: No module named 'helper'; install it for "
            f"{sys.executable}, or set [dags] python to an interpreter with it"
        }
        (tmp_path / "helper.py").write_text("NAME = 'late'")
        await heard.until(lambda: heard.dags == {"x.py": ["late"]})


async def test_a_failed_file_is_tried_again_after_a_while(tmp_path: Path) -> None:
    folder, outside = tmp_path / "dags", tmp_path / "outside"
    folder.mkdir()
    (folder / "x.py").write_text(f"from flow import DAG\nDAG(open({str(outside)!r}).read())\n")
    async with processing(folder, retry_interval=0.1) as heard:
        await heard.everything()
        assert heard.errors["x.py"].startswith("x.py:2: FileNotFoundError: ")
        outside.write_text("there")
        await heard.until(lambda: heard.dags == {"x.py": ["there"]})


async def test_of_two_files_with_one_dag_the_first_by_name_has_it(tmp_path: Path) -> None:
    write_dag(tmp_path / "b.py", "same")
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.dags == {"b.py": ["same"]}
        write_dag(tmp_path / "a.py", "same")
        await heard.until(lambda: heard.dags == {"a.py": ["same"], "b.py": []})
        assert heard.errors == {
            "b.py": "b.py:2: DAG 'same': expected a dag_id used once, got one that a.py:2 has "
            "already; rename one of the two"
        }
        # A broken a.py keeps its last good version, so b.py does not get the DAG.
        (tmp_path / "a.py").write_text("from flow import DAG\nDAG(\n")
        await heard.until(lambda: "a.py" in heard.errors)
        assert heard.dags["b.py"] == []
        (tmp_path / "a.py").unlink()
        await heard.until(lambda: heard.dags == {"b.py": ["same"]})
        assert heard.errors == {}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from flow import DAG\nDAG(\n", "x.py:2: SyntaxError: '(' was never closed"),
        ("from flow import DAG\n x\n", "x.py:2: IndentationError: unexpected indent"),
        ("from flow import DAG\n1 / 0", "x.py:2: ZeroDivisionError: division by zero"),
        (
            "from flow import DAG\nimport sys\nsys.exit('bye')",
            "x.py:3: expected a file that runs to its end, got sys.exit('bye')",
        ),
        ("from flow import DAG\nraise KeyboardInterrupt", "x.py:2: KeyboardInterrupt"),
        (
            b"# flow DAG\n# caf\xe9",
            "x.py:2: expected UTF-8 text, got byte 0xe9; save the file as UTF-8",
        ),
        (
            "from flow import DAG, BashOp",
            (
                "x.py:1: ImportError: cannot import name 'BashOp' from 'flow' (FLOW); "
                "did you mean 'BashOperator'?"
            ),
        ),
        (
            "from airflow import DAG",
            (
                "x.py:1: ModuleNotFoundError: No module named 'airflow'; "
                "write `from flow import DAG, BashOperator`"
            ),
        ),
        (
            "from flow import DAG\n[1] >> [2]",
            (
                "x.py:2: TypeError: unsupported operand type(s) for >>: 'list' and 'list'; "
                "write chain(first, second) for two lists"
            ),
        ),
        (
            "from flow import DAG, BashOperator\nwith DAG('d'):\n BashOperator(task_id='t')",
            (
                "x.py:3: TypeError: BashOperator.__init__() missing 1 required keyword-only "
                "argument: 'bash_command'"
            ),
        ),
        (
            "from flow import DAG\nimport os\nos._exit(3)",
            "x.py: expected a file that runs to its end, got its process ended with exit code 3",
        ),
        (
            "from flow import DAG\nimport os\nos.kill(os.getpid(), 9)",
            "x.py: expected a file that runs to its end, got its process killed by SIGKILL",
        ),
        (
            "from flow import DAG\nimport os\nprint('last words', flush=True)\nos.abort()",
            (
                "x.py: expected a file that runs to its end, got its process killed by SIGABRT; "
                "its last output:\nlast words\nFatal Python error: Aborted"
            ),
        ),
        (
            "from flow import DAG\nx = bytearray(2**30)",
            "x.py:2: MemoryError; do large work in the tasks",
        ),
        (
            "from flow import DAG\nDAG('d', catchup=1)\n1/0",
            (
                "x.py:2: DAG 'd': argument 'catchup': expected True or False, got 1\n"
                "x.py:3: ZeroDivisionError: division by zero"
            ),
        ),
        (
            "from flow import DAG\n" + "#" * 4 * 1024 * 1024,
            "x.py: expected at most 4194304 bytes, got more; read large data in the tasks",
        ),
    ],
)
async def test_what_a_file_does_is_its_own_error(
    tmp_path: Path, text: str | bytes, error: str
) -> None:
    found = await error_of(tmp_path, text, parse_memory=256 * 1024**2)
    found = found.replace(str(flow.__file__), "FLOW")
    # What follows is Python's own report of the crash, which differs between its versions.
    assert found.split("\n\nCurrent thread")[0] == error


async def test_a_file_without_end_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    folder = tmp_path / "dags"
    folder.mkdir()
    error = await error_of(
        folder,
        "from flow import DAG\nimport subprocess, time\n"
        f"open({str(pid_file)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000']).pid))\n"
        "time.sleep(1000)\n",
        parse_timeout=1.0,
    )
    assert error == (
        "x.py: expected a file that runs within 1 s, got no end; move slow work into tasks"
    )
    await wait_gone(int(pid_file.read_text()))


async def test_what_a_file_detaches_from_itself_ends_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    folder = tmp_path / "dags"
    write_dag(
        folder / "x.py",
        "d",
        "import os\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "        os.execlp('sleep', 'sleep', '1000')\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        f"while not os.path.exists({str(pid_file)!r}) or not open({str(pid_file)!r}).read():\n"
        "    pass\n",
    )
    async with processing(folder) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["d"]}
        await wait_gone(int(pid_file.read_text()))


async def test_a_file_that_kills_its_reader_ends_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    folder = tmp_path / "dags"
    folder.mkdir()
    error = await error_of(
        folder,
        "from flow import DAG\nimport os, signal, time\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "time.sleep(1000)\n",
    )
    assert error == "x.py: expected an answer of the parser, got its process killed by SIGKILL"
    await wait_gone(int(pid_file.read_text()))


async def test_a_good_file_leaves_no_process_behind(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    folder = tmp_path / "dags"
    write_dag(
        folder / "x.py",
        "d",
        f"import subprocess; open({str(pid_file)!r}, 'w')"
        ".write(str(subprocess.Popen(['sleep', '1000']).pid))",
    )
    async with processing(folder) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["d"]}
        await wait_gone(int(pid_file.read_text()))


async def test_cancelling_stops_a_file_in_its_middle(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    folder = tmp_path / "dags"
    write_dag(
        folder / "x.py",
        "d",
        f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(1000)",
    )
    async with processing(folder):
        await wait_until(lambda: pid_file.exists() and pid_file.read_text() != "")
    await wait_gone(int(pid_file.read_text()))


async def test_a_slow_file_does_not_hold_up_another(tmp_path: Path) -> None:
    write_dag(tmp_path / "a_slow.py", "slow", "import time; time.sleep(1000)")
    write_dag(tmp_path / "b.py", "b")
    async with processing(tmp_path, parse_timeout=DEADLINE) as heard:
        await heard.until(lambda: heard.dags == {"b.py": ["b"]})
        write_dag(tmp_path / "b.py", "b2")
        await heard.until(lambda: heard.dags == {"b.py": ["b2"]})


async def test_output_of_a_file_does_not_mix_with_its_result(tmp_path: Path) -> None:
    noise = "import os, sys; [os.write(f, b'{\"x\": 1}\\n' * 20000) for f in (1, 2)]; print(1)"
    write_dag(tmp_path / "x.py", "d", noise)
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["d"]}


async def test_a_fork_that_runs_on_gives_no_second_answer(tmp_path: Path) -> None:
    write_dag(tmp_path / "x.py", "d", "import os; os.fork()")
    write_dag(tmp_path / "y.py", "e")
    async with processing(tmp_path, processes=1) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["d"], "y.py": ["e"]}


async def test_a_file_sees_no_settings_and_none_of_flows_other_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOW_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("FLOW_BROKER_URL", "amqp://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "x.py").write_text(
        "from flow import DAG\nimport importlib.util, os, sys\n"
        "found = [n for n in ('FLOW_DATABASE_URL', 'FLOW_BROKER_URL', 'AWS_SECRET_ACCESS_KEY')"
        " if n in os.environ]\n"
        "for name in ('dispatcher', 'agent', 'values', 'parse'):\n"
        "    try: __import__(name); found.append(name)\n"
        "    except ModuleNotFoundError: pass\n"
        "DAG('d', tags=found)\n"
    )
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert heard.errors == {}
        assert heard.files["x.py"].dags[0].tags == ()


async def test_a_users_own_module_may_be_called_agent_or_json(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("NAME = 'mine'")
    (tmp_path / "json.py").write_text("raise RuntimeError('hides the one of Python')")
    (tmp_path / "flow.py").write_text(
        "from flow import DAG\nimport agent, json\njson.dumps({})\nDAG(agent.NAME)\n"
    )
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert (heard.dags, heard.errors) == ({"flow.py": ["mine"]}, {})


async def test_dags_made_from_a_set_keep_their_version(tmp_path: Path) -> None:
    body = "[BashOperator(task_id=t, bash_command='true') for t in {'a', 'b', 'c', 'd', 'e'}]"
    digests = set()
    write_dag(tmp_path / "x.py", "d", body)
    for _ in range(3):
        async with processing(tmp_path) as heard:
            await heard.everything()
            digests.add(heard.files["x.py"].dags[0].digest)
    assert len(digests) == 1


async def test_defaults_reach_the_dags(tmp_path: Path) -> None:
    write_dag(tmp_path / "x.py", "d")
    settings = {"default_timezone": "Asia/Tokyo", "max_active_runs": 3, "max_active_tasks": 4}
    async with processing(tmp_path, **settings) as heard:
        await heard.everything()
        (dag,) = heard.files["x.py"].dags
        assert (dag.timezone, dag.max_active_runs, dag.max_active_tasks) == ("Asia/Tokyo", 3, 4)


async def test_an_error_in_a_helper_names_the_helper_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def make():\n    return {}['k']\n")
    error = await error_of(tmp_path, "from flow import DAG\nimport helper\nhelper.make()\n")
    assert error == "helper.py:2: KeyError: 'k' (reached from x.py:3)"


async def test_an_interpreter_that_is_missing_or_no_python_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    text = "from flow import DAG"
    assert await error_of(folder, text, python="/nowhere/python") == (
        "x.py: expected an interpreter that starts, got No such file or directory for "
        "/nowhere/python; set [dags] python to a Python 3.10 or later"
    )
    wrong = tmp_path / "wrong"
    wrong.write_text("#!/bin/sh\necho I am no Python\nexit 1\n")
    wrong.chmod(wrong.stat().st_mode | stat.S_IXUSR)
    assert await error_of(folder, text, python=str(wrong)) == (
        f"x.py: expected {wrong} to run flow's parser, got \nI am no Python\n; "
        "set [dags] python to a Python 3.10 or later"
    )


async def test_a_parser_that_is_killed_is_the_error_of_its_file_and_is_replaced(
    tmp_path: Path,
) -> None:
    write_dag(tmp_path / "x.py", "d", "import os, time; os.kill(os.getppid(), 9); time.sleep(0.2)")
    write_dag(tmp_path / "y.py", "e")
    async with processing(tmp_path, processes=1) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": [], "y.py": ["e"]}
        assert heard.errors == {
            "x.py": "x.py: expected an answer of the parser, got its process killed by SIGKILL"
        }


async def test_a_parser_whose_close_was_cancelled_can_be_closed_again(tmp_path: Path) -> None:
    write_dag(tmp_path / "x.py", "d")
    parser = Parser(sys.executable, tmp_path, os.environ)
    answer = await parser.parse("x.py", {}, Limits(seconds=DEADLINE, memory=None))
    assert answer.error is None
    closing = asyncio.create_task(parser.close())
    await asyncio.sleep(0)  # it has begun
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await parser.close()
    await parser.close()
    # A process that nobody waited for would be a ResourceWarning, which is an error here.
    gc.collect()


async def test_an_interpreter_that_prints_at_its_start_does_not_disturb(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    write_dag(folder / "x.py", "d")
    loud = tmp_path / "loud"
    loud.write_text(f'#!/bin/sh\necho hello\nexec {sys.executable} "$@"\n')
    loud.chmod(0o700)
    async with processing(folder, python=str(loud)) as heard:
        await heard.everything()
        assert heard.dags == {"x.py": ["d"]}


async def test_a_folder_that_is_gone_for_a_while_removes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, away = tmp_path / "dags", tmp_path / "away"
    write_dag(folder / "x.py", "d")
    async with processing(folder) as heard:
        await heard.everything()
        folder.rename(away)
        await wait_until(lambda: bool(caplog.records))
        assert caplog.records[0].getMessage() == (
            f"DAG folder {folder}: expected a readable folder, got No such file or directory; "
            "create it, or set [dags] folder"
        )
        away.rename(folder)
        write_dag(folder / "y.py", "e")
        await heard.until(lambda: heard.dags == {"x.py": ["d"], "y.py": ["e"]})
    assert [result.removed for result in heard.results if result.removed] == []


async def test_a_file_is_not_run_again_before_its_interval_has_passed(tmp_path: Path) -> None:
    write_dag(tmp_path / "a.py", "a")
    async with processing(tmp_path, min_file_process_interval=1000) as heard:
        await heard.everything()
        write_dag(tmp_path / "a.py", "a2")
        for name in ("b", "c"):  # each is seen by a later look at the folder
            write_dag(tmp_path / f"{name}.py", name)
            await heard.until(partial(heard.has, f"{name}.py", name))
        assert heard.dags["a.py"] == ["a"]


def test_what_is_below_an_unreadable_folder_is_not_taken_for_removed() -> None:
    listing = Listing({"a.py": (1,)}, unreadable=("sub/",))
    found = [listing.lacks(name) for name in ("a.py", "b.py", "sub/c.py", "subway.py")]
    assert found == [False, True, False, True]


async def test_links_are_followed_once(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    write_dag(folder / ".hidden" / "x.py", "d")
    (folder / "linked").symlink_to(folder / ".hidden")
    (folder / ".hidden" / "back").symlink_to(folder)
    (folder / "dangling.py").symlink_to(folder / "nothing.py")
    (folder / "self.py").symlink_to(folder / "self.py")
    async with processing(folder) as heard:
        await heard.everything()
        assert heard.dags == {"linked/x.py": ["d"]}


async def test_a_file_name_that_is_no_utf8_is_shown_escaped(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.py")  # noqa: PTH118  pathlib takes no bytes
    with open(path, "w", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123
        file.write("from flow import DAG\nDAG('d')\n")
    async with processing(tmp_path) as heard:
        await heard.everything()
        assert list(heard.files) == ["caf\\xe9.py"]


async def test_what_the_receiver_raises_ends_the_processor(tmp_path: Path) -> None:
    async def refuse(result: ScanResult) -> None:
        raise LookupError(str(result.present))

    with pytest.raises(LookupError):
        await asyncio.wait_for(Processor(tmp_path).run(refuse), DEADLINE)


async def test_the_example_is_a_chain_of_four_tasks_on_two_queues_in_turn() -> None:
    async with processing(Path(__file__).parents[2] / "dags") as heard:
        await heard.everything()
        assert heard.errors == {}
        (dag,) = heard.files["two_queues.py"].dags
        assert dag.dag_id == "two_queues"
        assert [(task.task_id, task.queue, task.upstream) for task in dag.tasks] == [
            ("a", "q1", ()),
            ("b", "q2", ("a",)),
            ("c", "q1", ("b",)),
            ("d", "q2", ("c",)),
        ]


async def wait_gone(pid: int) -> None:
    """Until *pid* is no process any more, or only the remains of one."""
    await wait_until(lambda: not _alive(pid))


async def wait_until(condition: Callable[[], bool]) -> None:
    """For what nothing in this process tells of."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  a process or a file has no event to wait for
            await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
