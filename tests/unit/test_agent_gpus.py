"""Devices as tasks see them, and the locks that keep the agents of a node apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.gpus import Gpus, GpusTaken, close


def test_a_task_sees_the_devices_it_was_given(tmp_path: Path) -> None:
    assert Gpus(tmp_path, ("0", "1", "2")).environment(("2", "0")) == {
        "FLOW_GPUS": "2,0",
        "CUDA_VISIBLE_DEVICES": "2,0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HIP_VISIBLE_DEVICES": "2,0",
    }


def test_a_task_that_asked_for_none_sees_none_of_those_there_are(tmp_path: Path) -> None:
    environment = Gpus(tmp_path, ("0",)).environment(())
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["HIP_VISIBLE_DEVICES"] == "-1"
    assert environment["FLOW_GPUS"] == ""


def test_an_agent_without_devices_says_nothing_of_them(tmp_path: Path) -> None:
    assert Gpus(tmp_path).environment(()) == {}


def test_two_agents_do_not_get_the_same_device(tmp_path: Path) -> None:
    one, other = Gpus(tmp_path, ("0", "1")), Gpus(tmp_path, ("0", "1"))
    held = one.take(["0"])
    with pytest.raises(GpusTaken) as refused:
        other.take(["1", "0"])
    assert refused.value.gpus == ("0",)
    assert str(refused.value) == "another agent of this node uses GPU 0"
    assert other.free(["0", "1"]) == ("1",), "what was locked before the refusal is free again"
    close(held)
    close(other.take(["0", "1"]))


def test_a_shared_device_has_as_many_places_as_tasks_share_it(tmp_path: Path) -> None:
    one, other = Gpus(tmp_path, ("0",), share=2), Gpus(tmp_path, ("0",), share=2)
    first, second = one.take(["0"]), other.take(["0"])
    assert one.free(["0"]) == ()
    close(first)
    assert other.free(["0"]) == ("0",)
    close(second)


def test_an_agent_that_does_not_share_keeps_those_that_do_away(tmp_path: Path) -> None:
    alone, sharing = Gpus(tmp_path, ("0",)), Gpus(tmp_path, ("0",), share=2)
    held = alone.take(["0"])
    assert sharing.free(["0"]) == ()
    close(held)
    held = sharing.take(["0"])
    assert alone.free(["0"]) == ()
    close(held)


def test_names_of_devices_are_no_paths(tmp_path: Path) -> None:
    folder = tmp_path / "gpus"
    close(Gpus(folder, ("MIG-1/2",)).take(["MIG-1/2"]))
    assert [file.name for file in folder.iterdir()] == ["MIG-1_2"]
