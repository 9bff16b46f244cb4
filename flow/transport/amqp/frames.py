"""The few kinds of AMQP 0-9-1 frames that come and go by the thousand, as bytes.

Everything else is left to aiormq. Section numbers are those of the AMQP 0-9-1 specification.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pamqp.decode
import pamqp.encode

from flow.transport.port import Publication

METHOD, HEADER, BODY = 1, 2, 3
#: Type, channel and size of what follows (2.3.5); an end octet comes after that.
FRAME = struct.Struct(">BHI")
END = b"\xce"
#: Around the payload.
OVERHEAD = FRAME.size + len(END)
HEARTBEAT = FRAME.pack(8, 0, 0) + END

#: Class and method, the first four octets of a method frame.
CLOSE = struct.pack(">HH", 20, 40)
RETURN = struct.pack(">HH", 60, 50)
DELIVER = struct.pack(">HH", 60, 60)
ACK = struct.pack(">HH", 60, 80)
NACK = struct.pack(">HH", 60, 120)

_PUBLISH = struct.pack(">HHH", 60, 40, 0)
_ACK = struct.Struct(">BHI4sQBc")
_TAG = struct.Struct(">QB")
#: Class, weight, size of the body, which properties follow (4.2.6.1).
_CONTENT = struct.Struct(">HHQH")
_TABLE = struct.Struct(">I")
_TIMESTAMP_SIZE = 8
_PERSISTENT = b"\x02"
_JSON = b"\x10application/json"

# The properties in the order in which they follow each other, as the bits that announce them.
_CONTENT_TYPE, _ENCODING, _HEADERS, _MODE, _PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
_CORRELATION, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 1 << 10, 1 << 9, 1 << 8, 1 << 7
_TIMESTAMP, _TYPE, _USER_ID = 1 << 6, 1 << 5, 1 << 4


class Properties(NamedTuple):
    """What flow goes by of a message's properties."""

    message_id: str | None
    user_id: str | None


def publish(
    channel: int, publication: Publication, *, message_id: str, user_id: str | None, frame_max: int
) -> bytes:
    """``basic.publish`` with its content, persistent. *frame_max* is the broker's limit on a
    frame. Raises :class:`ValueError` when exchange or key is longer than AMQP allows."""
    flags = _CONTENT_TYPE | _MODE | _MESSAGE_ID
    properties = [_JSON]
    if publication.headers:
        flags |= _HEADERS
        properties.append(pamqp.encode.field_table(dict(publication.headers)))
    properties.append(_PERSISTENT)
    if publication.expiration is not None:
        flags |= _EXPIRATION
        properties.append(_short(str(max(0, round(publication.expiration * 1000)))))
    properties.append(_short(message_id))
    if user_id is not None:
        flags |= _USER_ID
        properties.append(_short(user_id))
    where = _short(publication.exchange) + _short(publication.key)
    body = publication.body
    frames = [
        frame(METHOD, channel, _PUBLISH + where + bytes((publication.mandatory,))),
        frame(HEADER, channel, _CONTENT.pack(60, 0, len(body), flags) + b"".join(properties)),
    ]
    room = frame_max - OVERHEAD
    frames += (frame(BODY, channel, body[at : at + room]) for at in range(0, len(body), room))
    return b"".join(frames)


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """``basic.ack``."""
    return _ACK.pack(METHOD, channel, 13, ACK, tag, multiple, END)


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One frame."""
    return FRAME.pack(kind, channel, len(payload)) + payload + END


def confirmed(payload: bytes) -> tuple[int, bool]:
    """Tag and ``multiple`` of a ``basic.ack`` or ``basic.nack``."""
    tag, bits = _TAG.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def delivered(payload: bytes) -> tuple[int, bool, str]:
    """Tag, ``redelivered`` and routing key of a ``basic.deliver``."""
    at = 5 + payload[4]  # past the consumer's tag
    tag, bits = _TAG.unpack_from(payload, at)
    at += _TAG.size
    at += 1 + payload[at]  # past the exchange
    key = payload[at + 1 : at + 1 + payload[at]]
    return tag, bool(bits & 1), key.decode(errors="replace")


def body_size(header: bytes) -> int:
    """Of the message whose content header this is, in bytes."""
    size: int = _CONTENT.unpack_from(header)[2]
    return size


def headers(header: bytes) -> dict[str, object]:
    """The application's headers of a message, whose content header this is."""
    flags, at = _to_headers(header)
    return dict(pamqp.decode.field_table(header[at:])[1]) if flags & _HEADERS else {}


def properties(header: bytes) -> Properties:
    """What a content header says of its message. The headers are passed over unread: they may be
    anybody's, and whoever asks for the user has no use for what is wrong with them."""
    flags, at = _to_headers(header)
    if flags & _HEADERS:
        at += _TABLE.size + _TABLE.unpack_from(header, at)[0]
    at += bool(flags & _MODE) + bool(flags & _PRIORITY)
    for bit in (_CORRELATION, _REPLY_TO, _EXPIRATION):
        at = _skip(header, at) if flags & bit else at
    message_id = user_id = None
    if flags & _MESSAGE_ID:
        message_id = _text(header, at)
        at = _skip(header, at)
    at += _TIMESTAMP_SIZE if flags & _TIMESTAMP else 0
    at = _skip(header, at) if flags & _TYPE else at
    if flags & _USER_ID:
        user_id = _text(header, at)
    return Properties(message_id, user_id)


def _to_headers(header: bytes) -> tuple[int, int]:
    """Which properties there are, and where the headers are if they are among them."""
    flags, at = _CONTENT.unpack_from(header)[3], _CONTENT.size
    for bit in (_CONTENT_TYPE, _ENCODING):
        at = _skip(header, at) if flags & bit else at
    return flags, at


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def _skip(payload: bytes, at: int) -> int:
    return at + 1 + payload[at]


def _text(payload: bytes, at: int) -> str:
    return payload[at + 1 : _skip(payload, at)].decode(errors="replace")
