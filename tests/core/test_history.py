"""The ring: what it keeps, where, and exactly how many bytes."""

from __future__ import annotations

import pytest
import torch

from c4d.backends.reference import Reference
from c4d.core.caching.forecasters import FoCa
from c4d.core.runtime.history import History, HistoryConfig
from c4d.core.runtime.signals import SignalReader, SingleProcess
from c4d.core.runtime.state import Runtime
from c4d.core.types import Predicted

BACKEND = Reference()


def ring_of(length, num_forecasts=0):
    return History(length, HistoryConfig(), BACKEND, num_forecasts)


def held(history):
    return sum(history.storages().values())


def test_ring_keeps_the_newest_and_counts_bytes():
    ring = History(2, HistoryConfig(), BACKEND)
    for t in range(4):
        ring.push(t, [torch.full((3, 5), float(t))])
        assert held(ring) == min(t + 1, 2) * 3 * 5 * 4
    assert ring.times == (2.0, 3.0)
    assert [x[0, 0].item() for x in ring.features(0)] == [2.0, 3.0]


@pytest.mark.parametrize("place", ["device", "host"])
def test_dtype_and_place(place):
    ring = History(2, HistoryConfig(torch.bfloat16, place), BACKEND)
    x = torch.randn(4, 6)
    ring.push(0, [x, x[:2]])
    assert ring.width == 2 and held(ring) == (24 + 12) * 2
    assert torch.equal(ring.features(0)[0], x.bfloat16())


EIGHT = HistoryConfig(torch.int8)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_eight_bits_are_half_a_scale_away_at_most(dtype, place):
    """Tokens of very different sizes, each with its own scale, one of zeros; every byte is counted."""
    torch.manual_seed(0)
    x = (torch.randn(2, 9, 64) * 10.0 ** torch.arange(-4.0, 5.0)[:, None]).to(dtype)
    x[0, 3] = 0.0
    ring = History(2, HistoryConfig(torch.int8, place), BACKEND)
    ring.push(0.0, [x])
    wide = x.to(torch.promote_types(dtype, torch.float32))
    (back,), scale = ring.features(0), wide.abs().amax(-1, keepdim=True) / 127
    assert back.dtype is wide.dtype and held(ring) == x.numel() + 18 * wide.itemsize
    off = (back - wide).abs()
    assert (off <= scale / 2 * (1 + 1e-5)).all() and (off.amax(-1) > scale[..., 0] / 4)[scale[..., 0] > 0].all()
    assert (back[0, 3] == 0).all()
    ring.push(1.0, [x])
    assert held(ring) == 2 * (x.numel() + 18 * wide.itemsize)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_eight_bits(bad):
    x = torch.randn(1, 3, 8)
    x[0, 1, 2] = bad
    ring = History(1, EIGHT, BACKEND)
    ring.push(0.0, [x])
    (back,) = ring.features(0)
    assert not back[0, 1].isfinite().any() and back[0, [0, 2]].isfinite().all()


def test_eight_bits_keep_no_parent_and_move_with_their_tokens():
    ring, joint = History(2, EIGHT, BACKEND), torch.randn(1, 10, 4)
    ring.push(0.0, [joint[:, :6]]), ring.keep_beside([joint])
    assert held(ring) == 6 * (4 + 4) + 10 * (4 + 4) and (ring.beside[0] - joint).abs().max() < 0.1
    ring.renew(0, joint[:, :6] + 1.0, joint[:, :6])
    assert (ring.features(0)[0] - joint[:, :6] - 1.0).abs().max() < 0.05


def test_host_is_a_copy_and_device_is_not():
    x = torch.randn(4)
    device, host = History(1, HistoryConfig(), BACKEND), History(1, HistoryConfig(place="host"), BACKEND)
    device.push(0, [x]), host.push(0, [x])
    assert device.features(0)[0].data_ptr() == x.data_ptr() and host.features(0)[0].data_ptr() != x.data_ptr()


