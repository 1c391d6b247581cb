"""The calls of classifier-free guidance as pairs: whose output the call without condition can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from c4d.core.runtime.outputs import Structure, rows_of, storages
from c4d.core.runtime.signals import SignalReader
from c4d.core.runtime.steps import RunError
from c4d.core.types import OUTPUT, Step

# The call without condition -> the conditional one, as pipelines and guiders of diffusers name them.
PAIRS: Mapping[str, str] = MappingProxyType({"uncond": "cond", "pred_uncond": "pred_cond"})
BATCHED = "cond_uncond"  # both in one batch, as they name that


@dataclass(frozen=True)
class Answer:
    """What the conditional call returned in a step; its tensors are copies, which a pipeline cannot change."""

    step: int
    leaves: list[Tensor]
    structure: Structure

    @classmethod
    def of(cls, step: int, output: Any) -> Answer:
        leaves, structure = Structure.of(output, OUTPUT)
        return cls(step, [x.detach().clone() for x in leaves], structure)


def doubled(latents: Any) -> bool:
    """Whether the second half of the rows of ``latents`` is the first once more; a host read."""
    size = rows_of(latents)
    if size % 2 or not isinstance(latents, Tensor | list):
        return False
    pairs = list(zip(latents[: size // 2], latents[size // 2 :], strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return False
    return bool(torch.stack([a.eq(b).all() for a, b in pairs]).all())


@dataclass
class Answers:
    """Those of one run that are still to be used, by branch and expert.

    ``halves``: (branch, expert, rows) -> the step of its first call, and whether each latent was there twice.
    """

    found: dict[tuple[str, int], Answer] = field(default_factory=dict)
    halves: dict[tuple[str, int, int], tuple[int, bool]] = field(default_factory=dict)
    used: dict[tuple[str, int], int] = field(default_factory=dict)  # when the last one was

    def both(self, step: Step, latents: Any, conditional: str | None, method: str, meter: SignalReader) -> bool:
        """Whether a call has both branches in one batch, of which the ``conditional`` half is the first or the last.

        Looked at in the first two steps of a run. Raises RunError where nobody says which half it is, and for samples
        that began with the same noise.
        """
        name, place = step.branch.partition("#")[0], (step.branch, step.expert, rows_of(latents))
        if name != BATCHED and not name.isdigit():
            return False
        first, both = self.halves.get(place, (step.index, False))
        if step.index == first or (both and step.index == first + 1):
            before, both = both, doubled(latents)
            meter.host_reads += 1
            if before and not both and step.index > first:
                raise RunError(
                    f"{method}: the halves of the batch began alike and differ in step {step.index}, so they are "
                    "samples that began with the same noise, and no branches of guidance: leave that method out"
                )
            self.halves[place] = first, both
        if both and conditional is None:
            raise RunError(
                f"{method} spares the half of a batch that is without condition, and the spec of this model does not "
                "say which one it is: give a spec with conditional='last' (the pipeline puts the unconditional half "
                "first) or 'first', make two named calls, or leave that method out"
            )
        return both

    def keep(self, step: Step, output: Any) -> None:
        """Of a conditional call; not in the last step of a run that goes without the other call by now."""
        if step.branch.partition("#")[0] not in PAIRS.values():
            return
        key, last = (step.branch, step.expert), step.index == step.total - 1
        self.found.pop(key, None)
        if not last or step.index - self.used.get(key, -1) <= 1:
            self.found[key] = Answer.of(step.index, output)

    def take(self, step: Step, method: str) -> Answer | None:
        """For a call without condition the conditional one's answer in this step; None for any other call.

        Raises RunError if there is none, or if the calls cannot be told apart.
        """
        name, sharp, ordinal = step.branch.partition("#")
        if name.isdigit():
            said = "this one has no name, and is no batch of both with each latent twice (or has one branch alone)"
        elif name not in PAIRS:
            return None
        else:
            partner = f"{PAIRS[name]}{sharp}{ordinal}"
            found = self.found.pop((partner, step.expert), None)
            if found is not None and found.step == step.index:
                self.used[partner, step.expert] = step.index
                return found
            said = f"in step {step.index} {step.branch!r} comes without or before {partner!r}"
        raise RunError(
            f"{method} makes the output of the call 'uncond' of that of 'cond', which has to come before it in each "
            f'step; {said}. Name the calls of a loop of your own, with transformer.cache_context("cond"), or leave '
            "that method out"
        )

    def storages(self) -> dict[int, int]:
        return storages(x for answer in self.found.values() for x in answer.leaves)
