"""What daemons write to stderr: one line per event, no passwords, no noise of libraries."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from flow.reporting import LIBRARY_LOGGERS, OWN_LOGGERS, redact, setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; what was set up before is set up again afterwards."""
    loggers = [logging.getLogger(name) for name in ("", *OWN_LOGGERS, *LIBRARY_LOGGERS)]
    levels = [logger.level for logger in loggers]
    handlers = logging.getLogger().handlers[:]
    yield io.StringIO()
    logging.getLogger().handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def written(stream: io.StringIO) -> str:
    """What was logged, less the time."""
    return re.sub(r"(?m)^\S+ ", "", stream.getvalue(), count=1)


def test_a_line_has_time_level_process_sentence_action_and_values(stream: io.StringIO) -> None:
    setup_logging("dispatcher", stream=stream)
    logging.getLogger("flow.dispatcher").info(
        "leads, epoch %d", 4, extra={"epoch": 4, "action": "leads"}
    )
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 "
        r"INFO dispatcher  leads, epoch 4  action=leads epoch=4\n",
        stream.getvalue(),
    )


def test_a_line_without_values_ends_with_its_sentence(stream: io.StringIO) -> None:
    setup_logging("agent node1", stream=stream)
    logging.getLogger("flow.agent").warning("drains")
    assert written(stream) == "WARNING agent node1  drains\n"


def test_values_with_blanks_are_quoted(stream: io.StringIO) -> None:
    setup_logging("dispatcher", stream=stream)
    extra = {"action": "x", "reason": 'no "slot"\nfree', "empty": "", "none": None}
    logging.getLogger("flow").info("says", extra=extra)
    assert written(stream) == (
        'INFO dispatcher  says  action=x reason="no \\"slot\\"\\nfree" empty="" none=None\n'
    )


def test_logs_go_to_stderr_and_never_to_stdout(
    stream: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    del stream
    setup_logging("dispatcher")
    logging.getLogger("flow").info("hello")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("INFO dispatcher  hello\n")


def test_setting_up_twice_writes_once(stream: io.StringIO) -> None:
    setup_logging("first", stream=stream)
    setup_logging("second", stream=stream)
    logging.getLogger("flow").info("hello")
    assert written(stream) == "INFO second  hello\n"


def test_the_level_holds_for_flows_own_loggers_only(stream: io.StringIO) -> None:
    setup_logging("dispatcher", level="DEBUG", stream=stream)
    for name in ("peewee", "aio_pika.connection", "aiormq", "asyncio", "somebody"):
        logging.getLogger(name).info("noise of %s", name)
    for name in ("flow.x", "dispatcher.x", "agent.x"):
        logging.getLogger(name).debug("kept")
    assert stream.getvalue().count("\n") == 3
    assert "noise" not in stream.getvalue()


def test_a_message_cannot_forge_a_line_or_steer_a_terminal(stream: io.StringIO) -> None:
    setup_logging("dispatcher", stream=stream)
    logging.getLogger("flow").info("task said %s", "a\nINFO b\x1b[31m\u2028")
    assert written(stream) == "INFO dispatcher  task said a\\nINFO b\\x1b[31m\\u2028\n"


def test_a_librarys_error_is_one_line_without_its_traceback(stream: io.StringIO) -> None:
    setup_logging("agent", stream=stream)
    try:
        raise ConnectionResetError(104, "reset")
    except ConnectionResetError:
        logging.getLogger("peewee").exception("Unexpected close")
    assert written(stream) == (
        "ERROR agent  Unexpected close: ConnectionResetError: [Errno 104] reset\n"
    )


def test_an_error_in_flow_keeps_its_traceback(stream: io.StringIO) -> None:
    setup_logging("agent", stream=stream)
    try:
        raise RuntimeError("at amqp://u:geheim@h/")
    except RuntimeError:
        logging.getLogger("flow.agent").exception("bug")
    lines = written(stream).splitlines()
    assert lines[:2] == ["ERROR agent  bug", "Traceback (most recent call last):"]
    assert lines[-1] == "RuntimeError: at amqp://u:***@h/"


def test_no_password_is_written_wherever_it_stands(stream: io.StringIO) -> None:
    setup_logging("dispatcher", stream=stream)
    url = "amqp://flow:geheim@h/v"
    logging.getLogger("flow").warning("%s and %s", url, [url], extra={"url": url})
    assert "geheim" not in stream.getvalue()
    assert stream.getvalue().count("amqp://flow:***@h/v") == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://u:p@h", "amqp://u:***@h"),
        ("postgresql+x://u:p@h/d?a=b", "postgresql+x://u:***@h/d?a=b"),
        ("amqp://u:a/b@c#d@h/", "amqp://u:***@h/"),
        ("amqp://:p@h", "amqp://:***@h"),
        (
            "'amqp://u:p@h' refused, see http://x:80/y",
            "'amqp://u:***@h' refused, see http://x:80/y",
        ),
        ("host=h password=geheim user=u", "host=h password=*** user=u"),
        ("PASSWORD = 'ge heim' x", "PASSWORD = *** x"),
        ("postgresql:///d?password=p&x=y", "postgresql:///d?password=***&x=y"),
        ("amqp://host:5672/vhost", "amqp://host:5672/vhost"),
        ("amqp://user@host/", "amqp://user@host/"),
        ("nothing: to@hide", "nothing: to@hide"),
    ],
)
def test_passwords_are_masked_in_urls_and_connection_strings(text: str, shown: str) -> None:
    assert redact(text) == shown
