"""The messages between dispatcher and agents: msgspec structs, JSON on the wire.

Every message carries ``type`` and ``version``. Unknown fields are ignored and adding an optional
field keeps the version, so a release reads the messages of the one before it and the one after.
A newer *version* is refused by name. Nothing is ever unpickled and no class path comes from data.
Times are seconds since the Unix epoch (``*_at``) or plain seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from flow.bundle import Digest
from flow.dagspec import MAX_XCOM_BYTES, OnAgentLost, Resources
from flow.errors import MessageError

VERSION = 1
#: Larger bodies are parked unread: flow's own messages stay below.
MAX_BYTES = MAX_XCOM_BYTES + 1024 * 1024

# What events say ends in the database. A value that no column takes would fail the transaction of
# everything that came with it, each time it is redelivered: so it is refused here.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
ExitCode = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*$")]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all messages have in common. ``kind`` is the last word of an event's routing key."""

    kind: ClassVar[str] = ""
    version: int = VERSION


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What people want of an agent, beside or in the place of its own settings."""

    drained: Text = ""
    """Why it shall take nothing new; empty: it may."""
    queues: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)] | None = None
    """``None``: those of its settings."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None


# -- to a task queue ---------------------------------------------------------------------------


class Task(Message, frozen=True, kw_only=True, tag="task"):
    """A doorbell: this try of this task instance may be claimed. It gives no right to run it."""

    task_instance_id: int
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    try_number: int
    queue: str
    operator: str
    """Which kind of task: ``bash``, ``python`` or ``empty``."""
    arguments: dict[str, Any]
    """What that kind needs; see :class:`flow.dagspec.TaskSpec`."""
    execution_timeout: float | None = None
    on_agent_lost: OnAgentLost = "rerun"
    logical_date: str | None = None
    """ISO 8601 in UTC, like the two that follow."""
    data_interval_start: str | None = None
    data_interval_end: str | None = None
    bundle: str | None = None
    """The DAG folder that it runs with (flow.bundle); ``None``: none is shipped."""
    dag_file: str | None = None
    """Path of the DAG file in that folder."""
    line: int = 0
    """Where the task is in that file."""
    resources: Resources = Resources()


# -- events, from an agent (all on one channel, in order) --------------------------------------


class Event(Message, frozen=True, kw_only=True):
    """Sent by one session of one agent; anything from a lower session is refused."""

    agent: Text
    session: Number
    incarnation: Text = ""
    """Random per agent process. Two machines that use one agent's name may count to the same
    session; ``""`` from agents that do not say."""


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """First words of a session and of each of its connections.

    Releases all tokens of *older* sessions except those in ``spooled`` (their result will follow)
    and ``kept`` (still running under ``on_agent_lost="wait"``). Sent only once every process of
    the older sessions is proven dead.
    """

    kind: ClassVar[str] = "hello"
    home_id: str
    """Which machine, and which state directory on it: only that one can vouch for its dead."""
    boot_id: str
    uptime: float = 0.0
    """Not read any more; sent for dispatchers of the release before, which require it."""
    incarnation: Text
    """Also tells a lapse of the same process from a restart."""
    queues: tuple[Text, ...]
    slots: Count
    lease: float
    """L: seconds for which the agent holds its lease. The dispatcher takes over at this L + G."""
    spooled: tuple[Number, ...] = ()
    kept: tuple[Number, ...] = ()
    software: str = ""
    suspended: Text = ""
    """Why nothing new may start there for now, if so: its disk is full."""
    terms: Terms | None = None
    """What it was told last, and obeys; ``None`` from agents that cannot be told (they would park
    :class:`Configure`)."""
    cores: Count = 0
    """CPUs of the machine that it may use; 0 from agents that do not say."""
    memory: Number = 0
    """Of the machine, in bytes."""
    gpus: tuple[Text, ...] = ()
    """Its devices, one text each, as it gives them to tasks: ``0: NVIDIA A100-SXM4-80GB``."""
    gpu_share: Count = 1
    """How many tasks may have one device at the same time."""
    limits: bool = False
    """Whether it can hold tasks to memory, cpus and pids."""


class Claim(Event, frozen=True, kw_only=True, tag="claim"):
    """May I run this try? Resent until answered; (session, task instance, try) identifies it."""

    kind: ClassVar[str] = "claim"
    task_instance_id: Number
    try_number: Count
    queue: Text
    free_slots: Count
    free_gpus: Count | None = None
    """How many different devices it could give a task; another agent of its node may use some.
    ``None`` from agents that do not say."""


