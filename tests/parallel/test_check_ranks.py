"""What keeps ranks from sharing a pipeline is told before its weights are loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from c4d.backends.kernels import OWN
from c4d.backends.reference import KERNELS, Reference
from c4d.core.text.grammar import parse
from c4d.parallel import Degrees, Job, SequenceParallel
from c4d.pipelines import InputError, Request, check_ranks, skeleton

WRITTEN_OUT = KERNELS["math"]


@pytest.fixture(scope="module")
def pipe():
    return skeleton("wan-tiny")


def checked(pipe, how, kernel="auto", backend=None, world=2, **more):
    request, chosen = Request(prompt="a red circle"), backend or Reference()
    return check_ranks(pipe, how, Job(0, world, world), request, kernel, torch.float32, backend=chosen, **more)


def test_where_one_branch_is_made_of_the_other_both_are_of_all_ranks(pipe):
    spares, does_not = parse("fora:interval=2+cfg-skip:ratio=0.2"), parse("fora:interval=2")
    assert checked(pipe, SequenceParallel()) == checked(pipe, SequenceParallel(), method=does_not) == Degrees(1, 1, 2)
    assert checked(pipe, SequenceParallel(), method=spares) == Degrees(2, 1, 1)
    with pytest.raises(InputError, match=r"--cfg 2 does not go with 'fora:interval=2\+cfg-skip:ratio=0.2'.*--cfg 1"):
        checked(pipe, SequenceParallel(1, 1, cfg=2), method=spares)


@pytest.mark.parametrize("how", [SequenceParallel(2, 1, cfg=1), SequenceParallel(1, 2, cfg=1)], ids=["ulysses", "ring"])
def test_the_models_own_attention_sees_a_part_of_the_tokens(pipe, how):
    with pytest.raises(InputError, match="--attention own sees a part of the tokens alone on several ranks"):
        checked(pipe, how, OWN)
    assert checked(pipe, SequenceParallel(1, 1, cfg=2), OWN) == Degrees(1, 1, 2)


def test_a_ring_needs_a_kernel_for_the_heads_of_this_model(pipe):
    (size,) = {attn.inner_dim // attn.heads for attn in (block.attn1 for block in pipe.transformer.blocks)}

    def of(size):
        """A backend whose one kernel with a log-sum-exp takes heads of that size."""
        backend = Reference()
        limits = replace(WRITTEN_OUT.limits, head_sizes=(size,))
        backend.attention_kernels = {**KERNELS, "math": replace(WRITTEN_OUT, limits=limits)}
        return backend

    how = SequenceParallel(1, 2, cfg=1)
    assert checked(pipe, how, backend=of(size)) == Degrees(1, 2)
    with pytest.raises(InputError, match=rf"on several ranks: .*math takes head sizes {size + 8}, not {size}"):
        checked(pipe, how, backend=of(size + 8))
    with pytest.raises(InputError, match=r"--attention 'sdpa' on several ranks: .*does not give the log-sum-exp"):
        checked(pipe, how, "sdpa")


@pytest.mark.parametrize("how", [SequenceParallel(2, 1, cfg=2), SequenceParallel(2, 1, cfg=1, data=2)])
def test_weights_are_divided_over_ranks_that_make_each_forward_together(pipe, how):
    assert checked(pipe, SequenceParallel(4, 1, cfg=1), world=4, memory="divided") == Degrees(4, 1)
    assert checked(pipe, how, world=4, memory="divided:ranks=2+tiled").sequence == 2
    with pytest.raises(InputError, match=r"over ranks 0 to 3, which do not .* \(ulysses 2, .*2\).*divided:ranks=2, of"):
        checked(pipe, how, world=4, memory="divided")
