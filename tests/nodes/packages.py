"""The only way out that nodes have: a caching proxy for distribution packages, on the host.

``python -m tests.nodes.packages FD FOLDER`` serves on the listening socket FD, which belongs to the
nodes' network, and fetches in the network of the process itself. It hands out one Debian mirror
and nothing else. What never changes (packages, lists by their hash) is kept in FOLDER.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Never

from tests.nodes.rootfs import MIRROR

_PATIENCE = 120.0


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET http://deb.debian.org/...`` as apt asks a proxy."""

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]

    def do_GET(self) -> None:
        if not self.path.startswith(f"{MIRROR}/"):
            self.send_error(HTTPStatus.FORBIDDEN, "nodes reach the package mirror only")
            return
        try:
            path, temporary = self._fetched(self.path)
        except urllib.error.HTTPError as error:
            self.send_error(error.code, error.reason)
            return
        except OSError as error:
            self.send_error(HTTPStatus.BAD_GATEWAY, f"{type(error).__name__}: {error}")
            return
        try:
            self._answer(path)
        finally:
            if temporary:
                path.unlink()

    def _answer(self, path: Path) -> None:
        with path.open("rb") as content:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", str(os.fstat(content.fileno()).st_size))
            self.end_headers()
            # apt goes away in the middle when it is stopped: its affair.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                shutil.copyfileobj(content, self.wfile)

    def _fetched(self, url: str) -> tuple[Path, bool]:
        """A file with the answer, and whether it has to be removed after use."""
        kept = self.folder / hashlib.sha256(url.encode()).hexdigest()
        lasting = url.endswith(".deb") or "/by-hash/" in url
        if lasting and kept.exists():
            return kept, False
        # Whole before it is seen: two nodes, or two runs, may fetch the same.
        with (
            urllib.request.urlopen(url, timeout=_PATIENCE) as answer,  # noqa: S310 -- http, checked
            tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as new,
        ):
            shutil.copyfileobj(answer, new)
        path = Path(new.name)
        return (path.rename(kept), False) if lasting else (path, True)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base's name
        """Nothing: apt tells what it gets."""


def main(arguments: Sequence[str]) -> Never:
    """The command line; see the module's docstring."""
    descriptor, folder = arguments
    Handler.folder = Path(folder)
    Handler.folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(descriptor))
    server.serve_forever()
    raise AssertionError("serve_forever returned")


if __name__ == "__main__":
    main(sys.argv[1:])
