"""Fetching: few pieces at a time, again until they come, and nothing that is not what it says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cache import CannotFetch, CodeCache
from agent.fetching import WINDOW_BYTES, WINDOW_PIECES, Download, Fetcher
from dispatcher.bundler import Bundler, Limits
from flow import wire
from flow.bundle import PIECE_BYTES, Manifest, ShippedFile, digest_of
from flow.errors import MessageError
from tests.unit.test_bundle import paths as any_paths
from tests.waiting import eventually

A, B = "a" * 64, "b" * 64
Reply = wire.Piece | wire.NoPiece


def piece(digest: str, number: int, size: int, length: int | None = None) -> wire.Piece:
    left = min(PIECE_BYTES, size - number * PIECE_BYTES)
    data = bytes(left if length is None else length)
    return wire.Piece(session=1, digest=digest, number=number, size=size, data=data)


# -- what to ask for ---------------------------------------------------------------------------


def test_a_large_file_is_asked_for_in_windows() -> None:
    size = 10 * PIECE_BYTES + 1
    download = Download([(A, size)])
    assert download.next() == [(A, 0), (A, 1), (A, 2), (A, 3)]
    assert download.next() == []
    assert download.arrived(piece(A, 1, size)) is False
    assert download.next() == []
    assert download.arrived(piece(A, 0, size)) is False
    assert download.next() == [(A, 4), (A, 5)]
    assert sorted(download.again()) == [(A, 2), (A, 3), (A, 4), (A, 5)]


def test_small_files_are_asked_for_many_at_a_time() -> None:
    download = Download([(f"{number:064}", 1) for number in range(200)])
    assert len(download.next()) == WINDOW_PIECES


def test_a_file_without_content_has_one_piece() -> None:
    download = Download([(A, 0)])
    assert download.next() == [(A, 0)]
    assert download.arrived(piece(A, 0, 0)) is True
    assert download.done


def test_a_manifest_says_its_size_with_its_first_piece() -> None:
    size = 2 * PIECE_BYTES + 5
    download = Download([(A, None)])
    assert download.next() == [(A, 0)]
    assert download.arrived(piece(A, 0, size)) is False
    assert download.next() == [(A, 1), (A, 2)]
    assert download.arrived(piece(A, 2, size)) is False
    assert download.arrived(piece(A, 1, size)) is True
    assert download.done


def test_a_piece_that_was_not_asked_for_or_came_before_is_not_wanted() -> None:
    download = Download([(A, 10), (B, 10)])
    assert not download.wants((A, 0))
    download.next()
    assert not download.wants((A, 1))
    download.arrived(piece(A, 0, 10))
    assert not download.wants((A, 0))


@pytest.mark.parametrize("wrong", [piece(A, 0, 10, 9), piece(A, 0, 11), piece(A, 0, 10, 11)])
def test_a_piece_of_the_wrong_size_is_refused(wrong: wire.Piece) -> None:
    download = Download([(A, 10)])
    download.next()
    with pytest.raises(MessageError, match="expected 10 bytes of 10, got "):
        download.arrived(wrong)


@given(st.lists(st.integers(0, 3 * PIECE_BYTES), max_size=8), st.randoms())
def test_everything_is_asked_for_once_whatever_the_order_of_arrival(
    sizes: list[int], random: object
) -> None:
    blobs = {f"{number:064}": size for number, size in enumerate(sizes)}
    download = Download(blobs.items())
    asked: list[tuple[str, int]] = []
    under_way: list[tuple[str, int]] = []
    while not download.done:
        more = download.next()
        asked += more
        under_way += more
        assert sum(min(PIECE_BYTES, blobs[d] - n * PIECE_BYTES) for d, n in under_way) <= (
            WINDOW_BYTES
        )
        digest, number = under_way.pop(random.randrange(len(under_way)))  # type: ignore[attr-defined]
        download.arrived(piece(digest, number, blobs[digest]))
    assert len(asked) == len(set(asked))
    assert len(asked) == sum(max(1, -(-size // PIECE_BYTES)) for size in sizes)


# -- with a dispatcher -------------------------------------------------------------------------


class Shop:
    """Answers like the dispatcher, in a later turn of the loop; ``alter`` may change answers."""

    def __init__(self, folder: Path, contents: Iterable[bytes] = ()) -> None:
        self.contents = {digest_of(content): content for content in contents}
        self.asked: list[wire.PiecesWanted] = []
        self.alter: Callable[[Reply], Reply | None] = lambda reply: reply
        self.cache = CodeCache(folder, 10**9)
        self.fetcher = Fetcher(
            self.cache, agent="node1", session=lambda: 7, send=self.receive, resend=0.05
        )

    def add(self, *files: tuple[str, bytes]) -> str:
        manifest = Manifest.of(
            ShippedFile(path, digest_of(content), len(content)) for path, content in files
        )
        for content in (manifest.encode(), *(content for _, content in files)):
            self.contents[digest_of(content)] = content
        return digest_of(manifest.encode())

    def receive(self, message: wire.PiecesWanted) -> None:
        self.asked.append(message)
        for name in message.pieces:
            reply = self.alter(self.answer(name))
            if reply is not None:
                asyncio.get_running_loop().call_soon(self.fetcher.arrived, reply)

    def answer(self, name: wire.PieceName) -> Reply:
        content = self.contents.get(name.digest)
        if content is None:
            return wire.NoPiece(session=7, digest=name.digest, number=name.number)
        start = name.number * PIECE_BYTES
        return wire.Piece(
            session=7,
            digest=name.digest,
            number=name.number,
            size=len(content),
            data=content[start : start + PIECE_BYTES],
        )

    @property
    def wanted(self) -> list[str]:
        return [name.digest for message in self.asked for name in message.pieces]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "cache")


async def test_only_what_is_lacking_is_fetched(shop: Shop) -> None:
    large = bytes(range(256)) * 4096
    one = shop.add(("a.py", b"a"), ("large", large))
    folder = await shop.fetcher.fetch(one)
    assert (folder / "large").read_bytes() == large
    assert {(message.agent, message.session, message.bundle) for message in shop.asked} == {
        ("node1", 7, one)
    }
    shop.asked.clear()
    two = shop.add(("a.py", b"A"), ("large", large))
    await shop.fetcher.fetch(two)
    assert shop.wanted == [two, digest_of(b"A")]
    shop.asked.clear()
    assert await shop.fetcher.fetch(one) == folder
    assert shop.asked == []


async def test_what_does_not_come_is_asked_for_again(shop: Shop) -> None:
    bundle = shop.add(("a.py", b"a"))
    lost: set[str] = set()

    def lose_each_first(reply: Reply) -> Reply | None:
        first = reply.digest not in lost
        lost.add(reply.digest)
        return None if first else reply

    shop.alter = lose_each_first
    folder = await shop.fetcher.fetch(bundle)
    assert (folder / "a.py").read_bytes() == b"a"
    assert shop.wanted == [bundle, bundle, digest_of(b"a"), digest_of(b"a")]


async def test_two_fetches_at_once_share_what_comes(shop: Shop) -> None:
    common = b"c" * (2 * PIECE_BYTES)
    one, two = shop.add(("c", common), ("a", b"1")), shop.add(("c", common), ("a", b"2"))
    folders = await asyncio.gather(shop.fetcher.fetch(one), shop.fetcher.fetch(two))
    assert [(folder / "a").read_bytes() for folder in folders] == [b"1", b"2"]
    assert [(folder / "c").read_bytes() for folder in folders] == [common, common]


async def test_content_that_is_not_what_it_says_is_named_with_bundle_and_file(shop: Shop) -> None:
    bundle = shop.add(("sub/helper.sh", b"echo"), ("other", b"other"))
    shop.contents[digest_of(b"echo")] = b"evil"
    with pytest.raises(CannotFetch) as caught:
        await shop.fetcher.fetch(bundle)
    assert str(caught.value) == (
        f"bundle {bundle[:12]}: file 'sub/helper.sh': expected content with SHA-256 "
        f"{digest_of(b'echo')[:12]}, got {digest_of(b'evil')[:12]}; "
        "its copy in the database is damaged"
    )
    assert list(shop.cache._new.iterdir()) == []


async def test_a_piece_of_the_wrong_size_is_named_with_bundle_and_file(shop: Shop) -> None:
    bundle = shop.add(("a.py", b"a"))
    shop.contents[digest_of(b"a")] = b"aa"
    with pytest.raises(CannotFetch) as caught:
        await shop.fetcher.fetch(bundle)
    assert str(caught.value) == (
        f"bundle {bundle[:12]}: file 'a.py': expected 1 bytes of 1, got 2 of 2"
    )


async def test_what_the_dispatcher_does_not_have_is_named(shop: Shop) -> None:
    bundle = shop.add(("a.py", b"a"))
    del shop.contents[digest_of(b"a")]
    with pytest.raises(CannotFetch) as caught:
        await shop.fetcher.fetch(bundle)
    assert str(caught.value) == (
        f"bundle {bundle[:12]}: file 'a.py': expected the dispatcher to have it, got none; "
        "run the DAG anew"
    )
    with pytest.raises(CannotFetch, match=r"^bundle bbbbbbbbbbbb: manifest: expected the dispatch"):
        await shop.fetcher.fetch(B)


async def test_a_manifest_that_is_none_is_refused(shop: Shop) -> None:
    bad = b'{"files":[["../x","' + A.encode() + b'",1,false]],"version":1}'
    shop.contents[digest_of(bad)] = bad
    with pytest.raises(CannotFetch, match="stays inside of the folder"):
        await shop.fetcher.fetch(digest_of(bad))


async def test_a_fetch_that_nobody_wants_any_more_leaves_nothing(shop: Shop) -> None:
    bundle = shop.add(("a.py", b"a" * 3 * PIECE_BYTES))
    shop.alter = lambda reply: reply if reply.number == 0 else None
    fetching = asyncio.ensure_future(shop.fetcher.fetch(bundle))
    await eventually(lambda: len(shop.asked) >= 4)
    fetching.cancel()
    await asyncio.wait({fetching})
    assert fetching.cancelled()
    assert shop.fetcher._inboxes == set()


files = st.dictionaries(
    any_paths.filter(
        lambda path: all(part[0] != "." and part != "__pycache__" for part in path.split("/"))
    ),
    st.tuples(st.binary(max_size=20) | st.just(b"x" * (PIECE_BYTES + 1)), st.booleans()),
    max_size=6,
)


@given(files)
@settings(max_examples=40)
def test_any_folder_arrives_as_it_left(files: dict[str, tuple[bytes, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "dags"
        source.mkdir()
        written = {}
        for path, (content, executable) in files.items():
            target = source / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except OSError:  # a folder of that name is there, or the name is too long
                continue
            target.chmod(0o700 if executable else 0o600)
            written[path] = (content, executable)
        bundler = Bundler(source, Limits(file=10**9, bundle=10**9))
        bundle = bundler.look()
        shop = Shop(Path(name) / "cache", (bundler.read(bundle, d) for d in bundle.paths))
        shop.contents[bundle.id] = bundle.content
        folder = asyncio.run(shop.fetcher.fetch(bundle.id))
        arrived = {
            path.relative_to(folder).as_posix(): (
                path.read_bytes(),
                bool(path.stat().st_mode & 0o111),
            )
            for path in folder.rglob("*")
            if path.is_file()
        }
        assert arrived == written
