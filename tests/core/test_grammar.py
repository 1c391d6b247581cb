"""One grammar; nothing is ever silently ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c4d.core import methods
from c4d.core.forecast import Hold, Newton, Taylor
from c4d.core.grammar import MethodError, describe, parse
from c4d.core.methods import METHODS
from c4d.core.methods.teacache import published_fits
from c4d.core.policy import Accumulate, Bounded, Interval, StepMask
from c4d.core.types import MODULE_KINDS, CacheMethod, Probe, Rule

EXAMPLES = {
    "fora": "fora:interval=3",
    "taylorseer": "taylorseer:interval=5,order=2,warmup=3",
    "taylorseer-lite": "taylorseer-lite:interval=5",
    "teacache": "teacache:threshold=0.08,fit=wan2.1-t2v-1.3b",
    "first-block": "first-block:threshold=0.1,max_skips=3",
    "schedule": "schedule:computed=0/1/5",
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
            if "/" in value
            else value
            if key == "fit"
            else float(value)
            if key == "threshold"
            else int(value)
        )
    return out


def test_composition():
    rule = parse("teacache:threshold=0.15,coefficients=1/0,signal=time_embedding+newton:order=2@stack").rules[0]
    assert rule.forecast == Newton(2) and rule.at == ("stack",)
    assert rule.policy == Bounded(Accumulate(0.15, Probe.TIME_EMBEDDING, (1.0, 0.0)), 1, 1, None)
    assert parse("taylorseer:interval=5@attn, mlp").rules[0].at == ("attn", "mlp")
    assert parse("fora:interval=4+taylor").rules[0].forecast == Taylor(1)
    assert parse("schedule:computed=0").rules[0].policy == StepMask(frozenset({0}))


def test_published_rules():
    assert parse("taylorseer:interval=6,order=2,warmup=3").rules == (
        Rule(MODULE_KINDS, Interval(6, 3), Taylor(2, start=1)),
    )
    assert methods.fora(interval=3).rules == (Rule(MODULE_KINDS, Interval(3), Hold()),)
    ret = parse("teacache:threshold=0.1,fit=wan2.1-t2v-14b-ret").rules[0].policy
    assert ret.first == 5 and ret.last == 0 and ret.inner.probe is Probe.TIME_PROJECTION


def test_fits_name_their_source():
    for name, fit in published_fits().items():
        assert len(fit["coefficients"]) == 5 and "TeaCache" in fit["source"] and fit["thresholds"], name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown method ''.*known are fora"),
        ("taylor:interval=3", "unknown method 'taylor'.*taylorseer"),
        ("fora", "fora needs interval"),
        ("fora:", "options expected"),
        ("fora:interval", "needs a value for interval"),
        ("fora:interval=", "needs a value for interval"),
        ("fora:interval=3,", "no option ''"),
        ("fora:interval=3,interval=4", "given twice"),
        ("fora:intervall=3", "no option 'intervall'.*known are interval"),
        ("fora:interval=three", "whole number, got 'three'"),
        ("fora:interval=2.5", "whole number, got '2.5'"),
        ("fora:interval=0", "at least 1, got 0"),
        ("fora:interval=-3", "at least 1, got -3"),
        ("taylorseer:interval=5,order=11", "from 0 to 8, got 11"),
        ("fora:interval=3+spline", "unknown forecaster 'spline'.*hold, taylor, newton"),
        ("fora:interval=3+", "unknown forecaster ''"),
        ("fora:interval=3+taylor:order=x", "whole number, got 'x'"),
        ("fora:interval=3@blocks", "unknown site blocks.*stack, output, attn"),
        ("fora:interval=3@", "unknown site"),
        ("fora:interval=3@stack,attn", "reaches no other site"),
        ("first-block:threshold=0.1@output", "decides before the transformer runs.*@stack"),
        ("first-block:threshold=0.1@attn", "once for the whole pass.*@stack"),
        ("first-block:threshold=nan", "finite number above 0, got nan"),
        ("first-block:threshold=-1", "above 0, got -1"),
        ("teacache:threshold=0.1", "either fit=.*wan2.1-t2v-1.3b"),
        ("teacache:threshold=0.1,fit=sora", "unknown teacache fit 'sora': known are"),
        ("teacache:threshold=0.1,fit=wan2.1-t2v-14b,signal=head", "drop signal=head"),
        ("teacache:threshold=0.1,coefficients=1/0", "unknown teacache signal None: known are time_embedding"),
        ("teacache:threshold=0.1,coefficients=1/x,signal=time_embedding", "numbers separated by /, got '1/x'"),
        ("schedule:computed=1/2", "step 0 must be computed"),
        ("schedule:computed=0//2", "numbers separated by /"),
    ],
)
def test_errors_name_the_value_and_the_way_out(text, says):
    with pytest.raises(MethodError, match=says):
        parse(text)


@given(st.text(alphabet="fora:interval=3,+@/tylsck0.-é \n", max_size=40))
def test_any_text_is_a_method_or_a_method_error(text):
    try:
        assert isinstance(parse(text), CacheMethod)
    except MethodError as error:
        assert str(error)


def test_describe_lists_every_parameter():
    assert describe(METHODS["taylorseer"]) == "interval=…,order=1,warmup=1"
    assert "[max_skips=…]" in describe(METHODS["first-block"])


def test_overlapping_rules_are_refused():
    rule = Rule(("attn",), Interval(2), Hold())
    with pytest.raises(ValueError, match="overlap at attn, attn"):
        CacheMethod("mine", (rule, rule))
    with pytest.raises(ValueError, match="overlap"):
        CacheMethod("mine", (rule, Rule(("stack",), Interval(2), Hold())))
    with pytest.raises(ValueError, match="at least one rule"):
        CacheMethod("mine", ())
    with pytest.raises(ValueError, match="unknown base 'middle'"):
        Rule(("attn",), Interval(2), Hold(), base="middle")
