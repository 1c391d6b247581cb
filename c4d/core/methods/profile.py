"""Profiles: a solver of few computed steps, fitted to a model in closed loop (``c4d tune`` makes them).

    v = (1 + c0) v3 + c1 (s/h1) (v3 - v2) + c2 s ((v3 - v2)/h1 - (v2 - v1)/h2) + c3 ((y - y_A)/s - v3) + c4 x

v is the transformer's output at a step that is not computed, v1, v2, v3 are the last three computed outputs, x are the
latents and x_A those of the last computed step; times and scales: :mod:`c4d.core.caching.solver`. Which steps are
computed, and the five coefficients of each other one, were chosen so that the sampler, stepping with what it forecasts,
comes back onto the samples of the uncached run. A computed output v4 tells how wrong the forecasts before it were, and
is handed on corrected, with six coefficients of its own:

    v = v4 + h3/d (c0 v4 + c1 (v4 - v3) + c2 (v3 - v2) + c3 (v2 - v1) + c4 ((y - y_B)/h3 - v4) + c5 x)

This is our own. It is kin to solvers that are learned for a model: Bespoke and Bespoke Non-Stationary solvers (arXiv
2310.19075, 2403.01329), S4S (2502.17423), DPM-Solver-v3 (2310.13268), and in its choice of steps to GITS (2405.11326),
Align Your Steps (2404.14507), LeMiCa (2511.00090) and DPCache (2602.22654); weights that are learned for each step are
L2P's (2604.26365). Here the sampler is any one of the pipeline's, unmodified; the fit is in closed form, step by step,
along the cached run itself.
"""

from c4d.core.caching.method import method
from c4d.core.caching.profiles import found, rule_of
from c4d.core.caching.rules import Rule


@method("profile", example="schedule:computed=0/1/2+taylor@output")
def profile(path: str, computed: int | None = None, quality: str | None = None) -> Rule:
    """A profile: the steps that were found best for this model, and learned forecasts of the outputs between them.

    ``path`` is a file that ``c4d tune`` wrote, or the name of one in ~/.cache/c4d/profiles or of those that come with
    c4d. ``computed``: how many steps are computed; or ``quality`` (high, balanced or fast) says it by the number of
    steps that a run has. Without either it is the number that the profile was made for.
    """
    if computed is not None and quality is not None:
        raise ValueError(f"computed={computed} and quality={quality} both say how many steps are computed; keep one")
    return rule_of(found(path), computed, quality)
