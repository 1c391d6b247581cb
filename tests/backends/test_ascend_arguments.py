"""What the Ascend adapter says to torch_npu's operators, and which of them takes a call; without torch_npu."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from c4d.backends.ascend.attention import kernels
from c4d.backends.ascend.chips import fused
from c4d.backends.kernels import ADDITIVE, CAUSAL, FULL, KEYS, MASKS, Call, UnsupportedError, choose, name_of
from tests.backends.ascend_rules import BF16, FP16, FP32, RULES, OnPaper, noted

FUSED, OTHERS = (
    ["Ascend910B3", "Ascend910_9391", "Ascend950DT_9571"],
    ["Ascend910A", "Ascend910B", "Ascend910ProB", "Ascend310P3"],
)


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's own norm, for a weight that the operator does not take
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_arguments(rule):
    rule(OnPaper())


def test_the_stand_ins_go_away_again():
    with pytest.raises(AssertionError), noted():
        raise AssertionError
    with pytest.raises(AttributeError):
        torch.ops.npu.npu_rms_norm  # noqa: B018


def chosen(call, chip="Ascend910B3", dtypes=(BF16, FP16, FP32), name="auto"):
    table = kernels(chip, dtypes)
    return name_of(table, choose(table, call, name))


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from((BF16, FP16, FP32)),
    size=st.integers(1, 2048),
    heads=st.integers(1, 4096),
    mask=st.sampled_from(list(MASKS)),
    lse=st.booleans(),
    chip=st.sampled_from([*FUSED, *OTHERS, None, "Warp9"]),
)
def test_every_call_is_taken_and_additive_masks_never_by_a_fused_operator(dtype, size, heads, mask, lse, chip):
    taken = chosen(Call(dtype, size, mask, lse, heads), chip)
    if chip not in FUSED or mask == ADDITIVE or heads > 256 or size > 768:
        assert taken in ("sdpa", "math")
    elif taken == "infer":
        assert dtype != FP32 and mask == "none" and size % 16 == 0 and size <= 512 and heads * size < 65535
    else:
        assert taken == "fusion"


@pytest.mark.parametrize("mask, wanted", [("none", "infer"), (KEYS, "fusion"), (FULL, "fusion"), (CAUSAL, "fusion")])
@pytest.mark.parametrize("chip", FUSED)
def test_chips_with_fused_operators(chip, mask, wanted):
    assert fused(chip) and chosen(Call(BF16, 128, mask), chip) == wanted


@pytest.mark.parametrize("chip", [*OTHERS, "Warp9"])
def test_chips_without_them_are_named(chip):
    """They have no bfloat16 either, but for the unknown one, of which nothing is said."""
    assert not fused(chip) and chosen(Call(FP16, 128), chip, (FP16, FP32)) == "sdpa"
    for name in ("infer", "fusion"):
        with pytest.raises(UnsupportedError, match=rf"'{name}' needs one of Atlas A2, .*; this NPU is an {chip}; "):
            chosen(Call(FP16, 128), chip, (FP16, FP32), name)
    with pytest.raises(UnsupportedError, match="takes float16, float32, not bfloat16"):
        chosen(Call(BF16, 128), chip, (FP16, FP32))
    with noted() as calls:
        x, table = torch.ones(1, 3, 2, 4), torch.ones(3, 2)
        OnPaper(chip).norm_rotary(x, None, table, table, eps=1e-6, interleaved=True)
        OnPaper(chip).attention(x, x, x)
    assert not calls


@pytest.mark.parametrize("bf16", [True, False])
def test_what_a_chip_computes_in(monkeypatch, bf16):
    from c4d.backends.ascend import Ascend

    monkeypatch.setattr(torch, "npu", type("npu", (), {"is_bf16_supported": lambda: bf16}), raising=False)
    monkeypatch.setattr(Ascend, "chip", "Ascend910B3" if bf16 else "Ascend910A")
    assert Ascend().dtypes == ((BF16, FP16, FP32) if bf16 else (FP16, FP32))
    assert Ascend().default_dtype == (BF16 if bf16 else FP16)


@pytest.mark.parametrize(
    "name, call, words, instead",
    [
        ("infer", Call(BF16, 64, heads=257), "takes up to 256 heads, not 257", "math"),
        ("fusion", Call(BF16, 64, KEYS, heads=257), "takes up to 256 heads, not 257", "math"),
        ("infer", Call(BF16, 256, heads=256), "up to 65534 numbers a token, not 256 heads of 256", "fusion"),
        ("infer", Call(BF16, 72), "takes head sizes from 16 to 512 in steps of 16, not 72", "fusion"),
        ("infer", Call(FP32, 64), "takes bfloat16, float16, not float32", "fusion"),
        ("infer", Call(BF16, 64, KEYS), "does not take a boolean mask of keys", "fusion"),
        ("fusion", Call(BF16, 769), "takes head sizes from 1 to 768 in steps of 1, not 769", "sdpa"),
        ("fusion", Call(BF16, 64, ADDITIVE), "does not take an additive mask", "sdpa"),
        ("fusion", Call(BF16, 64, ADDITIVE, lse=True), "does not take an additive mask", "math"),
    ],
    ids=str,
)
def test_a_limit_is_named_and_auto_takes_another(name, call, words, instead):
    with pytest.raises(UnsupportedError, match=f"'{name}' .*{words}.*; these would do: .*{instead}"):
        chosen(call, name=name)
    assert chosen(call) == instead


def test_the_widest_tokens():
    """Less than 65535 numbers, all heads together."""
    assert chosen(Call(BF16, 256, heads=255)) == "infer"
    assert chosen(Call(BF16, 512, heads=128)) == "fusion"
