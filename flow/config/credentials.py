"""Passwords from files: for URLs that have none.

The file is the setting's, else the one that systemd put into ``$CREDENTIALS_DIRECTORY``
(systemd.exec(5), LoadCredential=). What is in it never gets into a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flow.config.secret import SecretUrl

#: systemd's variable, and the names of the credentials that are looked for.
DIRECTORY = "CREDENTIALS_DIRECTORY"
CREDENTIALS = {"broker": "broker-password", "database": "database-password"}
#: Longer ones are no passwords but another file.
LONGEST = 4096


class BadCredential(Exception):
    """The file cannot be used. The text completes "expected ..., got ..."."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A URL with its password, and the file that it came from, if it did."""

    url: SecretUrl
    file: Path | None = None


def fill(
    section: str,
    url: SecretUrl,
    file: Path | None,
    environ: Mapping[str, str],
    *,
    where: str,
    user_follows: bool = False,
) -> Filled:
    """*url* of *section* with the password of *file*, or of the credential that is there.

    *where* begins a message about *file*. *user_follows*: a URL without a user gets one later, an
    agent's own name. Raises :class:`BadCredential`, with the whole message.
    """
    if url.scheme == "sqlite":
        if file is not None:
            raise BadCredential(f"{where}: expected no file, since SQLite knows no passwords")
        return Filled(url)
    if url.has_password:
        if file is not None:
            raise BadCredential(
                f"{where}: expected {section}.url without a password, got one in both places (a "
                f"secret, not shown); remove it from the URL"
            )
        return Filled(url)
    chosen, place = file, where
    if chosen is None:
        chosen = _credential(section, environ)
        place = f"{section}.url without a password"
    if chosen is None:
        return Filled(url)
    password = _read(chosen, place)
    if not password:
        if file is None:
            # The unit's placeholder: nobody put a password there.
            return Filled(url)
        raise BadCredential(f"{place}: expected a password in {chosen}, got an empty file")
    if not url.has_user and not user_follows:
        raise BadCredential(
            f"{place}: expected a user in {section}.url, to go with the password in {chosen}, got "
            f"none; write {url.scheme}://USER@HOST/..."
        )
    return Filled(url.with_password(password), chosen)


def _credential(section: str, environ: Mapping[str, str]) -> Path | None:
    folder = environ.get(DIRECTORY)
    path = Path(folder, CREDENTIALS[section]) if folder else None
    return path if path is not None and path.exists() else None


def _read(file: Path, where: str) -> str:
    expected = f"{where}: expected a readable file with the password"
    try:
        with file.open("rb") as content:
            body = content.read(LONGEST + 1)
        text = body.decode()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadCredential(
            f"{expected}, got {reason!r} for {file}; it must be there, and readable for this user"
        ) from None
    except UnicodeDecodeError:
        raise BadCredential(f"{expected}, got one that is no UTF-8 (not shown): {file}") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if len(body) > LONGEST or not text.isprintable():
        raise BadCredential(
            f"{expected}, got more than one line, control characters or more than {LONGEST} bytes "
            f"(not shown): {file}; it holds the password alone"
        )
    return text
