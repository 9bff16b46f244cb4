"""A URL that holds a password and does not show it by accident."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

MASK = "***"
_SECRET_PARAMETER = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*)=[^&#]*")


class SecretUrl:
    """A checked URL. ``str`` and ``repr`` mask its password, :meth:`reveal` gives it whole."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def reveal(self) -> str:
        """The whole URL, for the library that connects. Never log it."""
        return self._url

    @property
    def scheme(self) -> str:
        """In lower case: ``amqp``, ``postgresql``, ..."""
        return urlsplit(self._url).scheme

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        user, found, host = parts.netloc.rpartition("@")
        if found and ":" in user:
            user = f"{user.partition(':')[0]}:{MASK}"
        # Not urlunsplit: it drops the slashes of sqlite:////path.
        rest = self._url.partition("://")[2][len(parts.netloc) :]
        rest = _SECRET_PARAMETER.sub(rf"\1={MASK}", rest)
        return f"{parts.scheme}://{user}{found}{host}{rest}"

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretUrl) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)
