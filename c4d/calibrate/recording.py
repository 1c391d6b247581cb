"""What an uncached sampling shows to a calibration: changes from step to step, the hidden state where asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from c4d.calibrate.errors import CalibrationError
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.rules import BlocksRule, CacheMethod
from c4d.core.integration.hooks import Hooks, Layer
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.session import Session
from c4d.core.runtime.steps import RunError
from c4d.core.types import Action, Policy, RelativeL1, Signal, Step
from c4d.models import spec_for

Row = dict[str, Any]
Opened = Callable[[CacheMethod], Session]


@dataclass(frozen=True)
class Watch(Policy[None]):
    """Computes every step, and has ``measured`` measured; ``noise``: reads the noise levels, too."""

    measured: frozenset[Signal]
    noise: bool

    @property
    def signals(self) -> frozenset[Signal]:
        return self.measured

    @property
    def by_noise(self) -> bool:
        return self.noise

    def init(self) -> None:
        return None

    def decide(self, state: None, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, None]:
        return Action.COMPUTE, None


@dataclass
class Run:
    """One sampling. ``rows``, one a forward, in their order:

    - ``branch``, ``expert``, ``index`` and ``total`` (of the steps), ``level`` (of the noise, None: not asked for);
    - ``begins``: it is the first of its branch and expert, and has nothing to be compared with;
    - ``changes``: of each signal, ``residual``: of what the blocks add to the hidden state, ``output``: of what the
      transformer returns: the relative L1 change since the step before;
    - ``growth``: the residual's length over that of the step before, mean over the tokens;
    - ``rate``: the absolute L1 change of the output over that of the latents (None: ``INPUT`` was not measured).

    A number that is not finite is None. ``hidden``: branch -> the hidden state after the blocks at every step, fp32 on
    the host; empty unless it was asked for.
    """

    rows: list[Row] = field(default_factory=list)
    hidden: dict[str, list[Tensor]] = field(default_factory=dict)


class Recorder:
    """Watches the forwards of a session."""

    def __init__(self, session: Session, run: Run, features: bool) -> None:
        self._session, self._run, self._features = session, run, features
        self._before: dict[tuple[str, int], dict[str, Tensor]] = {}
        self._now: dict[str, Tensor] = {}

    def at_exit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hidden state enters the module after the blocks."""
        current = self._session.current
        if current is None:
            return
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        self._now["residual"] = x - current.base["hidden_states"]
        if self._features:
            if current.step.expert:
                raise CalibrationError(
                    "this model has two experts, and the hidden state is recorded of one transformer"
                )
            self._run.hidden.setdefault(current.step.branch, []).append(x.float().cpu())

    def at_end(self, args: tuple[Any, ...], output: Any) -> None:
        """The transformer has returned; the session has not yet left the forward."""
        current = self._session.current
        if current is None:
            return
        now, self._now = {**self._now, "output": pytree.tree_leaves(output)[0].detach().clone()}, {}
        step, change = current.step, current.tools.backend.change
        before = self._before.get((step.branch, step.expert))
        self._before[step.branch, step.expert] = now
        row: Row = {"branch": step.branch, "expert": step.expert, "index": step.index, "total": step.total}
        row |= {"level": step.levels[step.index] if step.levels else None, "begins": before is None}
        changes = {signal.value: finite(seen.ratio) for signal, seen in current.seen.items()}
        row |= {"changes": changes, "residual": None, "output": None, "growth": None, "rate": None}
        if before is not None:
            parts = [change(now[name], before[name]) for name in ("residual", "output")]
            lengths = [x["residual"].float().norm(dim=-1) for x in (now, before)]
            growth = (lengths[0] / lengths[1]).mean()
            measured = torch.cat([*(part.float() for part in parts), growth[None]]).tolist()
            residual, moved = RelativeL1(*measured[:2]), RelativeL1(*measured[2:4])
            row |= {"residual": finite(residual.ratio), "output": finite(moved.ratio), "growth": finite(measured[4])}
            if (given := current.seen.get(Signal.INPUT)) is not None and given.delta > 0.0:
                row["rate"] = finite(moved.delta / given.delta)
        self._run.rows.append(row)


def finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


@contextmanager
def recording(model: Any, opened: Opened, signals: frozenset[Signal], *, noise: bool, features: bool) -> Iterator[Run]:
    """Records the forwards of ``model`` inside the block; ``opened(method)`` gives a session (:func:`c4d.cached`).

    Raises :class:`CalibrationError` for a sampler whose noise levels are asked for and not known, and for hidden states
    of two experts.
    """
    run, hooks = Run(), Hooks(Layer.CACHE)
    first = int(Signal.FIRST_BLOCKS in signals)
    method = CacheMethod("calibration", (BlocksRule(Watch(signals, noise), Reuse(), first_blocks=first),))
    try:
        with opened(method) as session, torch.no_grad():
            recorder = Recorder(session, run, features)
            for transformer in transformers_of(model).values():
                end = spec_for(transformer).exit
                assert end is not None  # else the rule at its blocks was refused
                hooks.before(transformer.get_submodule(end), recorder.at_exit)
                hooks.after(transformer, recorder.at_end, first=True)
            try:
                yield run
            finally:
                hooks.remove()
    except RunError as error:
        raise CalibrationError(str(error)) from error
