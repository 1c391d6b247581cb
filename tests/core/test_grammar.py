"""One grammar; nothing is ever silently ignored."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c4d.core.caching.finite_differences import Hermite, Taylor
from c4d.core.caching.forecasters import Newton, Nothing, Reuse
from c4d.core.caching.policies import Accumulate, Bounded, Interval, StepMask
from c4d.core.caching.rules import BlocksRule, CacheMethod, GuidanceRule, ModuleRule, Rule
from c4d.core.caching.selectors import FRAMES, SCORES
from c4d.core.methods import METHODS, published
from c4d.core.methods.magcache import published_curves
from c4d.core.methods.teacache import published_fits
from c4d.core.text.grammar import FORECASTERS, MethodError, describe, parse
from c4d.core.types import Signal

WAY_OUT = r" \(c4d methods (\S+ explains it|lists them all)\)$"
PROFILES = Path(__file__).parent / "profiles"
EXAMPLES = {
    **{name: method.example for name, method in METHODS.items()},
    "teacache": "teacache:threshold=0.08,fit=wan2.1-t2v-1.3b",
    "first-block": "first-block:threshold=0.1,max_skips=3",
    "dbcache": "dbcache:Fn=8,Bn=0,threshold=0.12,warmup=8,max_cached_steps=9,scm=1110,scm_policy=dynamic",
    "spectrum": "spectrum:window=2.0,alpha=3.0,weight=0.5",
    "pab": "pab:attn=2,cross_attn=6",
    "dpcache": f"dpcache:path={PROFILES}/dpcache.json,budget=4",
    "hyca": f"hyca:path={PROFILES}/hyca.json,interval=5",
    "l2p": f"l2p:path={PROFILES}/l2p.json",
    "profile": f"profile:path={PROFILES}/flow.json,computed=4",
}


def test_every_method_has_an_example():
    assert set(EXAMPLES) == set(METHODS)


@pytest.mark.parametrize("text", EXAMPLES.values())
def test_text_and_its_method_s_own_name_agree(text):
    made = parse(text)
    assert made.name == text
    own = METHODS[text.partition(":")[0]](**arguments(text)).name
    assert parse(own).rules == made.rules


def arguments(text):
    out = {}
    for option in text.partition(":")[2].split(","):
        key, value = option.split("=")
        out[key] = (
            tuple(int(v) for v in value.split("/"))
            if "/" in value and key != "path"
            else value
            if key in ("fit", "curve", "path", "scm", "scm_policy")
            else float(value)
            if key in ("threshold", "decay", "weight", "window", "alpha", "ratio", "share", "low", "high")
            else int(value)
        )
    return out


def test_composition():
    rule = parse("teacache:threshold=0.15,coefficients=1/0,signal=time_embedding+newton:order=2@blocks").rules[0]
    assert rule.forecast == Newton(2) and rule.sites == ("blocks",)
    assert rule.policy == Bounded(Accumulate(0.15, Signal.TIME_EMBEDDING, (1.0, 0.0)), 1, 1, None)
    assert parse("taylorseer:interval=5@attn, mlp").rules[0].sites == ("attn", "mlp")
    assert parse("fora:interval=4+taylor").rules[0].forecast == Taylor(1)
    assert parse("schedule:computed=0").rules[0].policy == StepMask(frozenset({0}))


def test_published_rules():
    assert parse("taylorseer:interval=6,order=2,warmup=3").rules == (
        ModuleRule(Interval(6, 3), Taylor(2), drop_before=1),
    )
    assert METHODS.fora(interval=3).rules == (ModuleRule(Interval(3), Reuse()),)
    ret = parse("teacache:threshold=0.1,fit=wan2.1-t2v-14b-ret").rules[0].policy
    assert ret.first == 5 and ret.last == 0 and ret.inner.signal is Signal.TIME_PROJECTION


def test_fits_name_their_source():
    for name, fit in published_fits().items():
        assert len(fit["coefficients"]) in (5, 6) and fit["source"], name
        assert fit["thresholds"] or fit["note"], f"{name}: no threshold is published, and nothing says why"


CHANGED = {"threshold": "0.5", "interval": "7", "computed": "0/9"}


@pytest.mark.parametrize(("method", "model"), [(m, model) for m, models in published().items() for model in models])
def test_what_is_published_can_be_said_and_changed(method, model):
    asked = {"easycache": "", "speca": "+reuse", "toca": "+reuse", "clusca": "+reuse"}.get(method, "+reuse@blocks")
    key = next(key for key in CHANGED if key in published()[method][model])
    text = f"{method}:published={model},{key}={CHANGED[key]}{',orders=1/2' * (method == 'meancache')}"
    change = CHANGED[key] if key != "computed" else "frozenset({0, 9})"
    assert f"{key}={change}" in repr(parse(text + asked).rules)
    assert parse(f"{method}:published={model}").rules != parse(text).rules
    assert published()[method][model]["source"]


def test_published_settings():
    assert parse("taylorseer:published=flux.1-dev").rules == parse("taylorseer:interval=6,order=1,warmup=3").rules
    assert parse("taylorseer:order=2,published=wan2.1").rules == parse("taylorseer:published=wan2.1,order=2").rules
    assert parse("taylorseer:published=dit-xl-2").rules == parse("taylorseer:interval=4,order=4,warmup=2").rules
    assert parse("hicache:published=hicache-pp").rules[0].forecast == Hermite(1, scale=0.5)
    flux = parse("magcache:published=flux.1-dev").rules[0].policy
    assert (flux.threshold, flux.max_skips, flux.retention, flux.never) == (0.24, 5, 0.1, (11,))
    assert {each.expert for each in parse("magcache:published=wan2.2-i2v-a14b").rules[0].policy.curves} == {1}


@pytest.mark.parametrize("at", ["blocks", "output", "attn,mlp"])
@pytest.mark.parametrize("name", ["taylorseer", "taylorseer-lite"])
def test_a_method_that_is_moved_keeps_its_warm_up_guard(name, at):
    assert parse(f"{name}:interval=6,order=2,warmup=3@{at}").rules[0].drop_before == 1


def test_a_name_leaves_out_what_is_the_default():
    default = inspect.signature(METHODS.taylorseer).parameters["order"].default
    assert METHODS.taylorseer(interval=5, order=default).name == "taylorseer:interval=5"
    assert METHODS.taylorseer(interval=5, order=default + 1).name == f"taylorseer:interval=5,order={default + 1}"


def test_an_output_is_not_a_residual():
    """Methods that are moved to the output forecast it as it is; EasyCache is about what it adds to the latents."""
    assert [parse(f"fora:interval=3{at}").rules[0].residual for at in ("@blocks", "@output")] == [True, False]
    assert parse("easycache:threshold=0.1,warmup=3").rules[0].residual is True


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown method ''.*known are budcache"),
        ("  ", "unknown method ''"),
        ("@", "unknown method ''"),
        ("+", "unknown method ''"),
        (":", "unknown method ''"),
        (",", "unknown method ','"),
        ("taylor:interval=3", "unknown method 'taylor'.*taylorseer"),
        ("FORA:interval=3", "unknown method 'FORA'"),
        ("fora：interval=3", "unknown method 'fora：interval=3'"),  # the colon of another script
        ("fоra:interval=3", "unknown method 'fоra'"),  # with a Cyrillic o
        ("fora", "fora needs interval"),
        ("fora:", "options expected"),
        ("fora:interval", "needs a value for interval"),
        ("fora:interval=", "needs a value for interval"),
        ("fora:interval=3,", "no option ''.*known are interval"),
        ("fora:,interval=3", "no option ''"),
        ("fora:interval=3:warmup=1", "whole number, got '3:warmup=1'"),
        ("fora:interval=3;warmup=1", "whole number, got '3;warmup=1'"),
        ("fora:interval=3=4", "whole number, got '3=4'"),
        ("fora:interval=3,interval=4", "interval is given twice"),
        ("fora:intervall=3", "no option 'intervall'.*known are interval"),
        ("fora:Interval=3", "no option 'Interval'"),
        ("fora:interval=three", "whole number, got 'three'"),
        ("fora:interval=true", "whole number, got 'true'"),
        ("fora:interval=2.5", "whole number, got '2.5'"),
        ("fora:interval=3.0", "whole number, got '3.0'"),
        ("fora:interval=1e1", "whole number, got '1e1'"),
        ("fora:interval=1_0", "whole number, got '1_0'"),
        ("fora:interval=٣", "whole number, got '٣'"),
        ("fora:interval=nan", "whole number, got 'nan'"),
        ("fora:interval=" + "9" * 5000, "whole number, got '999"),  # more digits than Python converts
        ("fora:interval=0", "at least 1, got 0"),
        ("fora:interval=-3", "at least 1, got -3"),
        ("taylorseer:interval=5,order=11", "from 0 to 8, got 11"),
        ("taylorseer:interval=5,warmup=0", "warmup must be a whole number of at least 1, got 0"),
        ("fora:interval=3+spline", "unknown forecaster 'spline'.*reuse, taylor, hermite"),
        ("fora:interval=3+", "unknown forecaster ''"),
        ("fora:interval=3+4", "whole number, got '3[+]4'"),
        ("fora:interval=3+taylor+newton", "[+]newton is one part too many: [+] adds one forecaster, and one"),
        ("fora:interval=3+reuse:order=1", "reuse takes no options; write reuse alone"),
        ("fora:interval=3+taylor:", "options expected after taylor.*order=1"),
        ("fora:interval=3+taylor:order", "needs a value for order"),
        ("fora:interval=3+taylor:order=x", "whole number, got 'x'"),
        ("fora:interval=3+taylor:order=9", "from 0 to 8, got 9"),
        ("fora:interval=3+taylor:over=time", "unknown over='time': a forecast runs over step or sigma"),
        ("fora:interval=3+hermite:scale=nan", "scale takes a number, got 'nan'"),
        ("fora:interval=3+hermite:scale=1", "scale must be between 0 and 1, got 1"),
        ("fora:interval=3+taylor:order=2,smoothing=cubic", "unknown smoothing 'cubic': known are exponential"),
        ("fora:interval=3+taylor:smoothing=moving-average", "order is 1: take order=2 or anchor=smoothed"),
        ("fora:interval=3+bands", "FrequencySplit reads the features of a whole forward, not attn.*@blocks"),
        (
            "taylorseer-lite:interval=3+bands",
            "FrequencySplit reads the features of a whole forward, not output",
        ),
        ("fora:interval=3+dmd", "DynamicModes reads the features of a whole forward.*@blocks or @output"),
        ("dmd:interval=3,window=3", "window must be a whole number of at least 4, got 3"),
        ("dmd:interval=3,window=5,rank=5", "rank must be from 1 to 4"),
        ("freqca:interval=3,cutoff=0", "cutoff must be between 0 and 1, got 0"),
        ("taylorseer:published=sora", "nothing is published for taylorseer under 'sora': known are flux.1-dev"),
        ("taylorseer:published=flux.1-dev,published=wan2.1", "published is given twice"),
        ("taylorseer:published=", "taylorseer needs a value for published"),
        ("foca:published=flux.1-dev", "no option 'published'"),
        ("magcache:curve=sora,threshold=0.1,max_skips=2", "unknown magcache curve 'sora': known are flux.1-dev"),
        ("magcache:published=flux.1-dev,threshold=0", "above 0, got 0"),
        ("magcache:published=flux.1-dev,retention=1", "retention must be from 0 to below 1"),
        ("magcache:curve=flux.1-dev", "magcache needs threshold, max_skips"),
        ("easycache:threshold=0.1,warmup=1", "warmup must be a whole number of at least 2, got 1"),
        ("easycache:threshold=0.1", "easycache needs warmup"),
        ("teacache:threshold=0.1,fit=flux.1-dev,rule=loose", "unknown teacache rule 'loose': known are clamped"),
        ("pab:low=100", "pab needs a range for attn or cross_attn, such as attn=2"),
        ("pab:attn=0", "the range .every N-th step. must be a whole number of at least 1, got 0"),
        ("pab:attn=2,low=800,high=100", "low must be below high"),
        ("pab:attn=2,mlp=2", "mlp .how many steps. and mlp_at .after which timesteps. belong together"),
        ("pab:mlp=2,mlp_at=0", "mlp_at are timesteps above 0"),
        ("pab:mlp=2,mlp_at=676,mlp_blocks=0", "at least 1 of the leading blocks, got 0"),
        ("first-block:threshold=0.1,first_blocks=0", "first_blocks must be at least 1"),
        (
            "first-block:threshold=0.1,last_blocks=2+bands@blocks",
            "before the last 2 blocks text is forecast, too: use last_blocks=0",
        ),
        ("first-block:threshold=0.1,last_blocks=-1", "last_blocks at least 0, got first_blocks=1, last_blocks=-1"),
        ("fora:interval=3@stack", "unknown site 'stack'.*blocks, output, attn"),
        ("fora:interval=3@", "unknown site ''.*known are blocks"),
        ("fora:interval=3@attn,", "unknown site ''"),
        ("fora:interval=3@blocks@attn", "unknown site 'blocks@attn'"),
        ("fora:interval=3@blocks+taylor", "unknown site 'blocks[+]taylor' after @ .which comes last"),
        ("fora:interval=3@attn,mlp,attn", "site attn is given twice"),
        ("fora:interval=3@blocks,attn", "reaches no other site"),
        (
            "first-block:threshold=0.1@output",
            "first_blocks=1, last_blocks=0: blocks that always run belong to.*@blocks",
        ),
        (
            "teacache:threshold=0.1,coefficients=1/0,signal=time_embedding@output",
            "before the transformer runs.*@blocks",
        ),
        ("teacache:threshold=0.1,coefficients=1/0,signal=time_embedding@attn", "once for the whole forward.*@blocks"),
        ("dbcache:scm=0110", "a digit a step, 1 computed and 0 reused, and begins with 1, as 1110100001; got 0110"),
        ("dbcache:scm_policy=static", "scm_policy=static needs a mask of steps"),
        ("dbcache:scm=10,scm_policy=slow", "unknown scm_policy 'slow': known are dynamic, static"),
        ("dbcache:max_cached_steps=-1", "max_reused must be a whole number of at least 0, got -1"),
        ("fora:interval=2+cfg-cache+cfg-skip:ratio=0.1", "[+]cfg-skip:ratio=0.1 is one part too many"),
        ("fora:interval=2+taylorseer:interval=3", "taylorseer cannot be added with [+], which takes a forecaster or a"),
        ("cfg-cache@output", "guidance is of whole outputs and has no other site; leave @output out"),
        ("cfg-cache+bands", "FrequencySplit reads the features of a whole forward, not guidance: use @blocks"),
        ("cfg-skip:ratio=0", "ratio is a part of the steps, above 0 and at most 1, got 0.0"),
        ("guidance-interval:low=0.5,high=0.5", "low must be below high"),
        ("meancache:computed=0/2,orders=1", "2 computed steps have 1 orders; give one for the gap after each"),
        ("meancache:computed=0/2,orders=1/0", "an order must be a whole number of at least 1, got 0"),
        ("dicache:threshold=1,retention=1", "retention must be from 0 to below 1 .a part of the steps., got 1.0"),
        ("delta-dit:interval=2,first=1,last=0", "turn=0.5 is a part of the run, at which first_blocks and last_blocks"),
        ("delta-dit:interval=2,first=1,last=1,turn=1", "turn=1.0 is a part of the run"),
        ("delta-dit:interval=2,first=1,last=1@output", "blocks that always run belong to a cache of blocks, @blocks"),
        ("dicache:threshold=1,error=delta", "unknown dicache error 'delta': known are delta_y, delta_minus"),
        ("dicache:threshold=1,depth=0", "first_blocks must be at least 1"),
        ("dicache:threshold=1@output", "last_blocks=0: blocks that always run belong to a cache of blocks, @blocks"),
        ("speca:threshold=1,mode=late", "unknown mode 'late': known are lagged, strict"),
        ("speca:threshold=-1", "threshold must be a number of at least 0, got -1.0"),
        ("speca:threshold=1,decay=0", "decay must be above 0 and at most 1"),
        (
            "speca:threshold=1@blocks",
            "verifies forecasts of modules by those of the last block, and at blocks",
        ),
        ("spectrum:window=0.5", "window must be at least 1"),
        ("spectrum:weight=1.5", "weight must be from 0"),
        ("spectrum:ridge=0", "ridge must be a finite number above 0"),
        ("first-block:threshold=x", "threshold takes a number, got 'x'"),
        ("first-block:threshold=nan", "takes a number, got 'nan'"),
        ("first-block:threshold=inf", "finite number above 0, got inf"),
        ("first-block:threshold=1e999", "finite number above 0, got inf"),
        ("first-block:threshold=0", "above 0, got 0"),
        ("first-block:threshold=-1", "above 0, got -1"),
        ("first-block:threshold=0.1,warmup=0", "warmup must be a whole number of at least 1, got 0"),
        ("first-block:threshold=0.1,max_skips=0", "max_skips must be .* at least 1, got 0"),
        ("teacache:fit=wan2.1-t2v-14b", "teacache needs threshold"),
        ("teacache:threshold=0.1", "either fit=.*wan2.1-t2v-1.3b"),
        ("teacache:threshold=0.1,signal=time_embedding", "either fit=.*or coefficients= with signal="),
        ("teacache:threshold=0.1,fit=sora", "unknown teacache fit 'sora': known are"),
        ("teacache:threshold=0.1,fit=wan2.1-t2v-14b,coefficients=1/0", "both given; keep one"),
        ("teacache:threshold=0.1,fit=wan2.1-t2v-14b,signal=head", "drop signal=head"),
        ("teacache:threshold=0.1,fit=wan2.1-t2v-14b,warmup=0", "warmup must be .* at least 1, got 0"),
        ("teacache:threshold=0.1,fit=wan2.1-t2v-14b,last=-1", "last must be .* at least 0, got -1"),
        ("teacache:threshold=0.1,coefficients=1/0", "need the signal.*time_embedding"),
        ("teacache:threshold=0.1,coefficients=1/0,signal=head", "unknown teacache signal 'head': known are time_emb"),
        ("teacache:threshold=0.1,coefficients=1/x,signal=time_embedding", "numbers separated by /, got '1/x'"),
        ("teacache:threshold=0.1,coefficients=1/nan,signal=time_embedding", "numbers separated by /, got '1/nan'"),
        ("teacache:threshold=0.1,coefficients=1/inf,signal=time_embedding", "finite numbers"),
        ("teacache:threshold=0.1,coefficients=0/2,signal=time_embedding", "the same for every change.*1/0 is the raw"),
        ("teacache:threshold=0.1,coefficients=-1/0,signal=time_embedding", "never more than 0"),
        ("schedule:computed=1/2", "step 0 must be computed"),
        ("schedule:computed=0/-2", "at least 0, got -2"),
        ("schedule:computed=0//2", "numbers separated by /"),
        ("schedule:computed=0/1.5", "numbers separated by /, got '0/1.5'"),
        ("schedule:computed=0/2/2", "step 2 is listed twice"),
        ("lemica:published=flux.1-dev", "nothing is published for lemica under 'flux.1-dev': known are wan2.1-t2v"),
        (
            "dpcache:path=nowhere.json,budget=4",
            r"path=nowhere.json is to be the calibration of dpcache \(c4d calibrate dpcache makes it\): .*No such",
        ),
        (f"l2p:path={PROFILES}/dpcache.json", "is a calibration of 'dpcache', not of l2p"),
        (f"dpcache:path={PROFILES}/dpcache.json,budget=2", r"no 2 of 8 steps have the leading 3"),
        (f"dpcache:path={PROFILES}/dpcache.json,budget=9", r"no 9 of 8 steps"),
        ("schedule:computed=0,1", "no option '1': known are computed"),
    ],
)
def test_errors_name_the_value_and_the_way_out(text, says):
    with pytest.raises(MethodError, match=says) as caught:
        parse(text)
    assert repr(text) in str(caught.value) and re.search(WAY_OUT, str(caught.value))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  fora : interval = 3 ", "fora:interval=3"),
        ("fora:interval=3+taylor:order=2 @ attn , mlp", "fora:interval=3+taylor:order=2@attn,mlp"),
        ("first-block:threshold=1e+3+reuse", "first-block:threshold=1000"),
        ("schedule:computed=0/5/2", "schedule:computed=0/2/5"),
    ],
)
def test_one_method_written_in_two_ways(text, same):
    assert parse(text).rules == parse(same).rules


def outcome(text):
    """The method of a text, or None where it is refused as it should be; any other exception is a bug."""
    try:
        method = parse(text)
    except MethodError as error:
        assert repr(text) in str(error) and re.search(WAY_OUT, str(error))
        return None
    assert isinstance(method, CacheMethod) and method.name == text.strip()
    return method


@given(st.text(alphabet="fora:interval=3,+@/tylsck0.-é \n", max_size=40) | st.text(max_size=40))
def test_any_text_is_a_method_or_a_method_error(text):
    outcome(text)


VALUES = {
    "interval": st.integers(1, 10**20),
    "order": st.integers(0, 8),
    "warmup": st.integers(2, 100),
    "last": st.integers(0, 100),
    "max_skips": st.integers(1, 100),
    "weight": st.floats(0.0, 1.0),
    "orders": st.just("1"),
    "turn": st.floats(0.05, 0.95),
    "depth": st.integers(1, 5),
    "mlp": st.integers(1, 5),
    "mlp_at": st.sampled_from(["676", "676/788/864"]),
    "mlp_blocks": st.integers(1, 9),
    "ratio": st.floats(0.01, 1.0),
    "max_drafts": st.integers(1, 20),
    "unchecked": st.integers(0, 20),
    "decay": st.floats(0.01, 1.0),
    "floor": st.floats(0.0, 1.0),
    "mode": st.sampled_from(["lagged", "strict"]),
    "error": st.sampled_from(["norms", "elementwise"]),
    "low_weight": st.floats(-2.0, 2.0),
    "high_weight": st.floats(-2.0, 2.0),
    "degree": st.integers(1, 9),
    "ridge": st.floats(1e-6, 10.0),
    "features": st.integers(1, 100),
    "alpha": st.floats(0.0, 9.0),
    "Fn": st.integers(1, 9),
    "Bn": st.just(0),  # the last blocks go with no forecaster that works on the grid
    "max_cached_steps": st.integers(0, 100),
    "max_continuous_cached_steps": st.integers(1, 100),
    "scm": st.text("01", max_size=9).map("1".__add__),
    "scm_policy": st.just("dynamic"),
    "attn": st.integers(1, 9),
    "cross_attn": st.integers(1, 9),
    "low": st.floats(0.0, 0.9),
    "high": st.floats(500.0, 1000.0),
    "scale": st.floats(0.01, 0.99),
    "score": st.sampled_from(SCORES),
    "stale": st.floats(0.0, 9.0),
    "bonus": st.floats(0.0, 9.0),
    "cell": st.integers(1, 4),
    "over_steps": st.floats(-9.0, 9.0),
    "over_layers": st.floats(-9.0, 9.0),
    "clusters": st.integers(1, 99),
    "share": st.floats(0.0, 1.0),
    "each": st.integers(1, 3),
    "iterations": st.integers(1, 9),
    "correct": st.sampled_from(["forecast", "published"]),
    "frames": st.sampled_from(FRAMES),
    "cutoff": st.floats(0.01, 0.99),
    "over": st.sampled_from(["step", "sigma"]),
    "window": st.integers(4, 9),
    "rank": st.integers(1, 3),
    "path": st.just(f"{PROFILES}/dpcache.json"),
    "budget": st.integers(4, 8),
    "first": st.integers(2, 4),
    "steps": st.integers(100, 200),
    "curve": st.sampled_from(sorted(published_curves())),
    "retention": st.floats(0.0, 0.9),
    "first_blocks": st.integers(1, 9),
    "last_blocks": st.integers(0, 9),
    "rule": st.sampled_from(["clamped", "published"]),
    "threshold": st.floats(1e-300, 1e300),
    "fit": st.sampled_from(sorted(published_fits())),
    "computed": st.sets(st.integers(0, 99)).map(lambda steps: "/".join(map(str, sorted({0} | steps)))),
    "signal": st.sampled_from(["time_embedding", "time_projection", "modulated_input"]),
    "coefficients": st.lists(st.floats(0.001, 1e3), min_size=2, max_size=5).map(lambda c: "/".join(map(str, c))),
}
GUIDED = ("cfg-cache", "cfg-skip", "guidance-interval")
NO_BANDS = ("speca", "pab", "delta-dit", "dbcache")  # at modules, or before last blocks
TOKENS = ("toca", "duca", "clusca")
NEEDED = ("fit", "coefficients", "signal", "attn", "mlp", "mlp_at", "curve", "computed", "orders")
SITES_OF = {
    "fora": ["attn", "cross_attn,mlp", "total"],
    "taylorseer-lite": ["blocks", "mlp"],
    "schedule": ["output"],
    "pab": ["attn"],
    "speca": ["attn", "mlp,total"],
    "fastercache": ["attn"],
    "toca": ["mlp", "attn,mlp"],
    "clusca": ["attn,mlp"],
}


@st.composite
def part(draw, name, make, leave_out=()):
    """``name:key=value,...`` with every option that the signature asks for and some of the others, in any order."""
    parameters = [p for p in inspect.signature(make).parameters.values() if p.name not in leave_out]
    given_ = [p.name for p in parameters if p.default is p.empty or p.name in NEEDED]
    given_ += [p.name for p in parameters if p.name not in given_ and draw(st.booleans())]
    options = ",".join(f"{key}={draw(VALUES[key])}" for key in draw(st.permutations(given_)))
    return f"{name}:{options}" if options else name


@st.composite
def texts(draw):
    """A valid text, made of the signatures in the catalogue."""
    name = draw(st.sampled_from(sorted({*METHODS} - {"hyca", "l2p", "profile"})))  # they read other profiles
    without = ("path", "budget") if name != "dpcache" else ()  # the file there is is DPCache's
    without += draw(st.sampled_from([("fit",), ("coefficients", "signal")])) if name == "teacache" else ()
    without += draw(st.sampled_from([("mlp", "mlp_at"), ("attn",)])) if name == "pab" else ()
    without += ("error",) if name == "dicache" else ()  # SpeCa's errors have other names
    text, guided = draw(part(name, METHODS[name], without)), name in GUIDED
    if name == "meancache":  # an order for each of its steps
        steps = text.partition("computed=")[2].partition(",")[0].count("/")
        text = text.replace("orders=1", "orders=1" + "/2" * steps)
    if name == "delta-dit":
        text = re.sub(r"last=[0-9]+", "last=3", text)
    if not guided and draw(st.booleans()):
        text += "+" + draw(part(added := draw(st.sampled_from(GUIDED)), METHODS[added]))
    if draw(st.booleans()):
        several = guided or name in (*NO_BANDS, *TOKENS)
        unfit = ({"bands", "dmd"} if several else set()) | ({"foca", "trend"} if name in TOKENS else set())
        forecaster = draw(st.sampled_from(sorted({*FORECASTERS} - unfit)))
        text += "+" + draw(part(forecaster, FORECASTERS[forecaster], ("smoothing", "alpha", "anchor")))
        if forecaster in ("bands", "dmd"):
            return re.sub("last_blocks=[0-9]+,|,last_blocks=[0-9]+", "", text) + "@blocks"
    if guided or name == "duca" or "cross_attn=" in text or "mlp=" in text:
        return text  # of rules at several sites, or of guidance
    return text + (f"@{draw(st.sampled_from(SITES_OF.get(name, ['blocks'])))}" if draw(st.booleans()) else "")


@given(texts())
def test_any_text_made_of_the_catalogue_is_a_method(text):
    assert outcome(text) is not None and parse(text) == parse(text)


@given(texts(), st.data())
def test_a_text_with_a_slip_is_a_method_or_a_method_error(text, data):
    at = data.draw(st.integers(0, len(text) - 1))
    outcome(text[:at] + data.draw(st.sampled_from(["", 2 * text[at]])) + text[at + 1 :])


def test_describe_lists_every_parameter():
    assert describe(METHODS["taylorseer"]) == "interval=…,order=1,warmup=1,last=0"
    assert "[max_skips=…]" in describe(METHODS["first-block"])


def test_a_rule_of_guidance_is_one_and_the_last():
    guidance, rule = GuidanceRule(StepMask({0}), Nothing()), ModuleRule(Interval(2), Reuse(), ("attn",))
    made = CacheMethod("mine", (rule, guidance))
    assert (made.inner, made.guidance, made.whole, made.inside) == ((rule,), guidance, None, True)
    whole = CacheMethod("mine", (BlocksRule(Interval(2), Reuse()), guidance))
    assert whole.whole is whole.rules[0] and not whole.inside
    for rules in ((guidance, rule), (guidance, guidance)):
        with pytest.raises(ValueError, match="a rule of guidance is one, and the last of a method"):
            CacheMethod("mine", rules)
    with pytest.raises(ValueError, match="decides by the step alone, but Accumulate measures input"):
        GuidanceRule(Accumulate(0.1, Signal.INPUT), Nothing())


def test_overlapping_rules_are_refused():
    rule = ModuleRule(Interval(2), Reuse(), ("attn",))
    with pytest.raises(ValueError, match="overlap at attn, attn"):
        CacheMethod("mine", (rule, rule))
    with pytest.raises(ValueError, match="overlap"):
        CacheMethod("mine", (rule, BlocksRule(Interval(2), Reuse())))
    with pytest.raises(ValueError, match="at least one rule"):
        CacheMethod("mine", ())
    with pytest.raises(NotImplementedError, match="Rule is of no place: use BlocksRule"):
        Rule(Interval(2), Taylor(1)).sites  # noqa: B018 - raises
    with pytest.raises(TypeError, match=r"policy is 'often'; give an instance of a subclass of c4d\.Policy"):
        BlocksRule("often", Reuse())
    with pytest.raises(ValueError, match="unknown site mulp"):
        ModuleRule(Interval(2), Reuse(), ("mulp",))


def test_a_package_that_cannot_be_used_says_why(monkeypatch):
    ignored = {"gone (theirs.gone)": "ModuleNotFoundError: No module named 'theirs'"}
    monkeypatch.setitem(vars(METHODS), "_theirs", ({}, ignored))
    with pytest.raises(MethodError, match=r"unknown method 'gone': .*; its package: ModuleNotFoundError: No module"):
        parse("gone:x=1")
    with pytest.raises(MethodError, match=r"unknown method 'going': [^;]*\(c4d methods lists them all\)$"):
        parse("going:x=1")
