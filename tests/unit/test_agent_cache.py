"""The cache of bundles: what is damaged is noticed, what is in use stays, the rest makes room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cache as module
from agent.cache import CannotFetch, CodeCache
from flow.bundle import Manifest, ShippedFile, digest_of
from flow.errors import MessageError


@pytest.fixture
def cache(tmp_path: Path) -> CodeCache:
    return CodeCache(tmp_path / "cache", 10**9)


def take_in(cache: CodeCache, content: bytes) -> str:
    path = cache.open_new()
    path.write_bytes(content)
    return cache.keep(path, digest_of(content))


def manifest_of(*files: tuple[str, bytes], programs: tuple[str, ...] = ()) -> Manifest:
    return Manifest.of(
        ShippedFile(path, digest_of(content), len(content), path in programs)
        for path, content in files
    )


def make(
    cache: CodeCache, *files: tuple[str, bytes], programs: tuple[str, ...] = ()
) -> tuple[str, Path]:
    """A bundle of *files*, fetched and built."""
    manifest = manifest_of(*files, programs=programs)
    bundle = take_in(cache, manifest.encode())
    lacking = {file.digest for file in cache.lacking(manifest)}
    for content in {content for _, content in files}:
        if digest_of(content) in lacking:
            take_in(cache, content)
    return bundle, cache.build(bundle, manifest)


def contents(folder: Path) -> Iterator[tuple[str, bytes, bool]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield name, path.read_bytes(), bool(path.stat().st_mode & 0o111)


def test_a_bundle_becomes_a_read_only_folder(cache: CodeCache) -> None:
    files = (("a.py", b"same"), ("sub/run.sh", b"same"), ("sub/deep/e", b""))
    bundle, folder = make(cache, *files, programs=("sub/run.sh",))
    assert list(contents(folder)) == [
        ("a.py", b"same", False),
        ("sub/deep/e", b"", False),
        ("sub/run.sh", b"same", True),
    ]
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o222 == 0
    assert cache.find(bundle) == folder
    assert cache.manifest(bundle) == manifest_of(*files, programs=("sub/run.sh",))


def test_what_two_bundles_share_is_on_disk_once(cache: CodeCache) -> None:
    _, one = make(cache, ("data", b"large"), ("a.py", b"1"))
    _, two = make(cache, ("data", b"large"), ("a.py", b"2"))
    assert (one / "data").samefile(two / "data")


def test_without_links_files_are_copied(cache: CodeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    bundle, folder = make(cache, ("a", b"a"), ("x", b"x"), programs=("x",))
    assert list(contents(folder)) == [("a", b"a", False), ("x", b"x", True)]
    assert cache.find(bundle) == folder


def test_content_that_is_not_what_it_should_be_is_not_kept(cache: CodeCache) -> None:
    path = cache.open_new()
    path.write_bytes(b"bad")
    assert cache.keep(path, digest_of(b"good")) == digest_of(b"bad")
    assert not path.exists()
    assert len(cache.lacking(manifest_of(("f", b"good")))) == 1


def test_damaged_and_missing_blobs_are_lacking_and_each_content_once(cache: CodeCache) -> None:
    for content in (b"whole", b"damaged"):
        take_in(cache, content)
    blob = cache._blob(digest_of(b"damaged"))
    blob.chmod(0o600)
    blob.write_bytes(b"Damaged")
    files = (("a", b"whole"), ("b", b"damaged"), ("c", b"missing"), ("d", b"missing"))
    assert [file.path for file in cache.lacking(manifest_of(*files))] == ["b", "c"]
    assert not blob.exists()


@pytest.mark.parametrize("damage", ["changed", "gone", "mode", "link", "manifest"])
def test_a_damaged_folder_is_made_anew(cache: CodeCache, tmp_path: Path, damage: str) -> None:
    bundle, folder = make(cache, ("a.py", b"a"), ("b.py", b"b"))
    folder.chmod(0o700)
    target = folder / "b.py"
    match damage:
        case "changed":
            target.chmod(0o600)
            target.write_bytes(b"B")
        case "gone":
            target.unlink()
        case "mode":
            target.chmod(0o555)
        case "link":
            target.unlink()
            (tmp_path / "elsewhere").write_bytes(b"b")
            target.symlink_to(tmp_path / "elsewhere")
        case "manifest":
            (folder.parent / "manifest").write_bytes(b"{}")
            cache._blob(bundle).unlink()
    assert cache.find(bundle) is None
    assert not folder.exists()
    assert make(cache, ("a.py", b"a"), ("b.py", b"b")) == (bundle, folder)
    assert cache.find(bundle) == folder


def test_a_damaged_program_is_replaced_by_its_blob(cache: CodeCache) -> None:
    _, folder = make(cache, ("x", b"x"), programs=("x",))
    (folder / "x").chmod(0o700)
    (folder / "x").write_bytes(b"?")
    _, second = make(cache, ("x", b"x"), ("y", b"y"), programs=("x",))
    assert (second / "x").read_bytes() == b"x"


def test_a_manifest_that_leads_out_is_refused(cache: CodeCache) -> None:
    bundle = take_in(cache, Manifest.of([ShippedFile("../x", "a" * 64, 1)]).encode())
    with pytest.raises(MessageError, match="stays inside"):
        cache.manifest(bundle)


def test_a_content_that_has_gone_again_is_named(cache: CodeCache) -> None:
    manifest = manifest_of(("sub/a.py", b"a"))
    with pytest.raises(CannotFetch) as caught:
        cache.build("b" * 64, manifest)
    assert str(caught.value) == (
        "bundle bbbbbbbbbbbb: expected file 'sub/a.py' in the cache, got none; "
        "raise [agent] cache_max_bytes"
    )
    assert list(cache._new.iterdir()) == []


def test_a_bundle_that_another_agent_has_built_meanwhile_is_as_good(cache: CodeCache) -> None:
    bundle, folder = make(cache, ("a.py", b"a"))
    assert cache.build(bundle, manifest_of(("a.py", b"a"))) == folder
    assert list(cache._new.iterdir()) == []


# -- eviction ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodeCache:
    """A cache with room for little, in which nothing counts as young."""
    monkeypatch.setattr(module, "YOUNG", -1.0)
    return CodeCache(tmp_path / "cache", 2500)


def used(cache: CodeCache, bundle: str, at: float) -> None:
    os.close(cache.pin(bundle))
    os.utime(cache._pins / bundle, (at, at))


def test_the_bundle_used_longest_ago_makes_room(small: CodeCache) -> None:
    made = [make(small, ("f", bytes([number]) * 1000)) for number in range(3)]
    for at, (bundle, _) in zip((30.0, 10.0, 20.0), made, strict=True):
        used(small, bundle, at)
    small.evict()
    assert [folder.exists() for _, folder in made] == [True, False, True]
    assert len(list(small._files())) == 2
    small.evict()
    assert [folder.exists() for _, folder in made] == [True, False, True]


def test_a_bundle_in_use_stays_whatever_the_limit(small: CodeCache) -> None:
    made = [make(small, ("f", bytes([number]) * 2000)) for number in range(2)]
    used(small, made[0][0], 1.0)
    pin = small.pin(made[0][0])
    os.utime(small._pins / made[0][0], (1.0, 1.0))
    used(small, made[1][0], 2.0)
    small.evict()
    assert [folder.exists() for _, folder in made] == [True, False]
    os.close(pin)
    third = make(small, ("f", b"x" * 2000))
    os.close(small.pin(third[0]))
    small.evict()
    assert [folder.exists() for _, folder in (made[0], third)] == [False, True]


def test_contents_without_a_bundle_go_first(small: CodeCache) -> None:
    _, folder = make(small, ("f", b"x" * 2000))
    take_in(small, b"y" * 2000)
    small.evict()
    assert folder.exists()
    assert small.lacking(manifest_of(("y", b"y" * 2000)))


def test_what_others_fetch_or_sweep_meanwhile_disturbs_no_eviction(
    small: CodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make(small, ("f", bytes([number]) * 2000)) for number in range(2)]
    for at, (bundle, _) in enumerate(made):
        used(small, bundle, at)
    iterdir, glob = Path.iterdir, Path.glob
    monkeypatch.setattr(Path, "iterdir", lambda self: [*iterdir(self), self / "gone"])
    monkeypatch.setattr(Path, "glob", lambda self, name: [*glob(self, name), self / "ab" / "gone"])
    small.evict()
    assert [folder.exists() for _, folder in made] == [False, True]


def test_a_content_that_just_came_is_left_alone(
    small: CodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "YOUNG", 600.0)
    take_in(small, b"y" * 5000)
    small.evict()
    assert not small.lacking(manifest_of(("y", b"y" * 5000)))


def test_what_a_dead_agent_left_half_done_is_removed(small: CodeCache) -> None:
    make(small, ("f", b"f"))
    left = small.open_new()
    (small._new / "folder").mkdir()
    for path in (left, small._new / "folder"):
        os.utime(path, (1.0, 1.0))
    young = small.open_new()
    small.evict()
    assert list(small._new.iterdir()) == [young]


def test_a_pin_that_crosses_an_eviction_holds_the_new_file(small: CodeCache) -> None:
    bundle, _ = make(small, ("f", b"x" * 3000))
    os.close(small.pin(bundle))
    small.evict()
    assert not (small._pins / bundle).exists()
    pin = small.pin(bundle)
    assert os.path.samestat(os.fstat(pin), (small._pins / bundle).stat())
    os.close(pin)
