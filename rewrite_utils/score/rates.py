"""How well a score tells firing windows from silent ones: AUROC, and shares of windows.

In: which windows fire, a score of each; or counts. Out: values with 95 % intervals, windows being
the unit. Paper §4.
"""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import stats

from rewrite_utils.stats import NAN, Numbers


def wilson(hits: float | int, n: int) -> tuple[float, float, float]:
    """A share p with its 95 % Wilson interval, (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n);
    NaN where nothing was counted. ``hits`` need not be whole: ties count in part."""
    if n == 0:
        return NAN, NAN, NAN
    p, z = hits / n, float(stats.norm.ppf(0.975))
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * half) / (1 + z**2 / n) for side in (-1, 1))
    return p, max(0.0, float(low)), min(1.0, float(high))


def auroc_value(active: Bool[ndarray, "*pair"], score: Float[ndarray, "*pair"]) -> float:
    """P(an active one scores above a silent one), ties half; NaN without both kinds."""
    if active.all() or not active.any():
        return NAN
    active = active.ravel()
    ranks, n = stats.rankdata(score.ravel()), int(active.sum())
    return float((ranks[active].sum() - n * (n + 1) / 2) / (n * (len(active) - n)))


def auroc(
    active: Bool[ndarray, " number"], score: Numbers, *, seed: int, resamples: int = 1000
) -> tuple[float, float, float]:
    """AUROC with its 95 % percentile interval; windows redrawn within firing and silent ones.

    NaN where all windows fire or none does. With very few firing windows the interval is too
    narrow: it cannot know the windows that were not drawn.
    """
    if active.all() or not active.any():
        return NAN, NAN, NAN
    above = np.subtract.outer(score[active], score[~active])
    table = (above > 0) + 0.5 * (above == 0)  # 1 where a firing window scores above a silent one
    generator = np.random.default_rng(seed)
    weights = [generator.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in table.shape]
    drawn = np.einsum("ra,ab,rb->r", weights[0], table, weights[1], optimize=True)
    return float(table.mean()), *map(float, np.percentile(drawn, [2.5, 97.5]))
