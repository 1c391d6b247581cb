"""What the adapter makes of a chip, by the name that its driver gives: run once for each, see test_simulated.py."""

from __future__ import annotations

import torch

from c4d.backends.ascend import Ascend
from tests.ascend.rungs import BF16, FP16, FP32, FUSION, INFER, NORM, ROTARY, there
from tests.ascend.sim.device import Simulation
from tests.backends.guard import rand

# Name -> the attention kernels of a call without a mask and of one with, as torch_npu launches them there.
FUSED = {
    "Ascend910B3": [INFER, FUSION],
    "Ascend910_9391": [INFER, FUSION],
    "Ascend950DT_9571": ["aclnnFusedInferAttentionScoreV5", "aclnnFlashAttentionScoreV4"],
}


def test_the_kernels_of_this_chip(trace):
    made, chip = Ascend(), torch.npu.get_device_name()
    fused = chip in FUSED
    assert made.chip == chip and made.dtypes == ((BF16, FP16, FP32) if fused else (FP16, FP32))
    x, weight, cos = (rand(*shape, dtype=FP16) for shape in ((2, 9, 3, 16), (16,), (9, 8)))
    x, weight, cos, mask = there(x, weight, cos, rand(2, 1, 1, 9) > 0)
    with Simulation(compute=False):
        trace()
        made.attention_lse(x, x, x)
        made.attention_lse(x, x, x, mask=mask)
        assert [name for name in trace() if "Attention" in name] == FUSED.get(chip, [])
        made.norm_rotary(x, weight, cos, cos, eps=1e-6, interleaved=True)
        assert [name for name in trace() if name in (NORM, ROTARY)] == [NORM, ROTARY] * fused
