"""Several samplings that advance together: each is held at every step of the scheduler, and one computes at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from c4d.calibrate.errors import CalibrationError
from c4d.core.integration.attach import is_compiled, other_cache, session_of
from c4d.core.integration.hooks import ForwardPatch, Unsaved


class Arrival(NamedTuple):
    """A sampling at a step of the scheduler: what it would step with. ``output`` is None where nothing was computed."""

    output: Tensor | None
    timestep: Any
    sample: Tensor
    given: Mapping[str, Any]  # the other arguments of ``step``


class Call(NamedTuple):
    """A computed forward of a step: which transformer made it, of which latents, and what it returned."""

    expert: int
    latents: Tensor | None
    output: Tensor


class _Stop(BaseException):
    """Ends a sampling that is not needed any further. No ``except Exception`` of a pipeline catches it."""


@dataclass
class Samplings:
    """``count`` samplings of one model: ``generate(i)`` makes the i-th with ``scheduler``, the same each time.

    ``latents_of(args, kwargs)`` of each of ``transformers`` gives the latents that a forward is called with. ``apart``:
    each branch of guidance runs on ranks of its own, and none sees all outputs of a step.
    """

    transformers: Sequence[nn.Module]
    scheduler: Any
    generate: Callable[[int], Any]
    count: int
    latents_of: Sequence[Callable[[Sequence[Any], Mapping[str, Any]], Tensor | None]]
    apart: bool = False
    shapes: dict[int, Any] = field(default_factory=dict)  # of what each transformer returns, once it has

    def __post_init__(self) -> None:
        for module in self.transformers:
            name = type(module).__name__
            if session_of(module) is not None or other_cache(module):
                raise CalibrationError(f"{name} is cached, and a profile is made of the model alone: end its cache")
            if is_compiled(module):
                raise CalibrationError(
                    f"{name} is compiled as a whole: compile its blocks instead, "
                    "transformer.compile_repeated_blocks(fullgraph=True)"
                )
        if not callable(getattr(self.scheduler, "step", None)):
            raise CalibrationError(f"{type(self.scheduler).__name__} has no step: give the scheduler of the loop")


class Lockstep(Unsaved):
    """One pass of all samplings, in a ``with`` block; those not finished at its end are stopped.

    Where ``skipped`` holds a step's index no transformer runs; it returns zeros, for :meth:`answer` says what the
    scheduler steps with. The scheduler's state is exchanged with the sampling, so that all can share one object.
    """

    def __init__(self, samplings: Samplings, skipped: Container[int] = frozenset()) -> None:
        self.samplings, self.skipped = samplings, skipped
        self.current: _Run | None = None  # whose turn it is; read by the patched forwards
        self._runs = [_Run(self, i) for i in range(samplings.count)]
        self._patches: list[ForwardPatch] = []
        self._step: Any = None
        self.steps = -1

    def __enter__(self) -> Lockstep:
        scheduler = self.samplings.scheduler
        self._resting = _copied(vars(scheduler))
        self._step = scheduler.__dict__.get("step")
        scheduler.__dict__["step"] = _Gate(self)
        for expert, module in enumerate(self.samplings.transformers):
            self._patches.append(ForwardPatch(self, module, partial(self._forward, expert)))
        return self

    def __exit__(self, *exc: object) -> None:
        for run in self._runs:
            run.stop()
        for patch in self._patches:
            patch.remove()
        scheduler = self.samplings.scheduler
        _restore(scheduler, self._resting)
        scheduler.__dict__.pop("step", None)
        if self._step is not None:
            scheduler.__dict__["step"] = self._step

    def arrive(self) -> list[Arrival] | None:
        """Every sampling at its next step; None once all have ended.

        Raises what a sampling raises, and :class:`CalibrationError` if they do not have the same number of steps.
        """
        self.steps += 1
        found = [run.advance() for run in self._runs]
        there = [arrival for arrival in found if arrival is not None]
        if there and len(there) < len(found):
            raise CalibrationError(
                f"of {len(found)} samplings {len(there)} make step {self.steps} and the others have ended: all need "
                "the same number of steps"
            )
        return there or None

    def answer(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Steps every sampling with its output; returns the next samples."""
        return [run.step(output) for run, output in zip(self._runs, outputs, strict=True)]

    def twin(self, index: int) -> Any:
        """A copy of the scheduler as the ``index``-th sampling has it now, free to be stepped."""
        made = object.__new__(type(self.samplings.scheduler))
        made.__dict__.update(_copied(self._runs[index].state))
        made.__dict__.pop("step", None)
        return made

    @property
    def calls(self) -> list[list[Call]]:
        """Of each sampling, the forwards of the step that it stands at."""
        return [run.calls for run in self._runs]

    def skips(self) -> bool:
        return self.steps in self.skipped

    def _forward(self, expert: int, run: _Run, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Around the forward of a transformer."""
        if self.skips():
            leaves, structure = self.samplings.shapes[expert]
            return pytree.tree_unflatten([x.new_zeros(shape) for x, shape in leaves], structure)
        out = original(*args, **kwargs)
        leaves, structure = pytree.tree_flatten(out)
        if not leaves:  # a first call that ranks of another branch of guidance make
            return out
        self.samplings.shapes[expert] = [(x.new_empty(0), x.shape) for x in leaves], structure
        run.calls.append(Call(expert, self.samplings.latents_of[expert](args, kwargs), leaves[0].detach()))
        return out


class _Gate:
    """``scheduler.step`` for the time of a pass: hands the sampling over, then steps with what it is given."""

    def __init__(self, owner: Lockstep) -> None:
        self._owner = owner

    def __call__(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        run = self._owner.current
        if run is None or threading.current_thread() is not run.thread:
            raise CalibrationError("the scheduler was stepped outside of the samplings that are calibrated")
        return run.at_step(model_output, timestep, sample, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Gate:
        raise CalibrationError(
            "this sampling copies its scheduler; give the copy that it steps with: c4d.tune(…, scheduler=…)"
        )


class _Run:
    """One sampling, in a thread of its own that runs only while the pass waits for it."""

    def __init__(self, owner: Lockstep, index: int) -> None:
        self._owner, self._index = owner, index
        self._go, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self.state = owner.samplings.scheduler.__dict__.copy()
        self.thread: threading.Thread | None = None
        self.calls: list[Call] = []
        self._arrival: Arrival | None = None
        self._answer: Tensor | None = None
        self._next: Tensor | None = None
        self._stopping = False
        self._error: BaseException | None = None

    # -- called by the pass

    def advance(self) -> Arrival | None:
        """Runs to the next step; None at the end."""
        self._arrival, self.calls = None, []
        if self.thread is None:
            self.thread = threading.Thread(target=self._main, args=(_device(),), daemon=True)
            self._turn(self.thread.start)
        elif self.thread.is_alive():
            self._turn(self._go.release)
        if self._error is not None:
            raise self._error
        return self._arrival

    def step(self, output: Tensor) -> Tensor:
        self._answer = output
        self._turn(self._go.release)
        if self._error is not None:
            raise self._error
        assert self._next is not None
        return self._next

    def stop(self) -> None:
        self._stopping = True
        if self.thread is not None and self.thread.is_alive():
            self._turn(self._go.release)
            self.thread.join()

    def _turn(self, begin: Callable[[], Any]) -> None:
        """Lets the sampling run until it is held again, or has ended; the scheduler's state is its own meanwhile."""
        scheduler = self._owner.samplings.scheduler
        gate = scheduler.__dict__.get("step")
        _restore(scheduler, self.state)
        scheduler.__dict__["step"] = gate
        self._owner.current = self
        try:
            begin()
            self._held.acquire()
        except BaseException:  # Ctrl-C while it computes: it ends at its next step
            self._stopping = True
            raise
        finally:
            self._owner.current = None
            self.state = _copied(vars(scheduler))

    # -- in the thread

    def _main(self, device: int | None) -> None:
        try:
            if device is not None:
                torch.accelerator.set_device_index(device)
            with torch.no_grad():
                self._owner.samplings.generate(self._index)
        except _Stop:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._held.release()

    def at_step(self, output: Tensor, timestep: Any, sample: Tensor, args: Sequence[Any], kwargs: Any) -> Any:
        scheduler = self._owner.samplings.scheduler
        names = ("generator", "variance_noise")  # nobody gives more without their names
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        held = None if self._owner.skips() else output.detach()
        self._arrival = Arrival(held, timestep, sample.detach(), given)
        self._hold()
        assert self._answer is not None
        answer, self._answer = self._answer, None
        made = type(scheduler).step(
            scheduler, answer.to(output.device, output.dtype), timestep, sample, *args, **kwargs
        )
        self._next = (made[0] if isinstance(made, tuple) else made.prev_sample).detach()
        self._hold()
        return made

    def _hold(self) -> None:
        self._held.release()
        self._go.acquire()
        if self._stopping:
            raise _Stop


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a scheduler knows of its sampling; its lists copied, since it changes them in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def _restore(scheduler: Any, state: Mapping[str, Any]) -> None:
    scheduler.__dict__.clear()
    scheduler.__dict__.update(state)


def _device() -> int | None:
    """The accelerator that this thread works on: a new thread would take the first one."""
    with suppress(RuntimeError, AttributeError):
        if torch.accelerator.is_available():
            return torch.accelerator.current_device_index()
    return None
