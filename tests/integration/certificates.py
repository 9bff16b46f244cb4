"""An authority of the tests' own, and certificates by it, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates. Everything lies in *folder*, readable for all: the servers of a test run
    as users of their own."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.own = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-days", "30", "-subj", f"/CN=flow test {name}"),
            *("-keyout", self.own.key, "-out", self.own.cert),
            *("-addext", "basicConstraints=critical,CA:TRUE"),
        )

    @property
    def file(self) -> Path:
        """What its certificates are verified with."""
        return self.own.cert

    def sign(self, name: str, *, host: str = "", days: int = 30) -> Pair:
        """A certificate of *name*; with *host* (``IP:127.0.0.1``, ``DNS:localhost``) of a server.
        A negative number of *days*: one that has expired."""
        made = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        subject = ["-subj", f"/CN={name}"]
        _openssl("req", "-new", *_NEW_KEY, *subject, "-keyout", made.key, "-out", request)
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={host}\n" if host else "")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.own.cert, "-CAkey", self.own.key),
            *("-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", made.cert),
        )
        made.key.chmod(0o644)
        return made


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
