"""TLS towards the broker: whom to trust, who one is, and what is wrong in words.

Shared by the two AMQP libraries that flow uses.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from flow.errors import ConfigError

T = TypeVar("T")

#: Of the URL, as aiormq has them; the settings go before.
PARAMETERS = ("cafile", "certfile", "keyfile")
#: It would let anybody read and change what agents are told.
REFUSED_PARAMETER = "no_verify_ssl"

# X509_verify_cert_error_string(3).
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
_OTHER_NAME = (62, 64)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. Without *ca_file* the system's authorities count; *cert_file*, with its key
    (*key_file*, or in the same file), is who this side is."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def or_of(self, url: str) -> Tls:
        """These files, and those that *url* names for what is not set.

        Raises :class:`~flow.errors.ConfigError` when it asks not to verify anything."""
        query = parse_qs(urlsplit(url).query, keep_blank_values=True)
        if REFUSED_PARAMETER in query:
            raise ConfigError(
                f"broker url: expected no {REFUSED_PARAMETER!r}, since certificates are always "
                "verified; name the authority that signed the broker's in broker.ca_file"
            )
        named = [Path(query[name][0]) if query.get(name) else None for name in PARAMETERS]
        ca_file, cert_file, key_file = named
        return Tls(self.ca_file or ca_file, self.cert_file or cert_file, self.key_file or key_file)

    def context(self) -> ssl.SSLContext:
        """For one connection: so a certificate that was renewed counts from the next one on.

        Raises :class:`~flow.errors.ConfigError`, naming the file that cannot be used."""
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError(
                f"broker.key_file: expected broker.cert_file beside it, got {str(self.key_file)!r} "
                "alone"
            )
        ca_file = self.ca_file
        context = _loaded(
            "ca_file",
            ca_file,
            "certificates of authorities",
            lambda: ssl.create_default_context(
                ssl.Purpose.SERVER_AUTH, cafile=None if ca_file is None else str(ca_file)
            ),
        )
        if self.cert_file is not None:
            self._add_certificate(context, self.cert_file)
        return context

    def _add_certificate(self, context: ssl.SSLContext, cert_file: Path) -> None:
        key_file = self.key_file or cert_file
        # Looked at on their own first, since OpenSSL does not say which of the two it means.
        _loaded("cert_file", cert_file, "a certificate", cert_file.read_bytes)
        _loaded("key_file", key_file, "a private key", key_file.read_bytes)
        # With a password OpenSSL does not ask the terminal for that of an encrypted key.
        _loaded(
            "cert_file" if self.key_file is None else "key_file",
            key_file,
            f"the unencrypted private key of {str(cert_file)!r}",
            lambda: context.load_cert_chain(cert_file, key_file, password=""),
        )

    def problem(self, error: BaseException, host: str) -> str | None:
        """Why a connection to *host*, with TLS, failed, and the remedy, if it was for that."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._unverified(error, host)
        closed = isinstance(error, ConnectionResetError | BrokenPipeError | EOFError)
        if closed and self.cert_file is not None:
            # TLS 1.3 refuses a client's certificate after the handshake, and closes: whether the
            # reason arrives before the reset is a matter of luck.
            own = str(self.cert_file)
            return f"the other side closed it; does it trust this side's certificate, {own!r}?"
        if not isinstance(error, ssl.SSLError):
            return None
        reason = (error.reason or "").lower().replace("_", " ")
        if "wrong version number" in reason or "record layer failure" in reason:
            return "the other side speaks no TLS on this port; is the port right?"
        if "alert" in reason:
            own = "none (broker.cert_file is not set)"
            if self.cert_file is not None:
                own = repr(str(self.cert_file))
            return f"the broker refuses this side's certificate, {own}: {reason}"
        return f"TLS failed: {reason or error}"

    def _unverified(self, error: ssl.SSLCertVerificationError, host: str) -> str:
        whom = "the system's authorities" if self.ca_file is None else repr(str(self.ca_file))
        code = error.verify_code
        if code == _EXPIRED:
            return f"a certificate of the broker, or of {whom}, has expired; renew it"
        if code == _NOT_YET_VALID:
            return (
                f"a certificate of the broker, or of {whom}, is not valid yet; is this machine's "
                "clock right?"
            )
        if code in _OTHER_NAME:
            return (
                f"the broker's certificate is not for {host!r}; use the name it is for in "
                "broker.url, or give the broker another"
            )
        if code in _UNKNOWN_AUTHORITY:
            return (
                f"the broker's certificate is signed by nobody in {whom}; name the authority that "
                "signed it in broker.ca_file"
            )
        return f"the broker's certificate is refused: {error.verify_message}"


#: Nothing is set.
DEFAULT = Tls()


def _loaded(setting: str, file: Path | None, what: str, load: Callable[[], T]) -> T:
    where = f"broker.{setting}: expected a file with {what}, got {str(file)!r}"
    try:
        return load()
    except ssl.SSLError as error:  # before OSError, which it is
        reason = (error.reason or "nothing of the kind in it").lower().replace("_", " ")
        raise ConfigError(f"{where}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
