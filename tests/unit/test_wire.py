"""Messages on the wire: what was sent is read, and what is no message is refused by name."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow import wire
from flow.dagspec import Resources
from flow.errors import MessageError

GOLDEN = Path(__file__).resolve().parent.parent / "wire"

#: One message of each type with every field set. A golden file holds each as version 1 wrote it;
#: the files must decode for ever, so they are only ever added to.
MESSAGES: dict[str, wire.Message] = {
    "task": wire.Task(
        task_instance_id=42,
        dag_id="chain",
        run_id="manual__1",
        task_id="extract",
        map_index=3,
        try_number=2,
        queue="gpu.a100",
        operator="bash",
        arguments={"command": "echo ä", "env": {"A": "1"}, "cwd": None},
        execution_timeout=60.0,
        on_agent_lost="wait",
        logical_date="2026-11-20T00:00:00+00:00",
        data_interval_start="2026-11-20T00:00:00+00:00",
        data_interval_end="2026-11-21T00:00:00+00:00",
        bundle="sha256:00",
        dag_file="sub/chain.py",
        line=12,
    ),
    "hello": wire.Hello(
        agent="node1",
        session=7,
        home_id="m-1",
        boot_id="b-1",
        uptime=12.5,
        incarnation="i-1",
        queues=("q1", "q2"),
        slots=4,
        lease=60.0,
        spooled=(1700000000001,),
        kept=(1700000000002,),
        software="flow 0.1.0",
    ),
    "claim": wire.Claim(
        agent="node1", session=7, task_instance_id=42, try_number=2, queue="q1", free_slots=3
    ),
    "heartbeat": wire.Heartbeat(
        agent="node1", session=7, lease=60.0, tokens=(1700000000003,), slots=4, load=0.5
    ),
    "started": wire.Started(
        agent="node1", session=7, task_instance_id=42, token=1700000000003, pid=99, started_at=1.5
    ),
    "finished": wire.Finished(
        agent="node1",
        session=7,
        task_instance_id=42,
        try_number=2,
        token=1700000000003,
        state="failed",
        exit_code=-9,
        reason="killed by SIGKILL",
        started_at=1.5,
        ended_at=2.5,
        follow=("left",),
        stop=True,
        final=True,
        xcom={"return_value": msgspec.Raw(b"1")},
    ),
    "release": wire.Release(
        agent="node1",
        session=7,
        task_instance_id=42,
        token=1700000000003,
        reason="cannot start",
        fault=True,
    ),
    "goodbye": wire.Goodbye(agent="node1", session=7),
    "ask": wire.Ask(
        agent="node1",
        session=7,
        token=1700000000003,
        request=5,
        wanted=(
            wire.Wanted(kind="xcom", name="extract", key="return_value"),
            wire.Wanted(kind="variable", name="v"),
        ),
    ),
    "answer": wire.Answer(
        session=7, request=5, values=((msgspec.Raw(b"1"),), ()), error="token over"
    ),
    "pieces_wanted": wire.PiecesWanted(
        agent="node1",
        session=7,
        bundle="b" * 64,
        pieces=(wire.PieceName("b" * 64, 0), wire.PieceName("c" * 64, 3)),
    ),
    "piece": wire.Piece(session=7, digest="c" * 64, number=3, size=786433, data=b"\x00"),
    "no_piece": wire.NoPiece(session=7, digest="c" * 64, number=3),
    "grant": wire.Grant(
        session=7, task_instance_id=42, try_number=2, token=1700000000003, inputs={"x": [1]}
    ),
    "offer": wire.Offer(
        session=7,
        incarnation="5b0f6f2c",
        task=wire.Task(
            task_instance_id=42,
            dag_id="train",
            run_id="manual__1",
            task_id="fit",
            try_number=2,
            queue="gpu",
            operator="bash",
            arguments={"command": "nvidia-smi"},
            resources=Resources(slots=4, gpus=2, memory=2**30, cpus=1.5, pids=500),
        ),
    ),
    "deny": wire.Deny(session=7, task_instance_id=42, try_number=2, reason="stale"),
    "answered": wire.Answered(session=7, tokens=(1700000000003, 1700000000004)),
    "hello_wanted": wire.HelloWanted(session=7),
    "configure": wire.Configure(
        session=7,
        incarnation="5b0f6f2c",
        terms=wire.Terms(drained="new kernel (user ada)", queues=("gpu", "cpu"), slots=3),
    ),
    "stop": wire.Stop(session=7, token=1700000000003, reason="cancelled by user ada"),
    "session_ended": wire.SessionEnded(session=7, reason="taken over", last_session=8),
    "probe": wire.Probe(dispatcher="control-1"),
    "marker": wire.Marker(reign=3, number=17),
    "wake": wire.Wake(),
    "log": wire.LogChunk(
        task_instance_id=42,
        try_number=2,
        token=1700000000003,
        run_id="manual__1",
        offset=4096,
        text="a line\n",
        last=True,
    ),
}
CLASSES = {tag: type(message) for tag, message in MESSAGES.items()}


def as_object(message: wire.Message) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(wire.encode(message))
    return loaded


def body(tag: str, **changed: object) -> bytes:
    return json.dumps({**as_object(MESSAGES[tag]), **changed}).encode()


# -- what is sent is read ----------------------------------------------------------------------


def test_every_type_of_message_is_in_this_test() -> None:
    def leaves(cls: type[wire.Message]) -> set[type[wire.Message]]:
        below = {leaf for sub in cls.__subclasses__() for leaf in leaves(sub)}
        return below or {cls}

    assert set(CLASSES.values()) == leaves(wire.Message)


@pytest.mark.parametrize("tag", MESSAGES)
def test_a_message_is_read_as_it_was_sent(tag: str) -> None:
    assert wire.decode(wire.encode(MESSAGES[tag])) == MESSAGES[tag]


def test_every_message_says_its_type_and_version() -> None:
    for tag, message in MESSAGES.items():
        sent = as_object(message)
        assert (sent["type"], sent["version"]) == (tag, wire.VERSION)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
numbers = st.integers(0, 2**63 - 1)
counts = st.integers(0, 2**31 - 1)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
raws = json_values.map(lambda value: msgspec.Raw(json.dumps(value).encode()))
terms = st.builds(
    wire.Terms,
    drained=texts,
    queues=st.none() | st.lists(texts, min_size=1, max_size=3).map(tuple),
    slots=st.none() | st.integers(1, 2**31 - 1),
)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**53), 2**53),
    "Number": numbers,
    "Count": counts,
    "ExitCode | None": st.none() | st.integers(-(2**31), 2**31 - 1),
    "str": texts,
    "Text": texts,
    "str | None": st.none() | texts,
    "bool": st.booleans(),
    "float": finite,
    "float | None": st.none() | finite,
    "Digest": digests,
    "bytes": st.binary(max_size=40),
    "tuple[PieceName, ...]": st.lists(
        st.builds(wire.PieceName, digest=digests, number=counts), max_size=3
    ).map(tuple),
    "tuple[int, ...]": st.lists(numbers, max_size=5).map(tuple),
    "tuple[Number, ...]": st.lists(numbers, max_size=5).map(tuple),
    "tuple[str, ...] | None": st.none() | st.lists(texts, max_size=3).map(tuple),
    "tuple[Text, ...]": st.lists(texts, max_size=5).map(tuple),
    "dict[str, Any]": st.dictionaries(st.text(), json_values, max_size=3),
    "dict[Text, msgspec.Raw]": st.dictionaries(texts, raws, max_size=3),
    "tuple[tuple[msgspec.Raw, ...], ...]": st.lists(
        st.lists(raws, max_size=1).map(tuple), max_size=3
    ).map(tuple),
    "Annotated[tuple[Wanted, ...], msgspec.Meta(min_length=1, max_length=10000)]": st.lists(
        st.builds(wire.Wanted, kind=st.sampled_from(["xcom", "variable"]), name=texts, key=texts),
        min_size=1,
        max_size=3,
    ).map(tuple),
    "Number | None": st.none() | numbers,
    "Count | None": st.none() | counts,
    "Seconds | None": st.none() | st.floats(0, 1e12),
    "Resources": st.builds(
        Resources,
        slots=counts,
        gpus=counts,
        memory=st.none() | numbers,
        cpus=st.none() | finite,
        pids=st.none() | counts,
    ),
    "Task": st.just(MESSAGES["task"]),
    "Task | None": st.none() | st.just(MESSAGES["task"]),
    "Terms": terms,
    "Terms | None": st.none() | terms,
    "OnAgentLost": st.sampled_from(["rerun", "fail", "wait"]),
    "Literal['success', 'failed', 'skipped']": st.sampled_from(["success", "failed", "skipped"]),
}


def annotation(cls: type, name: str) -> str:
    """The type of a field as the module writes it."""
    owners = [base for base in cls.__mro__ if name in inspect.get_annotations(base)]
    return str(inspect.get_annotations(owners[0])[name]).replace('"', "'")


@st.composite
def messages(draw: st.DrawFn) -> wire.Message:
    cls = draw(st.sampled_from(list(CLASSES.values())))
    values = {
        name: draw(BY_TYPE[annotation(cls, name)])
        for name in cls.__struct_fields__
        if name != "version"
    }
    return cls(**values)


@given(messages())
def test_any_message_is_read_as_it_was_sent(message: wire.Message) -> None:
    assert wire.decode(wire.encode(message)) == message


@given(messages(), st.dictionaries(st.text(min_size=1).map("x_{}".format), json_values))
def test_fields_of_a_later_release_are_ignored(
    message: wire.Message, added: dict[str, object]
) -> None:
    assert wire.decode(json.dumps({**as_object(message), **added}).encode()) == message


@pytest.mark.parametrize("tag", MESSAGES)
def test_fields_with_defaults_may_be_missing_and_others_may_not(tag: str) -> None:
    sent = as_object(MESSAGES[tag])
    for field in msgspec.structs.fields(CLASSES[tag]):
        if field.name == "version":
            continue
        less = json.dumps({name: value for name, value in sent.items() if name != field.name})
        if field.required:
            with pytest.raises(MessageError, match=f"missing required field `{field.name}`"):
                wire.decode(less.encode())
        else:
            wire.decode(less.encode())


# -- golden files ------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", MESSAGES)
def test_what_version_1_wrote_is_read_for_ever(tag: str) -> None:
    assert wire.decode((GOLDEN / f"{tag}.v1.json").read_bytes()) == MESSAGES[tag]


def test_every_golden_file_is_read() -> None:
    files = sorted(GOLDEN.glob("*.json"))
    assert len(files) >= len(MESSAGES)
    for file in files:
        tag, version, _ = file.name.split(".")
        message = wire.decode(file.read_bytes())
        assert type(message) is CLASSES[tag]
        assert f"v{message.version}" == version


# -- what is no message ------------------------------------------------------------------------


@pytest.mark.parametrize("tag", MESSAGES)
def test_a_newer_version_is_refused_by_name(tag: str) -> None:
    with pytest.raises(MessageError) as caught:
        wire.decode(body(tag, version=2, task_instance_id="of another type then"))
    assert str(caught.value) == (
        f"message {tag!r}: expected version 1 or lower, got 2; upgrade the receiver first"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "Input data was truncated"),
        (b"hello", "JSON is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"{}", "missing required field `type`"),
        (b'{"type":"wake"}', "missing required field `version`"),
        (b'{"type":7,"version":1}', "Expected `str`, got `int`"),
        (b'{"type":"wake","version":"1"}', "Expected `int`, got `str`"),
        (b'{"type":"wake","version":1} x', "trailing characters"),
        (b'{"type":"wake","version":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b"\x80\x04\x95pickle", "JSON is malformed"),
        (b'\xff{"type":"wake","version":1}', "JSON is malformed"),
    ],
)
def test_what_is_no_message_is_refused_and_shown(text: bytes, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        wire.decode(text)
    said = str(caught.value)
    assert said.startswith("message: expected a JSON object with type and version, got b")
    assert reason in said
    assert len(said) < 600


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(MessageError) as caught:
        wire.decode(b'{"type":"os.system","version":1}')
    assert str(caught.value) == "message: expected a known type, got 'os.system'"


def test_a_large_body_is_refused_unread() -> None:
    with pytest.raises(MessageError) as caught:
        wire.decode(b"x" * (wire.MAX_BYTES + 1))
    assert str(caught.value) == "message: expected at most 9437184 bytes, got 9437185"


@pytest.mark.parametrize(
    ("tag", "changed"),
    [
        ("goodbye", {"session": "7"}),
        ("goodbye", {"session": 7.5}),
        ("goodbye", {"session": -1}),
        ("goodbye", {"session": 2**63}),
        ("goodbye", {"session": True}),
        ("goodbye", {"agent": "a\0b"}),
        ("goodbye", {"agent": None}),
        ("hello", {"slots": 2**31}),
        ("hello", {"queues": ["q", "\0"]}),
        ("hello", {"spooled": [-1]}),
        ("claim", {"try_number": -1}),
        ("claim", {"queue": "a\0"}),
        ("finished", {"state": "lost"}),
        ("finished", {"exit_code": 2**31}),
        ("finished", {"started_at": "now"}),
        ("heartbeat", {"tokens": 5}),
        ("task", {"on_agent_lost": "explode"}),
        ("log", {"offset": -1}),
        ("log", {"offset": 2**64}),
    ],
)
def test_a_value_that_no_row_could_hold_is_refused_by_type_and_field(
    tag: str, changed: dict[str, object]
) -> None:
    with pytest.raises(MessageError, match=f"^message '{tag}': .*{next(iter(changed))}"):
        wire.decode(body(tag, **changed))


def test_a_number_beyond_all_floats_is_refused() -> None:
    text = wire.encode(MESSAGES["heartbeat"]).replace(b"60.0", b"1e999")
    with pytest.raises(MessageError, match="out of range"):
        wire.decode(text)


def test_nesting_that_no_stack_holds_is_refused() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    text = wire.encode(MESSAGES["grant"]).replace(b"[1]", deep)
    with pytest.raises(MessageError):
        wire.decode(text)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_any_bytes_give_a_message_or_a_message_error(text: bytes) -> None:
    try:
        message = wire.decode(text)
    except MessageError:
        return
    assert isinstance(message, wire.Message)


@given(st.sampled_from(list(MESSAGES)), st.data())
def test_a_damaged_message_gives_a_message_or_a_message_error(
    tag: str, data: st.DataObject
) -> None:
    text = bytearray(wire.encode(MESSAGES[tag]))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = wire.decode(bytes(text))
    except MessageError:
        return
    assert isinstance(message, wire.Message)


# -- whose an unreadable event is --------------------------------------------------------------


def test_a_message_of_a_newer_version_says_whose_it_is_and_which_version() -> None:
    text = body("claim", version=3, task_instance_id="of another type then")
    with pytest.raises(wire.NewerVersion) as caught:
        wire.decode(text)
    assert caught.value.version == 3
    sender = wire.sender(text)
    assert sender is not None
    assert (sender.agent, sender.session, sender.type) == ("node1", 7, "claim")


def test_a_type_that_only_a_newer_version_has_is_of_a_newer_version() -> None:
    with pytest.raises(wire.NewerVersion):
        wire.decode(b'{"type":"teleport","version":2}')


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_what_does_not_say_whose_it_is_has_no_sender(text: bytes) -> None:
    assert wire.sender(text) is None
    assert wire.sender(body("wake")) is None


# -- words that other parts rely on ------------------------------------------------------------


def test_the_kind_of_an_event_is_its_type() -> None:
    for tag, cls in CLASSES.items():
        if issubclass(cls, wire.Event):
            assert cls.kind == tag


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        MESSAGES["goodbye"].session = 8  # type: ignore[attr-defined]
