"""Copies of nested tensors in the machine's memory."""

from __future__ import annotations

import torch

from workbench.training.memory.host_copy import copy_bytes, copy_to_host


def test_a_copy_keeps_its_values_when_the_tensors_change() -> None:
    one, two = torch.arange(4.0), torch.tensor(7, dtype=torch.int32)
    copied = copy_to_host({"state": {"one": one, "two": two}, "groups": [{"lr": 0.1}, (one,)]})
    one.zero_()
    two.zero_()
    assert copied["state"]["one"].tolist() == [0, 1, 2, 3]
    assert copied["state"]["two"].item() == 7
    assert copied["state"]["two"].dtype is torch.int32
    assert copied["groups"][0] == {"lr": 0.1}
    assert copied["groups"][1][0].tolist() == [0, 1, 2, 3]


def test_views_of_one_buffer_are_copied_once_and_stay_views_of_one() -> None:
    buffer = torch.arange(12.0)
    left, right = buffer[2:6].view(2, 2).T, buffer[6:]
    copied = copy_to_host([left, right])
    buffer.zero_()
    assert copied[0].tolist() == [[2, 4], [3, 5]]
    assert copied[1].tolist() == [6, 7, 8, 9, 10, 11]
    assert copied[0].untyped_storage().data_ptr() == copied[1].untyped_storage().data_ptr()
    assert copy_bytes([left, right]) == 12 * 4


def test_trained_parameters_are_copied_without_their_history() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    copied = copy_to_host({"weight": weight * 2, "plain": weight})
    assert not any(tensor.requires_grad for tensor in copied.values())
