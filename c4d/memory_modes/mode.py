"""What a memory mode is: where weights are, what they are stored as, or how the VAE works, by name."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec

import torch

from c4d.backends import Backend
from c4d.core.integration.offload import divided_over, offloaded
from c4d.core.integration.transformers import transformers_of

P = ParamSpec("P")
HOST = torch.device("cpu")


class Kind(enum.IntEnum):
    """What a mode is about. A text has at most one of each but ``DECODER``; they are applied in this order."""

    NUMBERS = 0  # what the transformers' weights are stored as: before they are moved
    PLACE = 1  # where all weights are while nothing needs them
    DECODER = 2  # in how many pieces the VAE works


def nothing(pipe: Any, backend: Backend) -> str | None:
    return None


def nothing_more(pipe: Any, called: Sequence[str], backend: Backend) -> int:
    return 0


@dataclass(frozen=True)
class Part:
    """One mode with its options: ``apply`` does it to a pipeline.

    ``lacking`` says in words why a pipeline or a device cannot, and what to do instead; None if they can. It is also
    asked with a pipeline whose weights are not loaded. ``apart``: names of modes that it does not go with. ``over``:
    how many ranks in a row have the weights once (None: all of the job).

    ``holds(pipe, called, backend)``: bytes of weights on the device while the last component of ``called`` runs, after
    the ones before it ran (of a mode that says what weights are stored as: what is there beside those). ``pipe`` has
    weights without numbers, stored as the modes say. None: not known, and no budget can count on the mode.
    """

    apply: Callable[[Any, Backend], None]
    lacking: Callable[[Any, Backend], str | None] = nothing
    apart: tuple[str, ...] = ()
    holds: Callable[[Any, Sequence[str], Backend], int] | None = None
    over: int | None = 1


class Mode(Generic[P]):
    """A function from options to a :class:`Part`, under a ``name``; what is said of it is its docstring.

    ``exact`` in words: how close the result is to that of the pipeline as it is.
    """

    def __init__(self, name: str, kind: Kind, exact: str, make: Callable[P, Part]) -> None:
        functools.update_wrapper(self, make)
        self.name, self.kind, self.exact, self._make = name, kind, exact, make

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Part:
        return self._make(*args, **kwargs)


def mode(name: str, kind: Kind, exact: str) -> Callable[[Callable[P, Part]], Mode[P]]:
    """Makes a function that gives a :class:`Part` a :class:`Mode`."""
    return lambda make: Mode(name, kind, exact, make)


def on_host(backend: Backend) -> bool:
    """Whether it computes where weights are loaded to."""
    return torch.device(backend.device_type) == HOST


def needs_device(pipe: Any, backend: Backend) -> str | None:
    """Of modes that move weights: the device is another place than the host, and nobody moves them already."""
    if on_host(backend):
        return (
            f"it moves weights from the host to a device and back, and backend {backend.name!r} computes on the host, "
            "where they are: take full, float8 or int8, or another backend"
        )
    return moved_already(pipe)


def moved_already(pipe: Any) -> str | None:
    """Of modes that say where weights are: why not, if another one does."""
    for name, part in modules_of(pipe).items():
        if (moved := offloaded(part)) or divided_over(part):
            how = "offloaded" if moved else "divided over ranks"
            return f"the weights of {name} are {how} already: load the pipeline anew, and choose one mode for it"
    return None


def uses_parts_of_blocks(module: Any) -> bool:
    """Whether it reads weights of a block outside of the block's forward, or diffusers takes care that it may."""
    return not getattr(module, "_supports_group_offloading", True)  # those of transformers do not say


def device_of(backend: Backend) -> torch.device:
    """The device that this process computes on."""
    if on_host(backend):
        return HOST
    return torch.device(backend.device_type, torch.get_device_module(backend.device_type).current_device())


def denoisers_and_others(pipe: Any) -> tuple[list[torch.nn.Module], list[torch.nn.Module]]:
    """Of :func:`modules_of`, the transformers, and the components beside them."""
    denoisers, parts = [id(part) for part in transformers_of(pipe).values()], modules_of(pipe).values()
    return [each for each in parts if id(each) in denoisers], [each for each in parts if id(each) not in denoisers]


def modules_of(pipe: Any) -> dict[str, torch.nn.Module]:
    """The components of ``pipe`` that have weights, by their names in it; of a skeleton those that could be made."""
    parts = pipe.components if hasattr(pipe, "components") else vars(pipe)
    return {name: part for name, part in parts.items() if isinstance(part, torch.nn.Module)}
