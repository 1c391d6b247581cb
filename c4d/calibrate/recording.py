"""What an uncached sampling shows to a calibration: changes from step to step, the hidden state where asked for.

Where several ranks make the sampling (``c4d.sharded``), what is measured is of all tokens and of both branches of
guidance, and the same on each of them.
"""

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
from c4d.core.integration.hooks import Hooks, Layer, at_work
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.forward import Forward
from c4d.core.runtime.session import Session
from c4d.core.runtime.steps import RunError
from c4d.core.types import Action, Policy, RelativeL1, Signal, Step
from c4d.models import spec_for
from c4d.parallel.session import Parallel

Row = dict[str, Any]
Counted = tuple[Tensor, int]  # what this rank has of it, and how many numbers all ranks have
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
    the host; empty unless it was asked for. Of several ranks each has that of its own tokens, and of the branches that
    it made: ``whole`` is how many numbers one step's is on all of them, ``summed(x)`` adds up what they make of theirs.
    """

    rows: list[Row] = field(default_factory=list)
    hidden: dict[str, list[Tensor]] = field(default_factory=dict)
    whole: int = 0
    ranks: Parallel | None = None

    def summed(self, x: Tensor) -> Tensor:
        """``x`` of all ranks, added in their order; every one of them has to ask for it."""
        return x if self.ranks is None else torch.stack(self.ranks.each(x)).sum(0)

    def gather(self) -> None:
        """Puts the rows of branches that other ranks made between this one's; every rank has to ask for it."""
        if self.ranks is not None and self.ranks.mesh.degrees.cfg > 1:
            branches = self.ranks.each(self.rows)[:: self.ranks.mesh.degrees.sequence]
            self.rows = [row for step in zip(*branches, strict=True) for row in step]


class Recorder:
    """Watches the forwards of a session."""

    def __init__(self, session: Session, run: Run, features: bool) -> None:
        self._session, self._run, self._features = session, run, features
        self._before: dict[tuple[str, int], dict[str, Counted]] = {}
        self._now: dict[str, Counted] = {}

    def at_exit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The hidden state enters the module after the blocks."""
        current = self._session.current
        if current is None:
            return
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        ranks, transformer = current.call.ranks, current.call.transformer
        self._now["residual"] = ranks.unpadded(transformer, x - current.base["hidden_states"])
        if self._features:
            if current.step.expert:
                raise CalibrationError(
                    "this model has two experts, and the hidden state is recorded of one transformer"
                )
            own, self._run.whole = ranks.unpadded(transformer, x)
            self._run.hidden.setdefault(current.step.branch, []).append(own.float().cpu())

    def at_end(self, args: tuple[Any, ...], output: Any) -> None:
        """The transformer has returned; the session has not yet left the forward."""
        current = self._session.current
        if current is None:
            return
        ranks, returned = current.call.ranks, pytree.tree_leaves(output)[0].detach().clone()
        now, self._now = {**self._now, "output": ranks.unpadded(current.call.transformer, returned, False)}, {}
        step = current.step
        before = self._before.get((step.branch, step.expert))
        self._before[step.branch, step.expert] = now
        row: Row = {"branch": step.branch, "expert": step.expert, "index": step.index, "total": step.total}
        row |= {"level": step.levels[step.index] if step.levels else None, "begins": before is None}
        changes = {signal.value: finite(seen.ratio) for signal, seen in current.seen.items()}
        row |= {"changes": changes, "residual": None, "output": None, "growth": None, "rate": None}
        if before is not None:
            residual, moved, growth = self._measured(current, now, before)
            row |= {"residual": finite(residual.ratio), "output": finite(moved.ratio), "growth": finite(growth)}
            if (given := current.seen.get(Signal.INPUT)) is not None and given.delta > 0.0:
                row["rate"] = finite(moved.delta / given.delta)
        self._run.rows.append(row)

    def _measured(
        self, current: Forward, now: Mapping[str, Counted], before: Mapping[str, Counted]
    ) -> tuple[RelativeL1, RelativeL1, float]:
        """The changes of the residual and of the output, and the residual's growth: sums over the ranks that share a
        forward."""
        pairs = [(now[name], before[name][0]) for name in ("residual", "output")]
        parts = [current.tools.backend.change(x, past).float() for (x, _), past in pairs]
        lengths = [x["residual"][0].float().norm(dim=-1) for x in (now, before)]
        tokens, width = lengths[0].numel(), now["residual"][0].shape[-1]
        parts.append(torch.stack(((lengths[0] / lengths[1]).sum(), lengths[0].new_full((), tokens))))
        counts = [(x.numel(), whole) for (x, whole), _ in pairs]
        counts.append((tokens, counts[0][1] // width))
        residual, moved, growth = current.call.ranks.all_sum(torch.stack(parts), counts, failed=False)
        return RelativeL1(*residual), RelativeL1(*moved), growth[0] / growth[1]


def finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


@contextmanager
def recording(
    model: Any,
    opened: Opened,
    signals: frozenset[Signal] = frozenset(),
    *,
    noise: bool = False,
    features: bool = False,
) -> Iterator[Run]:
    """Records the forwards of ``model`` inside the block; ``opened(method)`` gives a session (:func:`c4d.cached`).

    Raises :class:`CalibrationError` for a sampler whose noise levels are asked for and not known, for hidden states of
    two experts, and on ranks that decide jointly.
    """
    transformers, run, hooks = list(transformers_of(model).values()), Run(), Hooks(Layer.CACHE)
    first = int(Signal.FIRST_BLOCKS in signals)
    method = CacheMethod("calibration", (BlocksRule(Watch(signals, noise), Reuse(), first_blocks=first),))
    try:
        with opened(method) as session, torch.no_grad():
            run.ranks = at_work(transformers[0], Parallel)
            if run.ranks is not None and run.ranks.jointly:
                raise CalibrationError("jointly mixes what both branches of guidance measure: leave it out")
            recorder = Recorder(session, run, features)
            for transformer in transformers:
                end = spec_for(transformer).exit
                assert end is not None  # else the rule at its blocks was refused
                hooks.before(transformer.get_submodule(end), recorder.at_exit)
                hooks.after(transformer, recorder.at_end, first=True)
            try:
                yield run
            finally:
                hooks.remove()
        run.gather()
    except RunError as error:
        raise CalibrationError(str(error)) from error
