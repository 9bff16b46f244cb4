"""Manifests: one canonical form, read back as written, and never a path that leads out."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.bundle import Manifest, ShippedFile, digest_of, read_manifest, shown
from flow.errors import MessageError

A, B = "a" * 64, "b" * 64
parts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=12
).filter(lambda part: part not in (".", ".."))
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)


def written(*files: list[object], version: int = 1) -> bytes:
    return json.dumps({"files": files, "version": version}).encode()


def test_a_manifest_has_one_form_whatever_the_order_of_its_files() -> None:
    one, two = ShippedFile("a.py", A, 1), ShippedFile("b/c.sh", B, 2, executable=True)
    first, second = Manifest.of([one, two]), Manifest.of([two, one])
    assert first.encode() == second.encode()
    assert first.total == 3
    assert digest_of(first.encode()) == hashlib.sha256(first.encode()).hexdigest()
    assert shown(A) == "aaaaaaaaaaaa"


def test_the_form_of_version_1_stays() -> None:
    manifest = Manifest.of([ShippedFile("ä.py", A, 1), ShippedFile("b", B, 2, executable=True)])
    text = f'{{"files":[["b","{B}",2,true],["ä.py","{A}",1,false]],"version":1}}'
    assert manifest.encode().decode() == text


@given(st.dictionaries(paths, st.tuples(st.integers(0, 2**40), st.booleans()), max_size=6))
def test_any_manifest_is_read_as_it_was_written(files: dict[str, tuple[int, bool]]) -> None:
    names = {path for path in files if not any(other.startswith(f"{path}/") for other in files)}
    manifest = Manifest.of(ShippedFile(path, A, *files[path]) for path in names)
    assert read_manifest(manifest.encode()) == manifest


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a/", "a\0b"]
)
def test_a_path_that_does_not_stay_inside_is_refused(path: str) -> None:
    with pytest.raises(MessageError, match="expected one that stays inside of the folder"):
        read_manifest(written([path, A, 1, False]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"garbage", "manifest: expected a list of files, got "),
        (b'{"files":[["a"]],"version":1}', "manifest: expected a list of files, got "),
        (written(["a", "xyz", 1, False]), "manifest: expected a list of files, got "),
        (written(["a", A, -1, False]), "manifest: expected a list of files, got "),
        (written(version=2), "manifest: expected version 1, got 2; upgrade this machine"),
        (
            written(["b", A, 1, False], ["a", A, 1, False]),
            "manifest: expected each path once and in order, got 'a' after 'b'",
        ),
        (
            written(["a", A, 1, False], ["a", A, 1, False]),
            "manifest: expected each path once and in order, got 'a' after 'a'",
        ),
        (
            written(["a", A, 1, False], ["a/b", A, 1, False]),
            "manifest: expected a file or a folder, got both: 'a'",
        ),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        read_manifest(content)
    assert str(caught.value).startswith(problem)
