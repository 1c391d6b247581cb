"""Every method as a text that reuses something in eight steps, whatever it measures, and more compositions."""

from __future__ import annotations

from pathlib import Path

from c4d.core.methods import METHODS

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
    "dbcache": "dbcache:Fn=1,threshold=1e9,warmup=1,max_continuous_cached_steps=2",
    "dbcache, a mask": "dbcache:Fn=2,Bn=1,scm=11010010,scm_policy=static",
    "spectrum": "spectrum:warmup=2,weight=0.5",
    "schedule": "schedule:computed=0/1/2/5",
    "pab": "pab:attn=2,cross_attn=3",
    "lemica": "lemica:computed=0/1/2/5",
    "dpcache": f"dpcache:path={PROFILES}/dpcache.json,budget=4",
    "l2p": f"l2p:path={PROFILES}/l2p.json",
    "profile": f"profile:{PROFILES}/flow.json",
    "fastercache": "fastercache:weight=0.5,attn=3,high=801",
}
MOVED = {
    f"taylor over sigma at {at}": f"taylorseer:interval=3+taylor:order=2,over=sigma@{at}" for at in ("blocks", "mlp")
}
SMOOTHED = {"smoothed": "taylorseer:interval=2+taylor:order=2,smoothing=exponential,alpha=0.7@blocks"}
PAST = {"newton": "schedule:computed=0/1/3/4+newton:order=3", "modes at the stack": "schedule:computed=0/1/2/3+dmd"}
EVERY = {**REUSING, **MOVED, **SMOOTHED, **PAST}
