"""Every method as a text that reuses something in eight steps, whatever it measures, and more compositions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from c4d.core.methods import METHODS
from c4d.core.text.grammar import parse
from c4d.core.types import Action, DraftPolicy

STEPS = 8
PROFILES = Path(__file__).parent / "core/profiles"
SIGMAS = [1.0 - i / STEPS for i in range(STEPS)]
REUSING = {
    **{name: method.example for name, method in METHODS.items()},
    "taylorseer": "taylorseer:interval=3,order=2,warmup=2",
    "taylorseer-lite": "taylorseer-lite:interval=3,order=2,warmup=2",
    "hicache": "hicache:interval=3,order=2",
    "foca": "foca:interval=3,warmup=2",
    "freqca": "freqca:interval=3",
    "dmd": "dmd:interval=2",
    "teacache": "teacache:threshold=1e9,coefficients=1/0,signal={signal},last=0",
    "magcache": "magcache:curve=wan2.1-t2v-1.3b,threshold=1e9,max_skips=2",
    "easycache": "easycache:threshold=1e9,warmup=2,last=0,max_skips=2",
    "first-block": "first-block:threshold=1e9,last=0",
    "first-block, more blocks": "first-block:threshold=1e9,last=0,first_blocks=2,last_blocks=1",
    "seacache": "seacache:threshold=1e9,last=0",
    "delta-dit": "delta-dit:interval=2,first=1,last=1",
    "dicache": "dicache:threshold=1e9,retention=0.2",
    "dicache, two blocks": "dicache:threshold=0.9,retention=0,depth=2,error=delta_minus",
    "dbcache": "dbcache:Fn=1,threshold=1e9,warmup=1,max_continuous_cached_steps=2",
    "dbcache, a mask": "dbcache:Fn=2,Bn=1,scm=11010010,scm_policy=static",
    "spectrum": "spectrum:warmup=2,weight=0.5",
    "speca": "speca:threshold=0.4,max_drafts=3,unchecked=0,warmup=2",
    "speca, strict": "speca:threshold=0.4,max_drafts=3,mode=strict,order=2",
    "schedule": "schedule:computed=0/1/2/5",
    "pab": "pab:attn=2,cross_attn=3",
    "pab, mlps": "pab:mlp=2,mlp_at=900/700/450,mlp_blocks=2",
    "lemica": "lemica:computed=0/1/2/5",
    "budcache": "budcache:computed=0/2/3/6",
    "meancache": "meancache:computed=0/1/4,orders=1/2/3",
    "dpcache": f"dpcache:path={PROFILES}/dpcache.json,budget=4",
    "l2p": f"l2p:path={PROFILES}/l2p.json",
    "toca": "toca:interval=3,ratio=0.3",
    "duca": "duca:interval=4,ratio=0.3",
    "clusca": "clusca:interval=3,clusters=3,share=0.1,warmup=2",
    "profile": f"profile:{PROFILES}/flow.json",
    "fastercache": "fastercache:weight=0.5,attn=3,high=801",
    "cfg-cache": "cfg-cache:interval=3,high=801",
    "cfg-skip": "cfg-skip:ratio=0.4",
    "guidance-interval": "guidance-interval:low=0.3,high=0.8",
}
BOTH = {"faster and guided": "fastercache:weight=0.5,attn=3,high=801+cfg-cache:interval=3,high=801"}
MOVED = {
    f"taylor over sigma at {at}": f"taylorseer:interval=3+taylor:order=2,over=sigma@{at}" for at in ("blocks", "mlp")
}
SMOOTHED = {"smoothed": "taylorseer:interval=2+taylor:order=2,smoothing=exponential,alpha=0.7@blocks"}
PAST = {
    "newton": "schedule:computed=0/1/3/4+newton:order=3",
    "adams-bashforth": "schedule:computed=0/1/3/4+adams-bashforth",
    "bdf": "schedule:computed=0/1/3/4+bdf",
    "modes at the stack": "schedule:computed=0/1/2/3+dmd",
}
EVERY = {**REUSING, **BOTH, **MOVED, **SMOOTHED, **PAST}
CHANNELS = {"hyca, by channel": f"hyca:path={PROFILES}/hyca.json,interval=3,warmup=3"}  # of Wan with 48 of them


def calls_of(model: Any, text: str) -> list[AbstractContextManager[Any]]:
    """The calls of a step: for a method of guidance both by their names, else a single one without a name."""
    guided = parse(text).guidance is not None
    return [model.cache_context(name) for name in ("cond", "uncond")] if guided else [nullcontext()]


def check_decisions(entries: Iterable[Any], text: str) -> None:
    """The policies alone, given what each forward measured, decide what it did."""
    method, states = parse(text), dict[Any, Any]()
    for entry in entries:
        asked = list(zip(method.inner, entry.actions, strict=True)) if entry.actions else []
        for rule, did in [*asked, (method.guidance, entry.guidance)]:
            if rule is None or did is None:
                continue
            key = entry.run, entry.step.branch, entry.step.expert, id(rule)
            policy = rule.policy
            action, state = policy.decide(states.get(key, policy.init()), entry.step, entry.seen)
            if isinstance(policy, DraftPolicy) and policy.strict and action is Action.REUSE and policy.verifies(state):
                action, state = policy.settle(state, entry.step, entry.seen)
            assert did is action, entry
            states[key] = state
