"""From a folder to a bundle: what is shipped, what is refused, and that it is of one moment."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.bundler import Bundle, BundleError, Bundler, Limits, Unsettled
from dispatcher.dagfolder import list_folder
from flow.bundle import digest_of, read_manifest

LIMITS = Limits(file=1000, bundle=2000)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def paths(bundle: Bundle) -> list[str]:
    return [file.path for file in bundle.manifest.files]


@pytest.fixture
def late() -> Callable[[], float]:
    """A clock that is ahead: nothing has changed just now."""
    return lambda: time.time() + 60.0


def test_everything_is_shipped_but_hidden_files_and_caches(tmp_path: Path) -> None:
    write(tmp_path, a_py="a", sub__data="d", sub__deep__q="q", sub__empty="")
    write(tmp_path / "__pycache__", a_py="no")
    write(tmp_path / ".git", a_py="no")
    (tmp_path / ".secret").write_text("no")
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    bundle = Bundler(tmp_path, LIMITS).look()
    assert paths(bundle) == ["a.py", "run.sh", "sub/data", "sub/deep/q", "sub/empty"]
    assert [file.path for file in bundle.manifest.files if file.executable] == ["run.sh"]
    assert bundle.manifest.files[0].digest == digest_of(b"a")
    assert bundle.manifest.files[0].size == 1
    assert bundle.id == digest_of(bundle.content)
    assert read_manifest(bundle.content) == bundle.manifest


def test_flowignore_leaves_out_as_gitignore_does_and_dags_are_not_looked_for_there(
    tmp_path: Path,
) -> None:
    write(tmp_path, a_py="a", venv__lib_py="v", notes="n", data__big="b", data__keep="k")
    (tmp_path / ".flowignore").write_text("# none of this\nvenv/\n/notes\ndata/*\n!data/keep\n")
    assert paths(Bundler(tmp_path, LIMITS).look()) == ["a.py", "data/keep"]
    assert list(list_folder(tmp_path).files) == ["a.py"]


def test_a_flowignore_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".flowignore").write_bytes(b"\xff")
    with pytest.raises(BundleError, match=r"^\.flowignore: expected a readable UTF-8 text, got "):
        Bundler(tmp_path, LIMITS).look()
    (tmp_path / ".flowignore").write_text("!\n")
    with pytest.raises(BundleError, match=r"^\.flowignore: expected patterns as in \.gitignore"):
        Bundler(tmp_path, LIMITS).look()


def test_links_inside_are_followed_and_a_circle_ends(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    write(folder, v2__m_py="m")
    (folder / "current").symlink_to("v2")
    (folder / "v2" / "up").symlink_to("..")
    (folder / "again.py").symlink_to(folder / "v2" / "m.py")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    assert paths(Bundler(folder, LIMITS).look()) == ["again.py", "current/m.py", "v2/m.py"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", a_py="a", b_py="b")
    (tmp_path / "real" / "l.py").symlink_to(tmp_path / "real" / "a.py")
    (tmp_path / "dags").symlink_to("real")
    assert paths(Bundler(tmp_path / "dags", LIMITS).look()) == ["a.py", "b.py", "l.py"]


def test_links_that_lead_out_are_refused_by_name_unless_they_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "dags"
    write(folder, a_py="a")
    (tmp_path / "dags-2").mkdir()
    (folder / "out").symlink_to(tmp_path / "dags-2")
    (folder / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(BundleError) as caught:
        Bundler(folder, LIMITS).look()
    assert sorted(str(caught.value).splitlines()) == [
        (
            f"out: expected a link to a file of the DAG folder, got one to '{tmp_path}/dags-2'; "
            "copy that in, or name the link in .flowignore"
        ),
        (
            "passwd: expected a link to a file of the DAG folder, got one to '/etc/passwd'; "
            "copy that in, or name the link in .flowignore"
        ),
    ]
    (folder / ".flowignore").write_text("out\npasswd\n")
    assert paths(Bundler(folder, LIMITS).look()) == ["a.py"]


def test_files_that_are_too_large_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, a_py="a" * 900, b_py="b" * 800, large="c" * 1001)
    with pytest.raises(BundleError) as caught:
        Bundler(tmp_path, LIMITS).look()
    assert str(caught.value).splitlines() == [
        (
            "large: expected at most 1000 bytes per file, got 1001; "
            "name it in .flowignore, or raise [dags] bundle_file_max_bytes"
        ),
        (
            f"{tmp_path}: expected at most 2000 bytes in all, got 2701 "
            "(the largest file is large); name what tasks do not need in .flowignore, "
            "or raise [dags] bundle_max_bytes"
        ),
    ]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff")).write_text("")
    with pytest.raises(BundleError, match="expected a name in UTF-8"):
        Bundler(tmp_path, LIMITS).look()


def test_of_many_problems_the_first_are_shown(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"l{number:02}").symlink_to("/")
    with pytest.raises(BundleError) as caught:
        Bundler(tmp_path, LIMITS).look()
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 5 more"


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Bundler(tmp_path / "none", LIMITS).look()


def test_an_unchanged_folder_is_not_read_again(
    tmp_path: Path, late: Callable[[], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a_py="a", b_py="b")
    bundler = Bundler(tmp_path, LIMITS, late)
    first = bundler.look()
    hashed: list[str] = []
    real = Bundler._hash_file

    def noted(self: Bundler, path: str, at: Any) -> object:
        hashed.append(path)
        return real(self, path, at)

    monkeypatch.setattr(Bundler, "_hash_file", noted)
    assert bundler.look() is first
    assert hashed == []
    write(tmp_path, b_py="c")
    second = bundler.look()
    assert hashed == ["b.py"]
    assert second.id != first.id
    write(tmp_path, b_py="b")
    assert bundler.look().id == first.id


def test_what_changed_within_the_same_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, a_py="a")
    bundler = Bundler(tmp_path, LIMITS, lambda: (tmp_path / "a.py").stat().st_ctime)
    first = bundler.look()
    entry = bundler._hashed["a.py"]
    assert not entry.certain
    # As if the file had had these times already while it had other content.
    bundler._hashed["a.py"] = type(entry)(entry.stamp, "0" * 64, certain=False)
    assert bundler.look().id == first.id
    assert bundler._hashed["a.py"].digest == digest_of(b"a")


def test_a_right_to_run_makes_another_bundle_and_a_touch_does_not(
    tmp_path: Path, late: Callable[[], float]
) -> None:
    write(tmp_path, a_py="a")
    bundler = Bundler(tmp_path, LIMITS, late)
    first = bundler.look()
    os.utime(tmp_path / "a.py", (1.0, 1.0))
    assert bundler.look().id == first.id
    (tmp_path / "a.py").chmod(0o755)
    assert bundler.look().id != first.id


def test_a_change_while_files_are_read_makes_it_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a_py="old", b_py="old")
    bundler = Bundler(tmp_path, LIMITS)
    real = Bundler._hash_file

    def change_the_other(self: Bundler, path: str, at: Any) -> object:
        hashed = real(self, path, at)
        if path == "b.py" and (tmp_path / "a.py").read_text() == "old":
            write(tmp_path, a_py="new", b_py="new")
        return hashed

    monkeypatch.setattr(Bundler, "_hash_file", change_the_other)
    bundle = bundler.look()
    assert {file.digest for file in bundle.manifest.files} == {digest_of(b"new")}


def test_a_folder_that_never_rests_is_given_up_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a_py="0")
    bundler = Bundler(tmp_path, LIMITS)
    real = Bundler._hash_file

    def grow(self: Bundler, path: str, at: Any) -> object:
        hashed = real(self, path, at)
        with (tmp_path / "a.py").open("a") as file:
            file.write("0")
        return hashed

    monkeypatch.setattr(Bundler, "_hash_file", grow)
    with pytest.raises(Unsettled) as caught:
        bundler.look()
    assert str(caught.value) == (
        f"{tmp_path}: expected files at rest, got changes while they were read; "
        "name files that change all the time in .flowignore"
    )
    monkeypatch.undo()
    assert bundler.look().manifest.files[0].size > 1


def test_content_that_is_another_by_now_is_not_passed_on(tmp_path: Path) -> None:
    write(tmp_path, a_py="a", b_py="b")
    bundler = Bundler(tmp_path, LIMITS)
    bundle = bundler.look()
    assert bundler.read(bundle, digest_of(b"a")) == b"a"
    assert bundler.read(bundle, bundle.id) == bundle.content
    write(tmp_path, a_py="x")
    with pytest.raises(Unsettled, match="got a changed one"):
        bundler.read(bundle, digest_of(b"a"))
    shutil.rmtree(tmp_path)
    with pytest.raises(Unsettled, match="expected the file just seen, got No such file"):
        bundler.read(bundle, digest_of(b"b"))
