"""A model as data: its stacks, the sites and attentions in their blocks, where it ends, its signals, its padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from c4d.core.attention import Processor
from c4d.core.types import MODULE_KINDS, OUTPUT, STACK, Probe


@dataclass(frozen=True)
class Site:
    """A sub-module (``""``: the block itself) whose output can be forecast, and the others that its reuse bypasses.

    ``bypasses`` maps a module's path in the block to the filler that replaces its forward on a reused pass; a filler
    gets the module's arguments and must return something of a shape that the block's code accepts.
    """

    output: str
    bypasses: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """A ``ModuleList`` that the forward loops over.

    ``takes`` and ``returns`` name the streams a block threads, in call and in return order; the first of the chain's
    streams is ``hidden_states``. ``sites`` maps a kind to its sites in each block, ``attention`` the path of an
    attention module in each block to the processor that can stand in for its own. A ``side`` stack only feeds the
    others (VACE hints): it is skipped with them but carries no part of the feature.
    """

    path: str
    takes: tuple[str, ...] = ("hidden_states",)
    returns: tuple[str, ...] = ("hidden_states",)
    sites: Mapping[str, tuple[Site, ...]] = field(default_factory=dict)
    attention: Mapping[str, type[Processor]] = field(default_factory=dict)
    side: bool = False


@dataclass(frozen=True)
class OutputOf:
    """A signal known before any block runs: ``read(output)`` of the module at path ``module``."""

    module: str
    read: Callable[[Any], Tensor]


@dataclass(frozen=True)
class AtEntry:
    """A signal that needs the first block: ``read(block, arguments by name)``."""

    read: Callable[[nn.Module, Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class Padding:
    """Padded text of a transformer's forward: the arguments ``tensor`` [B, T, C] and ``mask`` [B, T], 1 for a token.

    Declaring it promises that text which the mask leaves out changes nothing in what the transformer returns, and that
    the text stands last among the keys wherever an attention gets a mask made of this one.
    """

    tensor: str
    mask: str


@dataclass(frozen=True)
class ModelSpec:
    """One transformer class as data: its stacks, the module the hidden state enters after them, signals, padding."""

    transformer: str
    stacks: tuple[Stack, ...]
    exit: str
    signals: Mapping[Probe, OutputOf | AtEntry] = field(default_factory=dict)
    padding: Padding | None = None
    about: str = ""

    def kinds(self) -> tuple[str, ...]:
        """Every kind of site that a rule can name on this model."""
        declared = {kind for stack in self.stacks for kind in stack.sites}
        return (STACK, OUTPUT, *(kind for kind in MODULE_KINDS if kind in declared))

    def probes(self) -> tuple[Probe, ...]:
        return tuple(probe for probe in Probe if probe is Probe.HEAD or probe in self.signals)