class Heartbeat(Event, frozen=True, kw_only=True, tag="heartbeat"):
    """Renews the session's lease once the broker has confirmed it as routed."""

    kind: ClassVar[str] = "heartbeat"
    lease: float
    tokens: tuple[Number, ...] = ()
    slots: Count = 0
    free_gpus: Count | None = None
    """As in :class:`Claim`."""
    load: float = 0.0
    suspended: Text = ""
    """As in :class:`Hello`, and so is the next."""
    terms: Terms | None = None


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """For information only: the process of a token exists."""

    kind: ClassVar[str] = "started"
    task_instance_id: Number
    token: Number
    pid: Count
    started_at: float


class Finished(Event, frozen=True, kw_only=True, tag="finished"):
    """A token's end with a result; spooled on disk before it is sent, resent until answered."""

    kind: ClassVar[str] = "finished"
    task_instance_id: Number
    try_number: Count
    token: Number
    state: Literal["success", "failed", "skipped"]
    exit_code: ExitCode | None = None
    reason: str = ""
    started_at: float
    ended_at: float
    follow: tuple[str, ...] | None = None
    """A branch: the direct downstream tasks to go on with; the others are skipped."""
    stop: bool = False
    """A short circuit: everything below is skipped."""
    final: bool = False
    """A failure that no retry would mend."""
    xcom: dict[Text, msgspec.Raw] = {}
    """What the try has pushed, by key: JSON as the task wrote it."""
    memory_peak: Number | None = None
    """The most its processes used together, in bytes, where the node measures it."""
    cpu_seconds: Seconds | None = None
    """CPU time of all its processes, likewise."""


class Release(Event, frozen=True, kw_only=True, tag="release"):
    """The end of a token without a result: nothing of it runs. Resent until answered."""

    kind: ClassVar[str] = "release"
    task_instance_id: Number
    token: Number
    reason: str
    fault: bool = False
    """It could not be started here (as opposed to: the agent drains). Three in a row fail it."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a running task asks for: ``key`` of task ``name`` of its run (``""``: of whichever task
    pushed it last), or variable ``name``."""

    kind: Literal["xcom", "variable"]
    name: Text
    key: Text = ""


class Ask(Event, frozen=True, kw_only=True, tag="ask"):
    """The task of a live token asks for these; resent until answered. It reads of its own run
    only."""

    kind: ClassVar[str] = "ask"
    token: Number
    request: Number
    """Unique within one agent process."""
    wanted: Annotated[tuple[Wanted, ...], msgspec.Meta(min_length=1, max_length=10_000)]


class PieceName(msgspec.Struct, frozen=True, array_like=True):
    """Which piece of which blob; pieces are counted from 0."""

    digest: Digest
    number: Count


class PiecesWanted(Event, frozen=True, kw_only=True, tag="pieces_wanted"):
    """Send these pieces of a bundle's files, or of its manifest (whose digest is the bundle's id).
    Few at a time, and again until they come."""

    kind: ClassVar[str] = "pieces_wanted"
    bundle: Digest
    pieces: tuple[PieceName, ...]


class Goodbye(Event, frozen=True, kw_only=True, tag="goodbye"):
    """Last message of a drain: no process of this session is left."""

    kind: ClassVar[str] = "goodbye"


# -- control, to an agent ----------------------------------------------------------------------


class Reply(Message, frozen=True, kw_only=True):
    """Addressed to one session of one agent process; an agent ignores those of any other."""

    session: int
    incarnation: Text = ""


class Grant(Reply, frozen=True, kw_only=True, tag="grant"):
    """The claim holds, or none is needed: run this try under this fencing token."""

    task_instance_id: int
    try_number: int
    token: int
    inputs: dict[str, Any] = {}
    task: Task | None = None
    """The task, where the agent may not have claimed it: it was handed over, or this is a repeat of
    a grant that was lost."""


class Offer(Reply, frozen=True, kw_only=True, tag="offer"):
    """The doorbell rung at one agent: another one of its queue had no room for the task, this one
    has. It is claimed like any other; nothing is lost with it."""

    task: Task


class Deny(Reply, frozen=True, kw_only=True, tag="deny"):
    """The claim does not hold: ack the delivery and forget it."""

    task_instance_id: int
    try_number: int
    reason: str


class Answered(Reply, frozen=True, kw_only=True, tag="answered"):
    """These tokens' results or releases are dealt with (recorded, or refused as stale)."""

    tokens: tuple[int, ...]


class HelloWanted(Reply, frozen=True, kw_only=True, tag="hello_wanted"):
    """The dispatcher does not know this session: its hello was lost, or not accepted yet
    (``reason``). Say it again."""

    reason: str = ""


class Configure(Reply, frozen=True, kw_only=True, tag="configure"):
    """What is wanted of the agent from now on. Follows every hello and every change, and is
    repeated until the agent's own words show it; sent only to agents that state their terms."""

    terms: Terms


