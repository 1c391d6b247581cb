"""A model as data: its stacks, the sites and attentions in their blocks, where it ends, its signals, its padding.

Of a model whose blocks nobody has described it says what its forward is called with, which is all that caching its
output needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from c4d.core.attention import Processor
from c4d.core.example import Example, Size
from c4d.core.types import BLOCKS, MODULE_KINDS, OUTPUT, Signal

STREAM = "hidden_states"  # the stream of the blocks that is cached
TEXT_STREAM = "encoder_hidden_states"  # that of the text beside it


@dataclass(frozen=True)
class Site:
    """A sub-module (``""``: the block itself) whose output can be forecast, and the others that its reuse bypasses.

    ``bypasses`` maps a module's path in the block to the filler that replaces its forward on a reused forward; a filler
    gets the module's arguments and must return something of a shape that the block's code accepts. A block in which
    None stands in its place was made without it. ``by_token``: of an MLP or a cross-attention, whether it makes each
    token [B, S, D] of its first argument by itself, without other arguments that have something for each token.
    ``streams``: whose tokens these are, in their order; one sequence of text and image (``Stack.joined``) is the first.
    """

    output: str
    bypasses: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    by_token: bool = True
    streams: tuple[str, ...] = (STREAM,)

    @property
    def partial(self) -> bool:
        """Whether some of its tokens can be computed alone."""
        return self.by_token and not self.bypasses


@dataclass(frozen=True)
class Stack:
    """A ``ModuleList`` that the forward loops over.

    ``takes`` and ``returns`` name the streams a block threads, in call and in return order; the first of the chain's
    streams is ``hidden_states``. ``sites`` maps a kind to its sites in each block, ``attention`` the path of an
    attention module in the blocks (in some of them, it may be) to the processor that can stand in for its own. A
    ``side`` stack only feeds the others (VACE hints): it is skipped with them but carries no part of the feature. Nor
    does an ``interleaved`` one, whose blocks stand between those of the chain, in one loop with them (Latte's temporal
    ones), iterated over or taken by their number; each is skipped with the one before it. ``joined``: its blocks take
    text and image as one sequence, of whose tokens the ``"first"`` or the ``"last"`` ones are the image, which alone
    reaches the exit. ``filled``: on a reused forward its loop runs with a filler in each block's place, for what stands
    behind it reads what its body leaves, or adds to the stream what came to the blocks.
    """

    path: str
    takes: tuple[str, ...] = ("hidden_states",)
    returns: tuple[str, ...] = ("hidden_states",)
    sites: Mapping[str, tuple[Site, ...]] = field(default_factory=dict)
    attention: Mapping[str, type[Processor]] = field(default_factory=dict)
    side: bool = False
    interleaved: bool = False
    joined: str | None = None
    filled: bool = False

    def __post_init__(self) -> None:
        if strange := [kind for kind in self.sites if kind not in MODULE_KINDS]:
            known = ", ".join(MODULE_KINDS)
            raise ValueError(f"unknown kind of site {strange[0]!r} in {self.path!r}: known are {known}")
        if self.joined not in (None, "first", "last"):
            raise ValueError(f"{self.path!r} has joined={self.joined!r}: known are 'first', 'last' and None")

    @property
    def self_attention(self) -> str | None:
        """The path of the one attention in its blocks that a processor can show; None if there is none, or several."""
        found = [site.output for site in self.sites.get("attn", ())]
        return found[0] if len(found) == 1 and found[0] in self.attention else None

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
    """Cuts tensors of all tokens to those of a rank. ``batch``: the samples of the forward under way."""

    batch: int

    def __call__(self, x: Tensor, dim: int) -> Tensor:
        """``x`` without the tokens of other ranks along ``dim``; filled up at the end if the tokens do not divide."""
        ...

    def tail(self, x: Tensor, dim: int) -> Tensor:
        """The same for the last entries of ``x`` along ``dim``, as many as there are tokens; those before them stay."""
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """Of tokens [B, S, D], or [B, D, ...] with a grid that is flattened later: then [B, D, n, 1, ...]."""
        ...

    def rows(self, x: Tensor) -> Tensor:
        """Of [B S, D], one row for each token, this rank's; [B, D] or [1, D], one for each sample, as it is."""
        ...

    def before(self, count: int) -> int:
        """How many of the ``count`` leading tokens are this rank's."""
        ...

    def everyone(self, mask: Tensor | None) -> None:
        """Takes the place of a mask [B, S] of tokens that leaves none out; raises ValueError for one that does."""
        ...


Cut = Callable[[Any, Split], Any]  # what all ranks have, as one of them gets it


def sequence(x: Any, split: Split) -> Any:
    """The cut of tensors [B, S, ...], one or a list of them; None stays."""
    return tree_map_only(Tensor, lambda part: split(part, 1), x)


def everyone(mask: Any, split: Split) -> None:
    """The cut of a mask [B, S] of tokens."""
    return split.everyone(mask)


