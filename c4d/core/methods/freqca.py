from c4d.core.caching.feature_forecasters import FrequencySplit
from c4d.core.caching.method import method
from c4d.core.caching.policies import Interval
from c4d.core.caching.rules import BlocksRule, Rule


@method("freqca", example="freqca:interval=6")
def freqca(interval: int, order: int = 2, warmup: int = 3, cutoff: float = 0.1, scale: float = 0.71) -> Rule:
    """FreqCa: of the hidden state after the last block the slow part is kept, and the rest forecast by Hermite.

    arXiv 2510.08669; published for FLUX and Qwen-Image with interval 6 or 9 and these defaults (schnell: interval 2).
    The bands are cosines over the model's own grid of tokens, of any shape; published are a square one (FLUX) and the
    sequence in a row (Qwen-Image).
    """
    return BlocksRule(
        Interval(interval, warmup), FrequencySplit(cutoff, order, scale), residual=False, drop_before=warmup - 2
    )