class Stop(Reply, frozen=True, kw_only=True, tag="stop"):
    """Somebody wants this token's task to end: kill it, and report how it ended. Repeated for as
    long as heartbeats list the token."""

    token: Number
    reason: str


class Answer(Reply, frozen=True, kw_only=True, tag="answer"):
    """To an :class:`Ask`: for the first of what was wanted, as many as fit into a message, a list
    with the JSON value or, where there is none, an empty one. ``error``: it is not answered."""

    request: int
    values: tuple[tuple[msgspec.Raw, ...], ...] = ()
    error: str = ""


class Piece(Reply, frozen=True, kw_only=True, tag="piece"):
    """One piece of a blob of ``size`` bytes in all (``flow.bundle.PIECE_BYTES`` each, the last one
    what is left)."""

    digest: Digest
    number: Count
    size: Number
    data: bytes


class NoPiece(Reply, frozen=True, kw_only=True, tag="no_piece"):
    """The dispatcher does not have this piece, and asking again will not help."""

    digest: Digest
    number: Count


class SessionEnded(Reply, frozen=True, kw_only=True, tag="session_ended"):
    """The dispatcher has taken this session over or refuses it. The agent lapses and says hello
    with a session above ``last_session``, not sooner than some seconds later."""

    reason: str
    last_session: int = 0


# -- on flow.events, from dispatchers and commands ---------------------------------------------


class Probe(Message, frozen=True, kw_only=True, tag="probe"):
    """A dispatcher's own message to itself: receiving any delivery is the election."""

    dispatcher: str


class Marker(Message, frozen=True, kw_only=True, tag="marker"):
    """Published in line with the events: what was sent before it has been read when it returns."""

    reign: int
    number: int


class Wake(Message, frozen=True, kw_only=True, tag="wake"):
    """A command wrote an intent row. Losing this message costs one poll interval."""


# -- logs --------------------------------------------------------------------------------------


class LogChunk(Message, frozen=True, kw_only=True, tag="log"):
    """A piece of a task's output. ``offset`` counts UTF-8 bytes from the start of the try's log,
    so that storing a chunk twice changes nothing. ``last`` marks the end of the output."""

    task_instance_id: Number
    try_number: Count
    token: Number
    run_id: str
    offset: Number
    text: str
    last: bool = False


_TYPES: dict[str, type[Message]] = {
    str(cls.__struct_config__.tag): cls
    for cls in (
        *(Task, Hello, Claim, Heartbeat, Started, Finished, Release, PiecesWanted, Goodbye),
        *(Piece, NoPiece, Ask, Answer),
        *(Grant, Offer, Deny, Answered, HelloWanted, Configure, Stop, SessionEnded),
        *(Probe, Marker, Wake, LogChunk),
    )
}
_encoder = msgspec.json.Encoder()
_decoders = {tag: msgspec.json.Decoder(cls) for tag, cls in _TYPES.items()}


class _Envelope(msgspec.Struct):
    type: str
    version: int


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """Whose an event is: what every version of every event says."""

    type: str
    version: int
    agent: Text
    session: Number
    incarnation: Text = ""


class NewerVersion(MessageError):
    """A message of a version that this release does not read."""

    def __init__(self, text: str, version: int) -> None:
        super().__init__(text)
        self.version = version


_envelope = msgspec.json.Decoder(_Envelope)
_sender = msgspec.json.Decoder(Sender)


def encode(message: Message) -> bytes:
    """The body that :func:`decode` reads."""
    return _encoder.encode(message)


def decode(body: bytes) -> Message:
    """Read a body from the broker.

    Raises :class:`MessageError` with a reason fit for an operator when it is too large, not JSON,
    of an unknown type, of a newer version (:class:`NewerVersion`), or lacks what its type needs.
    """
    if len(body) > MAX_BYTES:
        raise MessageError(f"message: expected at most {MAX_BYTES} bytes, got {len(body)}")
    try:
        envelope = _envelope.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(
            f"message: expected a JSON object with type and version, got {body[:80]!r}: {error}"
        ) from None
    if envelope.version > VERSION:
        raise NewerVersion(
            f"message {envelope.type!r}: expected version {VERSION} or lower, "
            f"got {envelope.version}; upgrade the receiver first",
            envelope.version,
        )
    decoder = _decoders.get(envelope.type)
    if decoder is None:
        raise MessageError(f"message: expected a known type, got {envelope.type!r}")
    if envelope.version < 1:
        raise MessageError(
            f"message {envelope.type!r}: expected a version from 1, got {envelope.version}"
        )
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"message {envelope.type!r}: {error}") from None


def sender(body: bytes) -> Sender | None:
    """Whose event *body* is, of whatever version; ``None`` if it does not say."""
    try:
        return _sender.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
