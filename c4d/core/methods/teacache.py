"""TeaCache, arXiv 2411.19108: the residual is reused while the accumulated change of a signal is small.

    d = sum |m(s) - m(s-1)| / sum |m(s-1)|
    acc = acc + p(d);   acc < threshold reuses, otherwise the step is computed and acc = 0
    h_out(s) = h_in(s) + R(A)                      on a reused step

m is the signal: the time embedding, its projection, the modulated input of the first block, or the latents. p is a
polynomial that was fitted to that signal on that model. h_in and h_out are the hidden states before and after the
blocks, R = h_out - h_in, s is the step and A the last computed step. Each branch of guidance decides for itself.

Published: fits, their thresholds and their forced steps are in teacache.json. Most force the first and the last step;
Wan 2.1's ``-ret`` fits force the first 5 and not the last. ``c4d calibrate teacache`` fits one to any model.
"""

import json
from importlib.resources import files
from typing import Any, NamedTuple

from c4d.core.caching.calibrated import CalibrationData
from c4d.core.caching.forecasters import Reuse
from c4d.core.caching.method import method
from c4d.core.caching.policies import Accumulate, Bounded
from c4d.core.caching.rules import BlocksRule, Rule
from c4d.core.types import Signal

RULES = ("clamped", "published")
SIGNALS = tuple(signal.value for signal in Signal if signal.stepwise)


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
    path: str | None = None,
) -> Rule:
    """TeaCache: the stack's residual is reused while the accumulated, rescaled change of a signal stays small.

    arXiv 2411.19108. ``fit`` names a published polynomial with its signal and its forced steps; or give
    ``coefficients`` (highest power first; 1/0 is the raw change) with their ``signal`` (time_embedding,
    time_projection, modulated_input, input or spectrum), or the ``path`` of what ``c4d calibrate teacache`` made.
    Thresholds only mean something for the fit they were chosen for.
    Several fits are negative in places, and all leave the range in which anything was fitted: with ``rule=clamped``
    a negative value below that range counts as 0 and a change beyond it is computed; ``rule=published`` takes every
    value of the polynomial as it is, which lets the sum shrink. A calibrated fit knows its range: below it a change
    counts as the smallest that was seen, beyond it the step is computed.
    """
    if rule not in RULES:
        raise ValueError(f"unknown teacache rule {rule!r}: known are {', '.join(RULES)}")
    given = [name for name, x in (("fit", fit), ("coefficients", coefficients), ("path", path)) if x is not None]
    if len(given) != 1:
        known = ", ".join(published_fits())
        needs = f"teacache needs either fit= (known: {known}) or coefficients= with signal= or path="
        raise ValueError(f"{' and '.join(given)} are both given; keep one" if given else needs)
    if fit is not None:
        made = _published(fit)
    else:
        made = _calibrated(path) if path is not None else _written(coefficients or (), signal)
    if signal not in (None, made.signal):
        raise ValueError(f"{given[0]} {fit or path!r} was made for signal {made.signal}; drop signal={signal}")
    warmup, last = made.warmup if warmup is None else warmup, made.last if last is None else last
    if warmup < 1:
        raise ValueError(f"warmup must be a whole number of at least 1, got {warmup}")
    inner = Accumulate(threshold, Signal(made.signal), made.coefficients, rule == "clamped", made.within)
    policy = Bounded(inner, warmup, last, max_skips)
    return BlocksRule(policy if made.file is None else made.file.bound(policy), Reuse())


class Fit(NamedTuple):
    """A polynomial, its signal, the forced steps at both ends, and the range of a calibrated one."""

    coefficients: tuple[float, ...]
    signal: str
    warmup: int = 1
    last: int = 1
    within: tuple[float, float] | None = None
    file: CalibrationData | None = None


def _published(name: str) -> Fit:
    fits: dict[str, Any] = published_fits()
    if name not in fits:
        raise ValueError(f"unknown teacache fit {name!r}: known are {', '.join(fits)}")
    known = fits[name]
    return Fit(tuple(known["coefficients"]), known["signal"], known["warmup"], known["last"])


def _calibrated(path: str) -> Fit:
    file = CalibrationData.load(path, "teacache", "coefficients", "signal", "range")
    low, high = file.numbers("range", 2)
    return Fit(file.numbers("coefficients"), _signal(file.data["signal"]), within=(low, high), file=file)


def _written(coefficients: tuple[float, ...], signal: str | None) -> Fit:
    if signal is None:
        raise ValueError(f"coefficients need the signal that they were fitted to: signal= one of {', '.join(SIGNALS)}")
    if coefficients and (not any(coefficients[:-1]) or max(coefficients) <= 0):
        raise ValueError(
            f"coefficients {'/'.join(map(str, coefficients))} (highest power first) give the same for every change, or "
            "never more than 0; 1/0 is the raw change"
        )
    return Fit(coefficients, _signal(signal))


def _signal(name: str) -> str:
    if name not in SIGNALS:
        raise ValueError(f"unknown teacache signal {name!r}: known are {', '.join(SIGNALS)}")
    return name
