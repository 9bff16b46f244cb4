"""For how long certificates are good."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flow.cli.checks.finding import Judgement, ok, problem, warning

#: Days before its end from which on somebody should renew a certificate.
SOON = 30
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"

# DER (X.690): the types that are met on the way to the dates of an X.509 certificate (RFC 5280).
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_LONG = 0x80
#: Of a year with two digits.
_NEXT_CENTURY = 2050


class NotACertificate(ValueError):
    """Something else."""


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate counts."""

    begin: datetime
    end: datetime


def validity(der: bytes) -> Validity:
    """Of a certificate in DER. Raises :class:`NotACertificate`."""
    try:
        _, certificate, _ = _element(der)
        _, signed, _ = _element(certificate)
        kind, _, after = _element(signed)
        if kind == _VERSION:
            _, _, after = _element(after)
        for _ in ("the signature's algorithm", "the issuer"):
            _, _, after = _element(after)
        kind, dates, _ = _element(after)
        if kind != _SEQUENCE:
            raise NotACertificate("its dates are not where they should be")
        begin_kind, begin, rest = _element(dates)
        end_kind, end, _ = _element(rest)
        return Validity(_time(begin_kind, begin), _time(end_kind, end))
    except (IndexError, ValueError) as error:
        raise NotACertificate(str(error)) from None


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The type and the content of the first element in *data*, and what follows it."""
    kind, length, start = data[0], data[1], 2
    if length & _LONG:
        start += length & ~_LONG
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise NotACertificate("it ends too early")
    return kind, data[start : start + length], data[start + length :]


def _time(kind: int, content: bytes) -> datetime:
    formats = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}
    if kind not in formats:
        raise NotACertificate(f"a date of type {kind}")
    found = datetime.strptime(content.decode("ascii"), formats[kind]).replace(tzinfo=UTC)
    # RFC 5280: two digits of 50 and more are of the last century; strptime begins with 69.
    if kind == _UTC_TIME and found.year >= _NEXT_CENTURY:
        return found.replace(year=found.year - 100)
    return found


def certificates_in(pem: bytes) -> list[bytes]:
    """Those of a file in PEM, in DER."""
    import ssl

    texts = [part.partition(_END)[0] for part in pem.split(_BEGIN)[1:]]
    return [
        ssl.PEM_cert_to_DER_cert((_BEGIN + text + _END).decode("ascii", "replace"))
        for text in texts
    ]


def check_file(path: Path, what: str, now: datetime) -> Iterator[Judgement]:
    """The certificate in *path* that ends first, which is *what*."""
    try:
        found = [validity(der) for der in certificates_in(path.read_bytes())]
    except ValueError as error:
        yield problem(f"{what}, {path}: expected certificates in PEM, got {error}", "correct it")
        return
    if not found:
        what_is_there = f"{what}, {path}: expected certificates in PEM, got none"
        yield problem(what_is_there, "name another file, or write one there")
        return
    yield judge(f"{what} in {path}", min(found, key=lambda each: each.end), now)


def check_der(der: bytes, what: str, now: datetime) -> Iterator[Judgement]:
    """A certificate that was shown, which is *what*."""
    try:
        yield judge(what, validity(der), now)
    except NotACertificate as error:
        yield warning(f"{what}: its dates cannot be read: {error}", "look at it with openssl")


def judge(what: str, dates: Validity, now: datetime) -> Judgement:
    """Whether it counts, and for how long."""
    until = f"{dates.end:%Y-%m-%d}"
    days = (dates.end - now).days
    if now >= dates.end:
        return problem(f"{what} has expired on {until}", "renew it")
    if now < dates.begin:
        return problem(
            f"{what} counts only from {dates.begin:%Y-%m-%d %H:%M} UTC on",
            "is this machine's clock right?",
        )
    if days < SOON:
        return warning(f"{what} expires in {days} days, on {until}", "renew it")
    return ok(f"{what} is good for {days} days, until {until}")
