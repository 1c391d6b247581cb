"""``c4d.attention_maps``: where attention goes while a pipeline generates, by frames, text tokens and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from c4d.api import cached
from c4d.backends import Backend, select
from c4d.core.attention import AttentionPrimitives, Processor, watching
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import CacheMethod, OutputRule, TokenRule
from c4d.core.integration.attach import session_of
from c4d.core.integration.hooks import Entered, Hooks, Layer, Unsaved, named
from c4d.core.integration.transformers import transformers_of
from c4d.core.runtime.guidance import BATCHED, doubled
from c4d.core.runtime.outputs import rows_of
from c4d.core.runtime.progress_bar import Begun
from c4d.core.runtime.session import Session
from c4d.core.spec import ModelSpec
from c4d.core.types import Step
from c4d.inspection.files import draw, write
from c4d.inspection.layers import Layers, Place, Shown, Transformers, picked, places
from c4d.inspection.mass import BYTES
from c4d.inspection.tokens import Grouping, Lying, Seen, known, measured
from c4d.models import spec_for

Steps = Sequence[int] | Callable[[Step], bool] | None
PARTS = ("groups", "text", "from_text", "given")
UNNAMED = ("0", BATCHED)  # the first call of a step without a name, and one with both branches of guidance
KEEPS, HEADS = ("mean", "steps"), ("each", "mean")


@dataclass(frozen=True)
class AttentionMap:
    """Of one attention, at one step or the mean over several: the part of a query's attention that goes to which keys.

    Arrays are fp32 on the host; H heads, or one, their mean. Each is the mean over the queries of a group (a frame),
    and None where this attention has no such tokens.

    - ``groups`` [H, G, G']: of the tokens of a group to those of another. G' is more than G where an attention sees the
      keys of earlier calls, frame by frame as they are kept.
    - ``text`` [H, G, T]: of the tokens of a group to each token of text that attention sees.
    - ``from_text`` [H, T, G]: of each token of text to a group, where text attends, too.
    - ``given`` [H, G, I]: of a group to each token of a given image, where that is an attention of its own.

    Rows of ``groups`` and ``text`` together come to 1, if every token is in a group; a group without tokens has NaN.
    """

    layer: str
    branch: str
    run: int
    steps: tuple[int, ...]
    groups: Tensor | None = None
    text: Tensor | None = None
    from_text: Tensor | None = None
    given: Tensor | None = None

    def arrays(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: x for name in PARTS if (x := getattr(self, name)) is not None}

    def joined(self, other: AttentionMap) -> AttentionMap:
        """The mean over its steps and the one of ``other``. Raises ValueError where they are of other shapes."""
        n, theirs = len(self.steps), other.arrays()
        shapes = [{name: list(x.shape) for name, x in made.arrays().items()} for made in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{self.layer} has {shapes[1]} at step {other.steps[0]} and had {shapes[0]} before, of which there is "
                "no mean: give a function, keep=, which gets each map"
            )
        parts: dict[str, Any] = {name: x + (theirs[name] - x) / (n + 1) for name, x in self.arrays().items()}
        return replace(self, steps=self.steps + other.steps, **parts)


def attention_maps(
    model: Any,
    layers: Layers = None,
    steps: Steps = None,
    *,
    branch: str = "cond",
    groups: Grouping = "frames",
    heads: str = "each",
    keep: str | Callable[[AttentionMap], None] = "mean",
    sample: int = 0,
    chunk_bytes: int = BYTES,
    scheduler: Any = None,
    spec: ModelSpec | None = None,
    backend: Backend | str = "auto",
) -> AttentionMaps:
    """Shows where the attention of ``model`` goes inside a ``with`` block, exactly; what is generated does not change.

    Enter it last, inside ``c4d.attention`` and ``c4d.cached``. Other layers and steps compute nothing more.

    Args:
        model: a diffusers pipeline, or a bare transformer, as :func:`c4d.cached` takes it.
        layers: numbers of blocks (negative: from the last), names such as ``"blocks.0.attn1"``, patterns such as
            ``"*.attn2"``, one or several; None: every attention that the model's spec describes.
        steps: numbers of steps (negative: from the last), or what says of a :class:`c4d.Step` whether to look; None:
            all.
        branch: of guidance: ``"cond"`` or ``"uncond"``, or another name that the pipeline gives its calls. Of calls
            without names the first one of a step is ``"cond"``, or half of it where both are in one batch.
        groups: of the image's or clip's tokens: ``"frames"``, ``"rows"`` or ``"columns"``; a label for each token, from
            0, negative for none; or ``groups(grid)``, which gives these for the sides of the boxes in which they lie.
        heads: ``"each"``, or ``"mean"`` over all.
        keep: ``"mean"`` over the steps of the last run; ``"steps"``, each of them, too; or what is called with every
            :class:`AttentionMap` when its forward has ended, and then nothing is kept.
        sample: which sample of a batch.
        chunk_bytes: of the largest tensor that is made on the way (besides the map, and a label for each token); a
            handful of such tensors is there at once.
        scheduler, spec, backend: as in :func:`c4d.cached`, which it enters with nothing cached if it is not at work.

    Raises:
        TypeError: as :func:`c4d.cached`.
        ValueError: layers or groups that there are not; an attention whose processor is not the stock one.
        RuntimeError: compiled blocks; tokens that are spread over ranks.
    """
    known(groups)
    for value, allowed, what in ((heads, HEADS, "heads"), (KEEPS[0] if callable(keep) else keep, KEEPS, "keep")):
        if value not in allowed:
            raise ValueError(f"unknown {what} {value!r}: known are {', '.join(allowed)}")
    chosen = select(backend) if isinstance(backend, str) else backend
    nothing = CacheMethod("c4d.attention_maps", (OutputRule(Interval(1), Reuse(), residual=False),))
    opened = partial(cached, model, nothing, scheduler=scheduler, spec=spec, backend=chosen)
    wanted = Wanted(_when(steps), branch, groups, heads == "mean", sample, chunk_bytes)
    if not transformers_of(model):
        raise TypeError(f"{type(model).__name__} has no transformer: give a diffusers pipeline, or a bare transformer")
    described = {name: (module, spec or spec_for(module)) for name, module in transformers_of(model).items()}
    return AttentionMaps(described, layers, wanted, keep, opened, chosen)


def _when(steps: Steps) -> Callable[[Step], bool]:
    """Whether a step is meant. Raises TypeError for what are no numbers of steps."""
    if steps is None or callable(steps):
        return steps or (lambda step: True)
    numbers = [steps] if isinstance(steps, int) else list(steps)
    if strange := [each for each in numbers if isinstance(each, bool) or not isinstance(each, int)]:
        raise TypeError(f"a step is {strange[0]!r}; give whole numbers from 0, negative from the last, or a function")
    return lambda step: step.index in numbers or step.index - step.total in numbers


@dataclass(frozen=True)
class Wanted:
    """What is looked at, and how."""

    when: Callable[[Step], bool]
    branch: str
    grouping: Grouping
    mean: bool
    sample: int
    chunk_bytes: int

    def row(self, name: str, rows: int, half: int | None) -> int | None:
        """Which of the ``rows`` of a call of this name is the sample of the branch; None: it is another branch.

        ``half``: which half of its rows is the conditional one, if it has both. Raises ValueError for no such sample.
        """
        offset = 0
        if half is not None and self.branch in ("cond", "uncond"):
            rows //= 2
            offset = rows * (half if self.branch == "cond" else 1 - half)
        elif not (name in (self.branch, f"pred_{self.branch}") or (name in UNNAMED and self.branch == "cond")):
            return None
        if not 0 <= self.sample < rows:
            raise ValueError(f"sample={self.sample} of a batch of {rows}: give 0 to {rows - 1}")
        return offset + self.sample


class AttentionMaps(Entered, Unsaved):
    """The maps of the last run inside a ``with`` block; made by :func:`c4d.attention_maps`. They stay readable."""

    def __init__(
        self,
        transformers: Transformers,
        layers: Layers,
        wanted: Wanted,
        keep: str | Callable[[AttentionMap], None],
        opened: Callable[[], Session],
        primitives: AttentionPrimitives,
    ) -> None:
        self._transformers, self._wanted, self._keep = list(transformers.values()), wanted, keep
        self._places, self._opened, self._primitives = picked(layers, places(transformers)), opened, primitives
        self._entered: ExitStack | None = None
        self._hooks = Hooks(Layer.CACHE)
        self._session: Session
        self._looking: ExitStack | None = None  # at the attention under way
        self._step: Step | None = None  # of the forward under way, if it is looked at
        self._half: int | None = None  # which half of its rows is the conditional one, if it has both
        self._lying: tuple[Any, Lying] | None = None  # how the tokens lie of the forward that comes with it
        self._now: dict[str, dict[str, Tensor]] = {}  # by layer, of the forward under way
        self._why: dict[str, str] = {}  # by layer, why that has none
        self._forget(0)
        self.unused = "c4d.attention_maps"

    def __enter__(self) -> AttentionMaps:
        if self._entered is not None:
            raise RuntimeError("these maps are already being made: leave their with block first")
        self.unused = None
        for place in self._places:
            place.check()
        self._forget(0)
        with ExitStack() as stack:
            at_work = session_of(self._transformers[0][0])
            self._session = stack.enter_context(self._opened()) if at_work is None else at_work
            stack.callback(self._hooks.remove)
            stack.callback(self._look_away)
            for place in self._places:
                self._show(place, stack)
            for transformer, spec in self._transformers:
                self._hooks.before(transformer, self.enter, transformer, spec)
                self._hooks.after(transformer, self.leave, always=True)
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._entered is not None:
            entered, self._entered = self._entered, None
            entered.__exit__(*exc)

    def begin(self, timesteps: Any) -> Begun:
        """:meth:`c4d.core.runtime.session.Session.begin`, for a denoising loop of one's own without a cache."""
        if self._entered is None:
            raise RuntimeError("these maps are not being made: call begin inside their with block")
        return self._session.begin(timesteps)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the attentions that are looked at, in the order of the model."""
        return tuple(place.name for place in self._places)

    @property
    def missing(self) -> dict[tuple[str, int], str]:
        """(layer, step) -> why a chosen step of the last run has no map there: it was forecast, say."""
        return dict(self._missing)

    def __getitem__(self, key: str | tuple[str, int]) -> AttentionMap:
        """Of a layer the mean over the steps of the last run; of ``(layer, step)`` that step's, with ``keep="steps"``.

        Raises KeyError where there is none, and says why.
        """
        found = self._means.get(key) if isinstance(key, str) else self._each.get(key)
        if found is None:
            raise KeyError(self._no(key))
        return found

    def maps(self) -> list[AttentionMap]:
        """All that are kept: the mean of each layer, and each step's, if these are kept."""
        return [*self._means.values(), *self._each.values()]

    def lines(self) -> list[str]:
        """Plain sentences for a report: of which steps there are maps, and why there are none of others."""
        said = []
        for name in self.layers:
            why: dict[str, list[int]] = {}
            for (layer, step), reason in self._missing.items():
                if layer == name:
                    why.setdefault(reason, []).append(step)
            made = f"steps {_listed(self._made[name])}" if name in self._made else "no step"
            without = "".join(f"; not {_listed(steps)}: {reason}" for reason, steps in why.items())
            said.append(f"{name}: {made}{without}")
        return said

    def save(self, path: str | Path) -> None:
        """Writes all that is kept as an ``.npz``, whole or not at all: ``LAYER/groups`` and the like, ``LAYER/steps``;
        of a single step ``LAYER@STEP/groups``. Raises ValueError where nothing is kept."""
        self._check_kept()
        write(Path(path), {**self._means, **{f"{layer}@{step}": each for (layer, step), each in self._each.items()}})

    def plot(self, path: str | Path, layer: str | None = None) -> None:
        """Draws the mean over the heads of every layer, or every head of one ``layer``, as a picture.

        Raises ValueError where nothing is kept, ImportError without matplotlib (the extra ``eval``).
        """
        self._check_kept()
        draw(Path(path), list(self._means.values()) if layer is None else [self[layer]], each_head=layer is not None)

    # -- called by its hooks

    def enter(self, transformer: nn.Module, spec: ModelSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a forward, which the session has placed by now."""
        self._look_away()
        current, wanted = self._session.current, self._wanted
        self._step, self._half, self._lying, self._now, self._why = None, None, None, {}, {}
        if current is None or not wanted.when(current.step):
            return
        name, latents = current.step.branch, named(transformer, args, kwargs).get(spec.denoised[0])
        if name in UNNAMED and spec.conditional is not None and doubled(latents):
            self._half = int(spec.conditional == "last")
        if wanted.row(name, rows_of(latents), self._half) is not None:
            self._step = current.step

    def look(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before an attention."""
        self._look_away()
        current = self._session.current
        if self._step is None or current is None:
            return
        processor: Any = place.module.processor
        if not isinstance(processor, Processor):
            self._why[place.name] = f"it had another processor then, {type(processor).__name__}"
            return
        rows = rows_of(current.call.inputs()[place.spec.denoised[0]])
        half = None if current.step.branch not in UNNAMED else self._half
        row = self._wanted.row(current.step.branch, rows, half)
        if row is not None:
            self._looking, self._now[place.name] = ExitStack(), {}
            self._looking.enter_context(watching(processor.work, partial(self._see, place, current, rows, row)))

    def done(self, args: Any, output: Any) -> None:
        """After an attention."""
        self._look_away()

    def leave(self, args: Any, output: Any) -> None:
        """After a forward, also after one that raised (``output`` is None then)."""
        self._look_away()
        step, self._step, found, self._now, self._lying = self._step, None, self._now, {}, None
        if step is None or output is None:
            return
        if self._session.runs != self._run:
            self._forget(self._session.runs)
        for place in self._places:
            if place.transformer is not self._transformers[step.expert][0]:
                continue
            if parts := found.get(place.name):
                self._take(place.name, step, {name: x.cpu() for name, x in parts.items()})
            else:
                forecast = f"{self._session.method.name} did not compute it"
                self._missing[place.name, step.index] = self._why.get(place.name, forecast)

    # -- inside

    def _forget(self, run: int) -> None:
        """Begins anew, with the run of this number, from 1."""
        self._run = run
        self._means: dict[str, AttentionMap] = {}
        self._each: dict[tuple[str, int], AttentionMap] = {}
        self._made: dict[str, list[int]] = {}  # by layer, the steps that have a map
        self._missing: dict[tuple[str, int], str] = {}

    def _show(self, place: Place, stack: ExitStack) -> None:
        """Hangs itself on an attention, with a processor that shows what it computes with."""
        module: Any = place.module
        if not isinstance(module.processor, Processor):
            shown = Shown(module.processor, place.cls, self._primitives)
            module.processor = shown
            stack.callback(_give_back, module, shown)
        self._hooks.before(module, self.look, place)
        self._hooks.after(module, self.done, always=True)

    def _look_away(self) -> None:
        if self._looking is not None:
            looking, self._looking = self._looking, None
            looking.close()

    def _see(
        self, place: Place, current: Any, size: int, row: int, q: Tensor, k: Tensor, v: Tensor, mask: Any, first: bool
    ) -> None:
        """What an attention computes with, for the rows [B, S, H, D] that it has of a batch of ``size``."""
        if q.shape[2] != place.cls.heads_of(place.module)[0]:
            raise RuntimeError(f"{place.name} has {q.shape[2]} of its heads here, the others are on other ranks")
        computing = list(range(size)) if len(q) == size else list(getattr(current, "computing", ()))
        if len(q) != len(computing):
            raise RuntimeError(
                f"{place.name} of {place.spec.transformer} attends in {len(q)} rows, for a batch of {size}: its tokens "
                "are not those of a sample, choose other layers"
            )
        if row not in computing:
            self._why[place.name] = f"{self._session.method.name} did not compute sample {self._wanted.sample}"
            return
        at = computing.index(row)
        lying = self._lying_of(place, current)
        if len(q[0]) < len(lying.labels) and any(isinstance(rule, TokenRule) for rule in self._session.method.rules):
            self._why[place.name] = f"{self._session.method.name} computed some of its tokens"
            return
        seen = Seen(q[at].to(v.dtype), k[at].to(v.dtype), _mask_of(mask, at), first)
        parts = measured(place, seen, lying, self._wanted.chunk_bytes)
        there = self._now[place.name]
        if place.crosses and "text" in there:  # a second attention of the same queries: to a given image
            parts = {"given": parts["text"]}
        if again := parts.keys() & there.keys():
            raise RuntimeError(
                f"{place.name} attends several times in a call ({', '.join(again)}): choose other layers"
            )
        there.update({name: x.mean(0, keepdim=True) if self._wanted.mean else x for name, x in parts.items()})

    def _lying_of(self, place: Place, current: Any) -> Lying:
        if self._lying is None or self._lying[0] is not current:
            lying = Lying.of(self._wanted.grouping, place.spec, place.transformer, current.call.inputs())
            self._lying = current, lying
        return self._lying[1]

    def _take(self, layer: str, step: Step, parts: dict[str, Tensor]) -> None:
        made = AttentionMap(layer, self._wanted.branch, self._run - 1, (step.index,), **parts)
        self._made.setdefault(layer, []).append(step.index)
        if callable(self._keep):
            self._keep(made)
            return
        self._means[layer] = self._means[layer].joined(made) if layer in self._means else made
        if self._keep == "steps":
            self._each[layer, step.index] = made

    def _check_kept(self) -> None:
        if not self._means:
            raise ValueError(f"no maps are kept: {'; '.join(self.lines())}")

    def _no(self, key: str | tuple[str, int]) -> str:
        layer, step = (key, None) if isinstance(key, str) else key
        if layer not in self.layers:
            return f"no layer {layer!r} is looked at: those are {', '.join(self.layers)}"
        if callable(self._keep):
            return "nothing is kept: every map went to the function keep="
        if step is not None and (why := self._missing.get((layer, step))) is not None:
            return f"{layer} has no map of step {step}: {why}"
        if step is not None and self._keep != "steps" and layer in self._means:
            return "single steps are not kept: give keep='steps'"
        return f"there is no map of {key!r}: {next(line for line in self.lines() if line.startswith(f'{layer}:'))}"


def _listed(steps: Sequence[int]) -> str:
    """Numbers in words: runs of them by their ends."""
    runs: list[list[int]] = []
    for step in sorted(steps):
        if runs and runs[-1][-1] == step - 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _give_back(module: Any, shown: Shown) -> None:
    if module.__dict__.get("processor") is shown:
        module.processor = shown.before


def _mask_of(mask: Tensor | None, row: int) -> Tensor | None:
    """[1 or H, 1 or Sq, Sk] of a mask that is, or goes over to, [B, H, Sq, Sk]."""
    if mask is None:
        return None
    mask = mask[(None,) * (4 - mask.ndim)]
    return mask[row if mask.shape[0] > 1 else 0]
