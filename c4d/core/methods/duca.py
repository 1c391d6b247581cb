"""DuCa, arXiv 2412.18911: of the steps between computed ones, every second reuses the whole stack of blocks.

    x = s - A = 0:  the step is computed
    x odd:          ToCa's step ("conservative"): some tokens of MLPs and cross-attention are computed
    x even:         h_out(s) = h_out(last time) ("aggressive"): no block runs

h_out is the hidden state after the blocks, as the last step left it that ran them. s is the step, A the last computed
one, of which there is one every ``interval`` steps. The paper picks tokens by chance, which does as well as by weight;
its first version did by the norm of values (``score=value``; all scores: see ToCa).

Published: DiT-XL/2 at 50 DDIM steps interval 3, r 0.05. Of FLUX's code, which saves the input of the last block in
place of its output, nothing is taken over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import COMPUTE, Interval, Partly
from c4d.core.caching.rules import BlocksRule, Rule, TokenRule
from c4d.core.caching.selectors import Scored
from c4d.core.types import Action, RelativeL1, Signal, Step, Wrapper


@dataclass(frozen=True)
class Ran(Wrapper[Any]):
    """For all blocks: they run on every step on which ``inner`` computes anything of them."""

    inner: Partly

    def init(self) -> Any:
        return self.inner.init()

    def decide(self, state: Any, step: Step, seen: Mapping[Signal, RelativeL1]) -> tuple[Action, Any]:
        action, state = self.inner.decide(state, step, seen)
        return (COMPUTE if action is Action.PARTIAL else action), state


@method("duca", example="duca:interval=4,ratio=0.3")
def duca(
    interval: int,
    ratio: float = 0.1,
    score: str = "random",
    stale: float = 0.25,
    over_steps: float = 0.0,
    over_layers: float = 0.0,
    warmup: int = 1,
    last: int = 0,
) -> tuple[Rule, ...]:
    """DuCa: steps that compute some tokens (ToCa, by chance) take turns with steps that reuse the stack's output.

    arXiv 2412.18911. Published for DiT with interval 3 and ratio 0.05 before ToCa's factors. ``score`` and the
    other options are ToCa's.
    """
    policy = Partly(Interval(interval, warmup, last), every=2)
    select = Scored(ratio, interval, score, stale, over_steps=over_steps, over_layers=over_layers)
    return BlocksRule(Ran(policy), Reuse(), residual=False), TokenRule(policy, Reuse(), select=select)
