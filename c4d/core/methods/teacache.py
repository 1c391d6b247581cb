"""TeaCache, arXiv 2411.19108: the residual is reused while the accumulated change of a signal is small.

    d = sum |m(s) - m(s-1)| / sum |m(s-1)|
    acc = acc + p(d);   acc < threshold reuses, otherwise the step is computed and acc = 0
    h_out(s) = h_in(s) + R(A)                      on a reused step

m is the signal: the time embedding, its projection, or the modulated input of the first block. p is a polynomial that
was fitted to that signal on that model. h_in and h_out are the hidden states before and after the blocks, R = h_out -
h_in, s is the step and A the last computed step. Each branch of guidance decides for itself.

Published: fits, their thresholds and their forced steps are in teacache.json. Most force the first and the last step;
Wan 2.1's ``-ret`` fits force the first 5 and not the last.
"""

import json
from importlib.resources import files

from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Accumulate, Bounded
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Signal

RULES = ("clamped", "published")
SIGNALS = tuple(signal.value for signal in (Signal.TIME_EMBEDDING, Signal.TIME_PROJECTION, Signal.MODULATED_INPUT))


def published_fits() -> dict[str, dict[str, object]]:
    """Name -> {coefficients (highest power first), signal, warmup, last, thresholds, source} of the authors' fits."""
    fits: dict[str, dict[str, object]] = json.loads(files(__package__).joinpath("teacache.json").read_text())
    return fits


@method("teacache", example="teacache:threshold=0.1,coefficients=1/0,signal={signal}")
def teacache(
    threshold: float,
    fit: str | None = None,
    coefficients: tuple[float, ...] | None = None,
    signal: str | None = None,
    warmup: int | None = None,
    last: int | None = None,
    max_skips: int | None = None,
    rule: str = "clamped",
) -> Rule:
    """TeaCache: the stack's residual is reused while the accumulated, rescaled change of a signal stays small.

    arXiv 2411.19108. ``fit`` names a published polynomial with its signal and its forced steps; or give
    ``coefficients`` (highest power first; 1/0 is the raw change) with their ``signal`` (time_embedding,
    time_projection or modulated_input). Thresholds only mean something for the fit they were chosen for.
    Several fits are negative in places, and all leave the range in which anything was fitted: with ``rule=clamped``
    a negative value below that range counts as 0 and a change beyond it is computed; ``rule=published`` takes every
    value of the polynomial as it is, which lets the sum shrink.
    """
    if rule not in RULES:
        raise ValueError(f"unknown teacache rule {rule!r}: known are {', '.join(RULES)}")
    fits = published_fits()
    if (fit is None) == (coefficients is None):
        both = f"fit={fit} and coefficients are both given; keep one"
        needs = f"teacache needs either fit= (known: {', '.join(fits)}) or coefficients= with signal="
        raise ValueError(needs if fit is None else both)
    if fit is not None:
        if fit not in fits:
            raise ValueError(f"unknown teacache fit {fit!r}: known are {', '.join(fits)}")
        if signal is not None:
            raise ValueError(f"fit {fit!r} was made for signal {fits[fit]['signal']}; drop signal={signal}")
        known = fits[fit]
        coefficients, signal = tuple(known["coefficients"]), str(known["signal"])  # type: ignore[arg-type]
        warmup = int(known["warmup"]) if warmup is None else warmup  # type: ignore[call-overload]
        last = int(known["last"]) if last is None else last  # type: ignore[call-overload]
    if signal is None:
        raise ValueError(f"coefficients need the signal that they were fitted to: signal= one of {', '.join(SIGNALS)}")
    if signal not in SIGNALS:
        raise ValueError(f"unknown teacache signal {signal!r}: known are {', '.join(SIGNALS)}")
    if coefficients and (not any(coefficients[:-1]) or max(coefficients) <= 0):
        raise ValueError(
            f"coefficients {'/'.join(map(str, coefficients))} (highest power first) give the same for every change, or "
            "never more than 0; 1/0 is the raw change"
        )
    warmup, last = 1 if warmup is None else warmup, 1 if last is None else last
    if warmup < 1:
        raise ValueError(f"warmup must be a whole number of at least 1, got {warmup}")
    inner = Accumulate(threshold, Signal(signal), coefficients or (), clamped=rule == "clamped")
    policy = Bounded(inner, warmup, last, max_skips)
    return BlocksRule(policy, Reuse())
