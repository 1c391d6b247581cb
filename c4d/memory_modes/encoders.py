"""Text encoders that run once for all prompts of a job, and are then given back."""

from __future__ import annotations

import gc
import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.backends import Backend, UnsupportedError
from c4d.core.integration.offload import offloaded
from c4d.core.integration.transformers import transformers_of
from c4d.memory_modes.mode import HOST, denoisers_and_others, device_of, modules_of
from c4d.memory_modes.text import MemoryMode

ENCODER = "text_encoder"  # how the names of all of them begin
ENCODE = "encode_prompt"  # the method by which pipelines run them


def lacking(pipe: Any, *, loaded: bool = True) -> str | None:
    """Why the prompts of ``pipe`` cannot be encoded beforehand; None if they can. ``loaded``: it has its weights."""
    name = type(pipe).__name__
    if isinstance(vars(pipe).get(ENCODE), Encoded):
        return f"the text encoders of this {name} were given back already: load the pipeline anew"
    if not callable(getattr(pipe, ENCODE, None)):
        return f"{name} has no {ENCODE}, by which its text could be encoded apart"
    return f"{name} holds no text encoder" if loaded and not _encoders(pipe) else None


def encode_all(
    pipe: Any, calls: Sequence[Mapping[str, Any]], *, backend: Backend, memory: MemoryMode | None = None
) -> None:
    """:func:`c4d.encode_prompts`, whose ``memory`` is a mode in words. Raises UnsupportedError where it cannot be."""
    if (reason := lacking(pipe)) is not None:
        raise UnsupportedError(f"prompts cannot be encoded beforehand: {reason}")
    whole = memory is not None and any(mode.name == "full" for mode, _ in memory.parts)
    if memory is not None:
        memory.check(pipe, backend)
        (_move_all_but_transformers if whole else memory.apply)(pipe, backend)
    encoded = Encoded(pipe)
    pipe.encode_prompt = encoded
    try:
        for call in calls:
            with _until_its_loop(pipe):
                pipe(**{**call, "generator": torch.Generator()})  # the caller's draws nothing here
            encoded.end_call(call)
    except BaseException:
        del pipe.encode_prompt
        raise
    encoded.close()
    _give_back(pipe)
    if memory is not None and whole:
        memory.apply(pipe, backend)


def _move_all_but_transformers(pipe: Any, backend: Backend) -> None:
    """To the device, which may have no room for the transformers beside the text encoders."""
    _, others = denoisers_and_others(pipe)
    for part in others:
        part.to(device_of(backend))


class Encoded:
    """In place of ``encode_prompt``: what it returned for the same arguments, once :meth:`close` was called.

    Results lie on the host, each tensor once more where it was as soon as it is asked for.
    """

    def __init__(self, pipe: Any) -> None:
        self._name = type(pipe).__name__
        self._encode: Callable[..., Any] | None = pipe.encode_prompt
        self._signature = inspect.signature(pipe.encode_prompt)
        self._made: dict[Any, Any] = {}
        self._asked = 0  # by the call under way

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs)
        given.apply_defaults()
        key = tuple((name, _key(value)) for name, value in given.arguments.items() if name != "device")
        self._asked += 1
        if key not in self._made:
            if self._encode is None:
                raise ValueError(
                    f"{self._name} gave its text encoders back, and this call's text ({_told(given.arguments)}) was "
                    "not encoded before: name the call in c4d.encode_prompts, or load the pipeline anew"
                )
            self._made[key] = pytree.tree_map_only(Tensor, _Kept, self._encode(*args, **kwargs))
        return pytree.tree_map_only(_Kept, _Kept.back, self._made[key])

    def end_call(self, call: Mapping[str, Any]) -> None:
        """Raises UnsupportedError if nothing was encoded in a call of the pipeline."""
        if not self._asked:
            raise UnsupportedError(
                f"prompts cannot be encoded beforehand: {self._name} did not call its {ENCODE} before its loop, called "
                f"with {', '.join(call) or 'nothing'}"
            )
        self._asked = 0

    def close(self) -> None:
        """Nothing more is encoded."""
        self._encode = None


class _Kept:
    """A tensor on the host, and where it was."""

    def __init__(self, x: Tensor) -> None:
        self._x, self._device = x.detach().to(HOST, copy=True), x.device

    def back(self) -> Tensor:
        """Another one every time, for a pipeline may change it in place."""
        return self._x.to(self._device, copy=True)


class GivenBack:
    """In place of a text encoder that is gone: what a pipeline may still read of it, and an error where it runs it."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self._name = name
        self.config, self.dtype = getattr(module, "config", None), getattr(module, "dtype", None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"{self._name} was given back when the prompts were encoded, and this pipeline runs it apart from "
            f"{ENCODE}: load the pipeline anew, and do not encode its prompts beforehand"
        )


class _AtItsLoop(BaseException):
    """A pipeline has come to its denoising loop; no ``except Exception`` of its own may stop this."""


@contextmanager
def _until_its_loop(pipe: Any) -> Iterator[None]:
    """A call inside ends where the pipeline makes its progress bar or calls a transformer, whichever is first."""

    def stop(*_: Any, **__: Any) -> Any:
        raise _AtItsLoop

    before = vars(pipe).get("progress_bar")
    hooks = [each.register_forward_pre_hook(stop, prepend=True) for each in transformers_of(pipe).values()]
    pipe.progress_bar = stop
    try:
        yield
    except _AtItsLoop:
        pass
    finally:
        del pipe.progress_bar
        if before is not None:
            pipe.progress_bar = before
        for hook in hooks:
            hook.remove()


def _encoders(pipe: Any) -> list[str]:
    return [name for name in modules_of(pipe) if name.startswith(ENCODER)]


def _give_back(pipe: Any) -> None:
    """Takes the text encoders out of ``pipe``; one that somebody else holds goes to the host."""
    held = []
    for name in _encoders(pipe):
        module = getattr(pipe, name)
        vars(pipe)[name] = GivenBack(name, module)  # past the setter, which would write it into the configuration
        held.append(weakref.ref(module))
        del module
    pipe.maybe_free_model_hooks()  # of components in turns: each knows the one before it
    gc.collect()
    for each in held:
        if (left := each()) is not None and not offloaded(left):
            left.to(HOST)


def _key(value: Any) -> Any:
    """What tells a value from others: two of one key are the same to an encoder."""
    if isinstance(value, Tensor):
        return _digest(value.detach().to(HOST).contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), value)
    if isinstance(value, Mapping):
        return tuple((name, _key(each)) for name, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if callable(getattr(value, "tobytes", None)):  # a picture, an array
        return _digest(value.tobytes(), value)
    return repr(value)


def _digest(data: bytes, of: Any) -> Any:
    shape = tuple(of.shape) if hasattr(of, "shape") else of.size
    return shape, str(getattr(of, "dtype", type(of).__name__)), hashlib.sha256(data).hexdigest()


def _told(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in arguments.items() if "prompt" in name and _text(value))


def _text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value))
