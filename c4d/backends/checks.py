"""What goes together in the arguments of norms, rotary embeddings and caching: the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from c4d.backends.kernels import UnsupportedError, names

# Sizes are compared one by one: `in` a tuple is wrong about symbolic ones when a block is compiled for dynamic shapes.


def check_norm(x: Tensor, weight: Tensor | None) -> None:
    """:class:`UnsupportedError` unless ``weight`` norms each head of x [B, S, H, D], or all heads of a token."""
    fits = x.ndim == 4
    if fits and weight is not None:
        fits = weight.device == x.device and weight.ndim == 1
        fits = fits and (len(weight) == x.shape[3] or len(weight) == x.shape[2] * x.shape[3])
    if not fits:
        raise UnsupportedError(
            f"a norm takes x [B, S, H, D] and a weight [D] or [H * D] beside it, not {shown(x, weight)}"
        )


def check_rotary(x: Tensor, cos: Tensor, sin: Tensor, tokens: int | None) -> int:
    """How many leading tokens are turned; :class:`UnsupportedError` for tables that do not fit x [B, S, H, D]."""
    turned = x.shape[1] if tokens is None else tokens
    fits = x.ndim == 4 and turned <= x.shape[1] and x.device == cos.device == sin.device
    fits = fits and cos.shape == sin.shape and (cos.ndim == 2 or cos.ndim == 3)
    fits = fits and cos.shape[-2] == turned and 2 * cos.shape[-1] == x.shape[-1]
    if not (fits and (cos.ndim == 2 or cos.shape[0] == 1 or cos.shape[0] == x.shape[0])):
        raise UnsupportedError(
            f"a rotary embedding of {turned} tokens takes x [B, S, H, D] with an even D and tables [{turned}, D/2] or "
            f"[B, {turned}, D/2] beside it, not {shown(x, cos, sin)}"
        )
    return turned


def check_features(features: Sequence[Tensor], weights: Sequence[float] | Tensor) -> None:
    """:class:`UnsupportedError` unless these are K >= 1 features of one shape on one device, and K weights."""
    if not features or any(x.shape != features[0].shape or x.device != features[0].device for x in features[1:]):
        raise UnsupportedError(f"lincomb takes features of one shape on one device, not {shown(*features)}")
    if isinstance(weights, Tensor) and (weights.ndim != 1 or weights.device != features[0].device):
        raise UnsupportedError(
            f"lincomb takes numbers, or a tensor [K] beside its features, as weights, not {shown(weights)}"
        )
    if len(weights) != len(features):
        raise UnsupportedError(f"lincomb takes a weight for each feature, not {len(weights)} for {len(features)}")


def check_pair(now: Tensor, before: Tensor) -> None:
    """:class:`UnsupportedError` unless both are of one shape and on one device."""
    if now.shape != before.shape or now.device != before.device:
        raise UnsupportedError(f"change takes two tensors of one shape on one device, not {shown(now, before)}")


def check_dtype(what: str, allowed: tuple[torch.dtype, ...], *tensors: Tensor) -> None:
    """:class:`UnsupportedError` for a tensor of a dtype that the primitive ``what`` does not take."""
    for x in tensors:
        if x.dtype not in allowed:
            raise UnsupportedError(f"{what} takes {names(allowed)}, not {names([x.dtype])}: convert it")


def shown(*tensors: Tensor | None) -> str:
    said = ["none" if x is None else f"{list(x.shape)} on {x.device}" for x in tensors]
    return ", ".join(said) or "nothing"
