"""A model as data: its stacks, the sites and attentions in their blocks, where it ends, its signals, its padding.

Of a model whose blocks nobody has described it says what its forward is called with, which is all that caching its
output needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from c4d.core.attention import Processor
from c4d.core.example import Example
from c4d.core.types import BLOCKS, MODULE_KINDS, OUTPUT, Signal

STREAM = "hidden_states"  # the stream of the blocks that is cached


@dataclass(frozen=True)
class Site:
    """A sub-module (``""``: the block itself) whose output can be forecast, and the others that its reuse bypasses.

    ``bypasses`` maps a module's path in the block to the filler that replaces its forward on a reused forward; a filler
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
    others (VACE hints): it is skipped with them but carries no part of the feature. ``joined``: its blocks take text
    and image as one sequence, of whose tokens the ``"first"`` or the ``"last"`` ones are the image, which alone reaches
    the exit.
    """

    path: str
    takes: tuple[str, ...] = ("hidden_states",)
    returns: tuple[str, ...] = ("hidden_states",)
    sites: Mapping[str, tuple[Site, ...]] = field(default_factory=dict)
    attention: Mapping[str, type[Processor]] = field(default_factory=dict)
    side: bool = False
    joined: str | None = None

    def __post_init__(self) -> None:
        if strange := [kind for kind in self.sites if kind not in MODULE_KINDS]:
            known = ", ".join(MODULE_KINDS)
            raise ValueError(f"unknown kind of site {strange[0]!r} in {self.path!r}: known are {known}")
        if self.joined not in (None, "first", "last"):
            raise ValueError(f"{self.path!r} has joined={self.joined!r}: known are 'first', 'last' and None")

    def image(self, x: Tensor, tokens: int) -> Tensor:
        """Of the stream [B, S, D] of its blocks the ``tokens`` that reach the exit."""
        if self.joined is None or x.shape[1] == tokens:
            return x
        return x[:, :tokens] if self.joined == "first" else x[:, -tokens:]


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

    ``needs``: the path of the module without which the transformer leaves this text out.

    Declaring it promises that text which the mask leaves out changes nothing in what the transformer returns, and that
    the text stands last among the keys wherever an attention gets a mask made of this one. With several texts, all
    valid tokens precede all padding.
    """

    tensor: str
    mask: str
    needs: str | None = None


class Split(Protocol):
    """Cuts tensors of all tokens to those of a rank."""

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        """``x`` without the tokens of other ranks along ``dim``; filled up at the end if the tokens do not divide."""
        ...

    def tail(self, x: Tensor, dim: int) -> Tensor:
        """The same for the last entries of ``x`` along ``dim``, as many as there are tokens; those before them stay."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """Of tokens [B, S, D], or [B, D, ...] with a grid that is flattened later: then [B, D, n, 1, ...]."""
        ...


@dataclass(frozen=True)
class ShardingPlan:
    """How a transformer's tokens are spread over ranks: where they arise, what goes with them, where they are gathered.

    ``tokens``: the module whose output they are (:meth:`Split.tokens`). ``gather``: the module whose output [B, S, C]
    is gathered; from the blocks to there everything is done token by token. ``outputs`` maps the path of another module
    (such as that of the rotary tables) to what its output becomes, ``cut(output, split)``. ``token_counts`` names the
    arguments of blocks that count leading tokens. ``block_arguments`` are those of blocks that are [B, S] or [B, S, D].
    ``forward_arguments`` are those of the forward that are [B, S, D], or lists of such, and join the tokens between the
    blocks (a ControlNet's residuals).
    """

    tokens: str
    gather: str
    outputs: Mapping[str, Callable[[Any, Split], Any]] = field(default_factory=dict)
    token_counts: tuple[str, ...] = ()
    block_arguments: tuple[str, ...] = ()
    forward_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """One transformer class as data: its stacks, the module the hidden state enters after them, signals, padding.

    A signal is [B, D], or [B, tokens, D]. ``latents`` names the argument of the forward that is denoised, or several
    (video and audio), in the order of what is returned; ``timestep`` the one that tells the step. ``like_latents`` says
    that the output is like the latents' leading channels. ``grid(transformer, arguments by name)`` gives the sides of
    the box, or boxes one after the other, in which the tokens at the exit lie, row by row. ``known_as`` are the
    beginnings of the names under which values are published for such models, ``wan`` for ``wan2.1-t2v-14b``.
    ``example`` is a small model, with which ``c4d check-model`` proves the description.

    ``other_exits`` maps the name of another stream of the blocks that is returned (audio beside video) to the module
    that it enters after them. Without ``stacks`` (and then without ``exit``) its output alone can be cached.
    """

    transformer: str
    stacks: tuple[Stack, ...] = ()
    exit: str | None = None
    other_exits: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[Signal, OutputOf | AtEntry] = field(default_factory=dict)
    padding: tuple[Padding, ...] = ()
    sharding: ShardingPlan | None = None
    latents: str | tuple[str, ...] = "hidden_states"
    timestep: str = "timestep"
    like_latents: bool = True
    grid: Callable[[nn.Module, Mapping[str, Any]], tuple[tuple[int, ...], ...]] | None = None
    about: str = ""
    known_as: tuple[str, ...] = ()
    example: Example | None = None

    def __post_init__(self) -> None:
        if bool(self.stacks) != (self.exit is not None):
            raise ValueError(
                f"the spec of {self.transformer} has {'an exit' if self.exit else 'stacks'} alone: stacks= and exit= "
                "describe the blocks together, and without both the output alone is cached"
            )

    @property
    def exits(self) -> Mapping[str, str]:
        """Stream -> the module that it enters after the blocks."""
        return {} if self.exit is None else {STREAM: self.exit, **self.other_exits}

    @property
    def denoised(self) -> tuple[str, ...]:
        """The names of the arguments that are denoised."""
        return (self.latents,) if isinstance(self.latents, str) else self.latents

    def kinds(self) -> tuple[str, ...]:
        """Every kind of site that a rule can name on this model."""
        declared = {kind for stack in self.stacks for kind in stack.sites}
        blocks = (BLOCKS,) if self.stacks else ()
        return (*blocks, OUTPUT, *(kind for kind in MODULE_KINDS if kind in declared))

    def measurable(self) -> tuple[Signal, ...]:
        return tuple(
            signal
            for signal in Signal
            if signal in self.signals or (signal.first and bool(self.stacks)) or self._outside(signal)
        )

    def _outside(self, signal: Signal) -> bool:
        if signal is Signal.DRAFT:
            return any(stack.sites for stack in self.stacks if not stack.side)
        return signal.outside and (signal is not Signal.SPECTRUM or self.grid is not None)