@dataclass(frozen=True)
class ShardingPlan:
    """How a transformer's tokens are spread over ranks: where they arise, what goes with them, where they are gathered.

    ``tokens``: the module whose output they are (:meth:`Split.tokens`), or the path of a stack, whose loop then begins
    with a part of ``hidden_states``. ``gather``: the module whose output [B, S, C] is gathered; from the blocks to
    there everything is done token by token. ``outputs`` maps the path of another module (such as that of the rotary
    tables) to what its output becomes, ``cut(output, split)``. ``arguments`` maps a path to what arguments become, by
    name: of the module there, of every block if a stack is there, of the transformer itself if the path is ``""``
    (nobody knows then how many tokens there are: :func:`sequence` for what joins them between the blocks).
    """

    tokens: str
    gather: str
    outputs: Mapping[str, Cut] = field(default_factory=dict)
    arguments: Mapping[str, Mapping[str, Cut]] = field(default_factory=dict)


@dataclass(frozen=True)
class Causal:
    """How a transformer goes through a clip block by block.

    ``positions``: the path of the module whose output tells the tokens where they stand, from 0. ``later(module, args,
    output, start)`` is that output where the first frame of tokens is the clip's ``start``-th (``args``: of the
    module's forward). ``masked(transformer)``: how many frames of tokens a block has in a mask that the transformer
    makes itself; 1: it makes none. ``arguments(transformer, batch, fps)``: what its forward is called with besides
    latents, timestep and text.
    """

    positions: str
    later: Callable[[nn.Module, tuple[Any, ...], Any, int], Any]
    masked: Callable[[nn.Module], int] = lambda transformer: 1
    arguments: Callable[[nn.Module, int, float], Mapping[str, Any]] = lambda transformer, batch, fps: {}


def never(transformer: nn.Module) -> bool:
    return False


def always(transformer: nn.Module) -> bool:
    return True


@dataclass(frozen=True)
class ModelSpec:
    """One transformer class as data: its stacks, the module the hidden state enters after them, signals, padding.

    A signal is [B, D], or [B, tokens, D]. ``latents`` names the argument of the forward that is denoised, or several
    (video and audio), in the order of what is returned; ``timestep`` the one that tells the step. ``like_latents`` says
    that the output is like the latents' leading channels. ``grid(transformer, arguments by name)`` gives the sides of
    the box, or boxes one after the other, in which the tokens at the exit lie, row by row. ``known_as`` are the
    beginnings of the names under which values are published for such models, ``wan`` for ``wan2.1-t2v-14b``.
    ``example`` is a small model, with which ``c4d check-model`` proves the description. ``request(transformer, size)``
    gives the arguments of a forward as its pipelines make them for a size, for ``c4d plan``, which reads no numbers.

    ``other_exits`` maps the name of another stream of the blocks that is returned (audio beside video) to the module
    that it enters after them. ``at_exit(transformer, arguments by name, streams by name)`` makes of the streams that
    the blocks have what the exit gets of them, where that is not the stream's tokens in their order: they lie in a box
    ``[B, *sides, D]`` there, or behind the text. ``long_skips``: later blocks read what earlier ones returned, beside
    the stream (Hunyuan-DiT), so that no forward can begin in the middle of them. ``left_out``: places in the chain of
    blocks that some calls pass by (Wan Animate 2's of the unconditional branch), so that nothing is measured or put in
    there. ``channels`` is the side of the latents that counts channels, if it is not the first behind the batch.
    ``conditional``: where pipelines put both branches of guidance into one batch, which half of the rows is the
    conditional one, ``"first"`` or ``"last"``; None: they do not, or nobody says it. ``batch_first``: what comes to the
    blocks has a row for each of the batch. ``whole_batch(transformer)``: blocks get something that has a batch, but no
    row for each sample, so that they cannot run on some of the samples. ``shared``: arguments of the forward without a
    batch, however many rows they have.
    ``causal`` describes a video model that :func:`c4d.rollout` can drive. Without ``stacks`` (and then without
    ``exit``) its output alone can be cached.
    """

    transformer: str
    stacks: tuple[Stack, ...] = ()
    exit: str | None = None
    other_exits: Mapping[str, str] = field(default_factory=dict)
    signals: Mapping[Signal, OutputOf | AtEntry] = field(default_factory=dict)
    padding: tuple[Padding, ...] = ()
    sharding: ShardingPlan | None = None
    long_skips: bool = False
    left_out: tuple[int, ...] = ()
    at_exit: Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], Tensor] | None = None
    latents: str | tuple[str, ...] = "hidden_states"
    channels: int = 1
    timestep: str = "timestep"
    like_latents: bool = True
    conditional: str | None = None
    batch_first: bool = True
    whole_batch: Callable[[nn.Module], bool] = never
    shared: tuple[str, ...] = ("img_ids", "txt_ids")
    grid: Callable[[nn.Module, Mapping[str, Any]], tuple[tuple[int, ...], ...]] | None = None
    about: str = ""
    known_as: tuple[str, ...] = ()
    example: Example | None = None
    request: Callable[[nn.Module, Size], Mapping[str, Any]] | None = None
    causal: Causal | None = None

    def __post_init__(self) -> None:
        if bool(self.stacks) != (self.exit is not None):
            raise ValueError(
                f"the spec of {self.transformer} has {'an exit' if self.exit else 'stacks'} alone: stacks= and exit= "
                "describe the blocks together, and without both the output alone is cached"
            )
        if self.conditional not in (None, "first", "last"):
            raise ValueError(
                f"the spec of {self.transformer} has conditional={self.conditional!r}: known are 'first', 'last', None"
            )

    @property
    def chain(self) -> tuple[Stack, ...]:
        """The stacks through whose blocks the stream goes, one after the other."""
        return tuple(stack for stack in self.stacks if not (stack.side or stack.interleaved))

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