def test_two_views_of_one_tensor_count_once():
    ring, joint = History(1, HistoryConfig(), BACKEND), torch.randn(1, 10, 4)
    ring.push(0, [joint, joint.mT])
    assert held(ring) == joint.nbytes


@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("batch", [1, 2])  # of one, a slice of the tokens is contiguous
def test_a_slice_does_not_keep_its_parent(batch, dtype):
    ring, joint = History(1, HistoryConfig(dtype), BACKEND), torch.randn(batch, 10, 4)
    ring.push(0, [joint[:, :6]])
    assert held(ring) == batch * 6 * 4 * 4 and torch.equal(ring.features(0)[0], joint[:, :6])


def test_another_shape_begins_anew():
    ring = History(3, HistoryConfig(), BACKEND)
    ring.push(0, [torch.zeros(2)]), ring.push(1, [torch.zeros(3)])
    assert ring.times == (1.0,)


def test_features_carry_no_graph():
    ring, x = History(1, HistoryConfig(), BACKEND), torch.ones(3, requires_grad=True)
    ring.push(0, [x * 2])
    assert not ring.features(0)[0].requires_grad


def test_clear():
    ring = History(1, HistoryConfig(), BACKEND)
    ring.push(0, [torch.zeros(2)])
    ring.clear()
    assert ring.times == () and held(ring) == 0


def test_nonsense():
    with pytest.raises(ValueError, match=r"'disk'.*device, host"):
        HistoryConfig(place="disk")
    with pytest.raises(ValueError, match=r"torch\.int8 with scales, not torch\.int16"):
        HistoryConfig(torch.int16)


def test_a_long_ring_fills_before_anything_leaves():
    ring = ring_of(5)
    for t in range(7):
        ring.push(float(t), [torch.tensor(float(t))])
        assert ring.times == tuple(map(float, range(max(0, t - 4), t + 1)))


def test_forecasts_take_the_place_of_forecasts_and_computed_features_that_of_computed_ones():
    ring = ring_of(2, num_forecasts=2)
    for t in (0.0, 1.0, Predicted(2), Predicted(3), Predicted(4), 5.0, 6.0, Predicted(7)):
        ring.push(t, [torch.tensor(float(t))])
    assert ring.times == (4.0, 5.0, 6.0, 7.0) and ring.predicted == (True, False, False, True)
    assert [x.item() for x in ring.features(0)] == [4.0, 5.0, 6.0, 7.0]


def test_a_time_that_is_there_already_takes_the_place_of_its_entry():
    ring = ring_of(3)
    for t, value in ((0.9, 1.0), (0.5, 2.0), (0.5, 3.0)):
        ring.push(t, [torch.tensor(value)])
    assert ring.times == (0.9, 0.5) and [x.item() for x in ring.features(0)] == [1.0, 3.0]


def test_weights_are_made_for_each_way_in_which_equal_times_came_about():
    """Two branches of one step: the entry of time 1 was computed in one, and forecast in the other."""
    runtime, foca, made = Runtime(BACKEND, SignalReader(BACKEND, SingleProcess()), HistoryConfig()), FoCa(), []
    for time in (1.0, Predicted(1.0)):
        ring = ring_of(2, num_forecasts=2)
        ring.push(0.0, [torch.tensor([0.0])]), ring.push(time, [torch.tensor([1.0])])
        made += runtime.forecast(ring, foca, 2.0, None)
    assert [x.item() for x in made] == [2.0, 0.0]  # a line; and nothing but the one computed feature


@pytest.mark.parametrize("value", [-1e5, 1e5])
def test_what_a_storage_cannot_hold_is_noticed_on_both_sides_of_0(value):
    runtime = Runtime(BACKEND, SignalReader(BACKEND, SingleProcess()), HistoryConfig(torch.float16))
    runtime.watch([torch.tensor([0.0, value])])
    assert runtime.overflowed(wait=True) and runtime.nonfinite == 1
