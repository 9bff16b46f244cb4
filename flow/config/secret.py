"""A URL that holds a password and does not show it by accident."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlsplit

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

    @property
    def has_password(self) -> bool:
        """Whether the URL itself brings one, or (libpq) a parameter with it."""
        parts = urlsplit(self._url)
        return parts.password is not None or "password" in parse_qs(parts.query)

    @property
    def has_user(self) -> bool:
        """Whether the URL says who connects."""
        parts = urlsplit(self._url)
        return bool(parts.username) or "user" in parse_qs(parts.query)

    def with_password(self, password: str) -> SecretUrl:
        """The same with *password*; only for one that has none."""
        parts = urlsplit(self._url)
        user, _, host = parts.netloc.rpartition("@")
        netloc = f"{user.removesuffix(':')}:{quote(password, safe='')}@{host}"
        return SecretUrl(self._url.replace(f"//{parts.netloc}", f"//{netloc}", 1))

    def with_user(self, user: str) -> SecretUrl:
        """The same for *user*, where there is a password and nobody that it belongs to."""
        parts = urlsplit(self._url)
        if parts.username or parts.password is None:
            return self
        netloc = f"{quote(user, safe='')}{parts.netloc}"
        return SecretUrl(self._url.replace(f"//{parts.netloc}", f"//{netloc}", 1))

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
