"""The calls of classifier-free guidance as pairs: whose output the call without condition can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from c4d.core.runtime.outputs import Structure
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


@dataclass
class Answers:
    """Those of one run that are still to be used, by branch and expert."""

    found: dict[tuple[str, int], Answer] = field(default_factory=dict)
    used: dict[tuple[str, int], int] = field(default_factory=dict)  # when the last one was

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
        if name == BATCHED:
            said = f"this one, {name!r}, has both in one batch, of which nobody says which half is which"
        elif name.isdigit():
            said = "this one has no name (so it is where a pipeline puts both into one batch, or has one branch alone)"
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
        held = [x.untyped_storage() for answer in self.found.values() for x in answer.leaves]
        return {s.data_ptr(): s.nbytes() for s in held}
