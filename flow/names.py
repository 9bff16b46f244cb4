"""What the things users name may be called.

Names appear in routing keys, log paths, URLs and on the command line (``DAG/RUN_ID``), so all of
them are plain ASCII without slashes and spaces. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Characters of a bad name in a message.
_SHOWN = 120


@dataclass(frozen=True)
class NameRule:
    """Which names one kind of thing may have. ``text`` says it in words."""

    pattern: re.Pattern[str]
    text: str

    def problem(self, name: object) -> str | None:
        """``None`` for a good name, else ``"expected <text>, got <repr>"``.

        The caller puts the place in front and raises the error that fits it.
        """
        if isinstance(name, str) and self.pattern.fullmatch(name):
            return None
        got = repr(name)
        shown = got if len(got) <= _SHOWN else f"{got[: _SHOWN - 3]}..."
        return f"expected {self.text}, got {shown}"


def _rule(pattern: str, text: str) -> NameRule:
    return NameRule(re.compile(pattern, re.ASCII), text)


#: Log paths and commands are made of these: hence no leading ``.`` or ``-``.
_ID = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,249}"
_ID_TEXT = "1 to 250 letters, digits, '_', '-', '.', not beginning with '-' or '.'"

DAG_ID = _rule(_ID, _ID_TEXT)
TASK_ID = _rule(_ID, _ID_TEXT)
RUN_ID = _rule(
    r"[A-Za-z0-9_][A-Za-z0-9_.~:+-]{0,249}",
    "1 to 250 letters, digits, '_', '-', '.', '~', ':', '+', beginning with a letter, digit or '_'",
)
#: A routing key on ``flow.tasks``; ``flow.q.<queue>`` stays far below AMQP's 255 bytes.
QUEUE = _rule(r"[A-Za-z0-9_.-]{1,100}", "1 to 100 letters, digits, '.', '_', '-'")
MAX_AGENT = 100
#: First word of an event's routing key: so no dot, and no underscore (the dispatcher's own keys).
AGENT = _rule(rf"[a-z0-9-]{{1,{MAX_AGENT}}}", f"1 to {MAX_AGENT} lower-case letters, digits, '-'")
