"""ClusCa, arXiv 2509.10312: forecasts of MLPs, put right by a few computed tokens that stand for clusters of others.

    on a computed step:  K-means of the tokens of a late block
    otherwise:           M = MLP of ``each`` random tokens of every cluster
                         F_i(s) = M_i of these;   F_i(s) = F'_i(s) + share mean(M - F'(s)) of the others
    computed steps: 0 .. E-1, then E-1+N, E-1+2N, ...

F is the output of an MLP in the blocks, before its gate, and F' its forecast by a Taylor series, as in TaylorSeer;
attention is forecast alike, and not put right. The mean is over the computed tokens of the cluster of i. N is
``interval``, E ``warmup``. What a token was found to be off by stays in its later forecasts.

``correct=published`` is the authors' code, F_i(A) <- (1 - share) F_i(A) + share mean(M) and then the forecast: M takes
the place of the feature of the last computed step A, to which the forecast adds the change since then once more, and
tokens that have not changed at all move towards their cluster. The default puts the forecast itself right, by changes.

Where c4d departs besides: clustered is what the last MLP of a stream is given (the hidden state after its adaptive
norm; each stream, image and text, in its own clusters). K-means makes all its iterations, for to ask whether it may
stop would wait for the device, and an empty cluster keeps its centroid. In single-stream blocks, what they make of
attention and MLP together is forecast, as published.

Clusters of video are of all frames together; ``frames=each`` has so many in each frame (in the authors' code an option
for 17 frames). Text in the same sequence is one more, and on several ranks a frame is what a rank has of it.

Published (clusters, share, N, order, E): FLUX.1 16, 0.005, 5, 1, 3; HunyuanVideo 32, 0.01, 5, 1, 1; DiT-XL/2 16, 0.005,
4, 4, 2.
"""

from c4d.core.caching.finite_differences import Taylor
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval, Partly
from c4d.core.caching.rules import Rule, TokenRule
from c4d.core.caching.selectors import FRAMES, Clustered

CORRECTED = ("forecast", "published")


@method("clusca", example="clusca:interval=4,clusters=3,share=0.1")
def clusca(
    interval: int,
    clusters: int = 16,
    share: float = 0.005,
    each: int = 1,
    order: int = 1,
    warmup: int = 1,
    last: int = 0,
    iterations: int = 10,
    correct: str = "forecast",
    frames: str = "together",
) -> Rule:
    """ClusCa: Taylor forecasts of attention and MLP, whose MLPs compute a token of each cluster to put the rest right.

    arXiv 2509.10312. ``clusters`` of K-means for each stream, ``each`` tokens of a cluster are computed, and the others
    take ``share`` of what those are. ``correct=published`` puts right the last computed feature and not its forecast,
    as the authors' code does; ``frames=each`` gives each frame of a video clusters of its own, as many. Published
    settings: ``clusca:published=…``. Several ranks cluster each its own tokens.
    """
    if frames not in FRAMES:
        raise ValueError(f"unknown frames {frames!r}: known are {', '.join(FRAMES)}")
    if correct not in CORRECTED:
        raise ValueError(f"unknown correct {correct!r}: known are {', '.join(CORRECTED)}")
    select = Clustered(clusters, share, each, iterations, correct == "published", frames == "each")
    policy = Partly(Interval(interval, warmup, last))
    return TokenRule(policy, Taylor(order), drop_before=warmup - 2, select=select, rows=("mlp",))
