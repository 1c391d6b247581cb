"""Weights stored in eight bits, whole numbers."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from c4d.backends import Backend
from c4d.core.importing import CannotImportError, importing
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import Kind, Part, mode

INSTALL = "pip install torchao"


def _torchao() -> tuple[Any, Any]:
    with importing("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    return quantize_, Int8WeightOnlyConfig


def _lacking(pipe: Any, backend: Backend) -> str | None:
    try:
        _torchao()
    except CannotImportError as error:
        return f"{error}; {INSTALL}, or take float8, which needs no other package"
    return None


def _chosen(part: Any) -> Any:
    """Which layers: linear ones but those that diffusers keeps as they are when it casts weights."""
    kept = [*(getattr(part, "_skip_layerwise_casting_patterns", None) or ()), *(part._keep_in_fp32_modules or ())]
    return lambda layer, name: isinstance(layer, nn.Linear) and not any(re.search(each, name) for each in kept)


def _apply(pipe: Any, backend: Backend) -> None:
    quantize, config = _torchao()
    for part in transformers_of(pipe).values():
        quantize(part, config(), filter_fn=_chosen(part))


@mode("int8", Kind.NUMBERS, "to the rounding of weights to 8 bits with a scale for each output channel")
def int8() -> Part:
    """The transformers' linear weights are whole numbers of 8 bits, with a scale for each output channel.

    torchao's ``quantize_`` with ``Int8WeightOnlyConfig``, which has to be installed. It cannot be undone.
    """
    return Part(_apply, _lacking)
