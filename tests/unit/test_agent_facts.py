"""What an agent finds out about its node, on a file system made up for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.devices import Device
from agent.facts import look

MEMINFO = "MemTotal:       65842180 kB\nMemFree:         1042180 kB\n"
A = "GPU-8f6a1c1e-0000-1111-2222-333344445555"
B = "GPU-11112222-0000-1111-2222-333344445555"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    return tmp_path


def nvidia(root: Path, address: str, uuid: str, model: str = "NVIDIA A100") -> None:
    folder = root / "proc/driver/nvidia/gpus" / address
    folder.mkdir(parents=True)
    (folder / "information").write_text(
        f"Model: \t\t {model}\nIRQ:   \t\t 42\nGPU UUID: \t {uuid}\nDevice Minor: \t 0\n"
    )


def amd(root: Path, node: int, gpu_id: int, name: str) -> None:
    folder = root / "sys/class/kfd/kfd/topology/nodes" / str(node)
    folder.mkdir(parents=True)
    (folder / "gpu_id").write_text(f"{gpu_id}\n")
    (folder / "name").write_text(f"{name}\n")


def nvidia_smi(root: Path, script: str) -> str:
    """A PATH with a program of that name, which writes down how it was called."""
    folder = root / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {root}/asked\n{script}\n')
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_cores_and_memory_are_what_the_machine_says(root: Path) -> None:
    facts = look(None, root=root, path="")
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.memory == 65842180 * 1024
    assert facts.gpus == ()


def test_a_machine_that_says_nothing_has_an_unknown_memory(tmp_path: Path) -> None:
    assert look(None, root=tmp_path, path=None).memory == 0


def test_devices_are_found_by_nvidia_smi_with_their_uuids(root: Path) -> None:
    listing = f"1, {B}, NVIDIA A100-SXM4-80GB\n0, {A}, NVIDIA H100, PCIe"
    path = nvidia_smi(root, f"printf '{listing}\\n'")
    assert look(None, root=root, path=path).gpus == (
        Device(A, "NVIDIA H100, PCIe"),
        Device(B, "NVIDIA A100-SXM4-80GB"),
    )
    assert (root / "asked").read_text() == "--query-gpu=index,uuid,name --format=csv,noheader\n"


def test_where_nvidia_smi_fails_the_driver_s_own_files_tell(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = nvidia_smi(root, "echo 'No devices were found' >&2; exit 6")
    nvidia(root, "0000:41:00.0", B)
    nvidia(root, "0000:01:00.0", A)
    assert look(None, root=root, path=path).gpus == (
        Device(A, "NVIDIA A100"),
        Device(B, "NVIDIA A100"),
    )
    assert caplog.messages == ["nvidia-smi: exit code 6: No devices were found"]


def test_a_device_whose_uuid_is_not_known_yet_goes_by_its_number(root: Path) -> None:
    nvidia(root, "0000:01:00.0", "GPU-????????-????-????-????-????????????")
    assert look(None, root=root, path="").gpus == (Device("0", "NVIDIA A100"),)


def test_amd_s_devices_are_numbered_without_the_cpus(root: Path) -> None:
    amd(root, 0, 0, "cpu")
    amd(root, 1, 51764, "gfx90a")
    amd(root, 10, 4711, "gfx90a")
    amd(root, 2, 17, "gfx942")
    assert look(None, root=root, path="").gpus == (
        Device("0", "gfx90a"),
        Device("1", "gfx942"),
        Device("2", "gfx90a"),
    )


def test_listed_devices_are_those_that_are_found_under_number_or_uuid(root: Path) -> None:
    nvidia(root, "0000:01:00.0", A)
    nvidia(root, "0000:02:00.0", B)
    assert look(("1",), root=root, path="").gpus == (Device(B, "NVIDIA A100"),)
    assert look((A, "0", "1"), root=root, path="").gpus == (
        Device(A, "NVIDIA A100"),
        Device(B, "NVIDIA A100"),
    )


def test_listed_devices_that_are_not_found_are_believed(root: Path) -> None:
    assert look(("0", "7"), root=root, path="").gpus == (Device("0"), Device("7"))


def test_an_empty_list_means_no_devices_and_nobody_is_asked(root: Path) -> None:
    path = nvidia_smi(root, "exit 1")
    assert look((), root=root, path=path).gpus == ()
    assert not (root / "asked").exists()


def test_a_device_is_shown_with_its_name() -> None:
    assert Device("0", "NVIDIA A100").label == "0: NVIDIA A100"
    assert Device("0").label == "0"
