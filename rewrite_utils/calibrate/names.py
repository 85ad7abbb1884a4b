"""Calibrators by name, as in params/*.yaml: ``centred+isotonic_pooled``, ``quantile:type8``.

Steps stand in front, joined by "+"; the last part is the calibrator. ``quantile`` takes its
estimators after ":", one for both sides (``quantile:type7``) or source/target
(``quantile:type8/type1``). F_true comes from every token of the calibrate rows, as in v1; behind
``same_windows`` from the rated windows alone, as in v2.
"""

from collections.abc import Callable

from rewrite_utils.calibrate.curves import Mean, Raw
from rewrite_utils.calibrate.isotonic import Isotonic, IsotonicPooled, IsotonicShrunk, TwoPart
from rewrite_utils.calibrate.parametric import LogisticPooled, PriorShift, Temperature
from rewrite_utils.calibrate.protocol import Calibrator, unknown
from rewrite_utils.calibrate.quantile import Quantile
from rewrite_utils.calibrate.steps import Capped, Centred, GlobalShrink, SameWindows, Standardised

CALIBRATORS: dict[str, Callable[[], Calibrator]] = {
    "raw": Raw,
    "mean": Mean,
    "quantile": Quantile,
    "isotonic": Isotonic,
    "isotonic_pooled": IsotonicPooled,
    "isotonic_shrunk": IsotonicShrunk,
    "two_part": TwoPart,
    "logistic_pooled": LogisticPooled,
    "prior_shift": PriorShift,
    "temperature": Temperature,
}
STEPS: dict[str, Callable[[Calibrator], Calibrator]] = {
    "centred": Centred,
    "standardised": Standardised,
    "same_windows": SameWindows,
    "global_shrink": GlobalShrink,
    "capped": Capped,
}
ON_RATINGS = ("centred", "standardised")
"""Steps that change E; the others change what a calibrator makes of it."""


def calibrator(name: str) -> Calibrator:
    """The calibrator of this name; ``global_shrink`` alone shrinks quantile normalisation.

    Raises KeyError naming the closest known part, and ValueError for a step that would do nothing.
    """
    *steps, last = name.split("+")
    made = GlobalShrink(Quantile()) if last == "global_shrink" else _last(last)
    for step in reversed(steps):
        if step not in STEPS:
            raise unknown(step, "step", STEPS)
        if made.reads_digits and step in ON_RATINGS:
            raise ValueError(f"{name!r}: {last} reads the digits, not E; {step} would do nothing")
        made = STEPS[step](made)
    return made


def _last(part: str) -> Calibrator:
    kind, _, methods = part.partition(":")
    if kind not in CALIBRATORS:
        raise unknown(kind, "calibrator", CALIBRATORS)
    if not methods:
        return CALIBRATORS[kind]()
    if kind != "quantile":
        raise KeyError(f"{part!r}: only quantile takes an estimator after ':'")
    source, _, target = methods.partition("/")
    return Quantile(source, target or source)
