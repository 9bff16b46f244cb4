"""What a daemon says of itself: one line per event on stderr, for people and for grep.

``2026-11-21T12:00:00.123+00:00 INFO dispatcher  leads, epoch 4  action=leads epoch=4``

The sentence may change between releases; ``action`` and the values after it do not. They come
from ``log.info("leads, epoch %d", 4, extra={"action": "leads", "epoch": 4})``.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import TextIO

#: Loggers of flow's own packages; all others speak only from WARNING on.
OWN_LOGGERS = ("flow", "dispatcher", "agent")
#: Libraries whose tracebacks tell a user nothing: flow reports the same failure in its own words.
LIBRARY_LOGGERS = ("aiormq", "pamqp", "peewee", "pika")

#: Up to the last @ of the word, since a password that was not escaped may hold @ / : itself.
_PASSWORD_IN_URL = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*):\S*@")
_PASSWORD_IN_DSN = re.compile(r"(?i)(password\s*=\s*)('[^']*'|[^\s&]+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def setup_logging(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send the process's log to *stream* (default stderr), each line marked with *process*.

    *level* is ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR`` and holds for flow's own loggers.
    Replaces what was set up before. Passwords in URLs are masked in everything that is written.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)
    for name in LIBRARY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    if level != "DEBUG":
        # It reports every lost connection several times; flow's own line has the reason.
        logging.getLogger("aiormq").setLevel(logging.CRITICAL)


def redact(text: str) -> str:
    """*text* with the passwords of URLs and connection strings masked."""
    return _PASSWORD_IN_DSN.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


class LineFormatter(logging.Formatter):
    """One line per record. Only an error in flow itself brings its traceback, on further lines."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a newline at its end."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        sentence = record.getMessage()
        from_library = record.name.partition(".")[0] in LIBRARY_LOGGERS
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and from_library:
            sentence = f"{sentence}: {type(error).__name__}: {error}"
        facts = _facts(record)
        text = f"{time} {record.levelname} {self._process}  {_one_line(sentence)}"
        if facts:
            text = f"{text}  {facts}"
        if record.exc_info and error is not None and not from_library:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redact(text)


def _facts(record: logging.LogRecord) -> str:
    """``action=...`` first, then the other values the caller gave as ``extra``."""
    given = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    action = {"action": given.pop("action")} if "action" in given else {}
    return " ".join(f"{key}={_value(value)}" for key, value in {**action, **given}.items())


def _value(value: object) -> str:
    text = str(value)
    plain = text and not re.search(r'[\s="]', text) and text.isprintable()
    return text if plain else json.dumps(text)


def _one_line(text: str) -> str:
    # Text from messages and tasks must not forge lines or steer a terminal.
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
