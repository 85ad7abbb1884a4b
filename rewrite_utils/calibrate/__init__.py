"""Calibration: from the simulator's expected digits to activations, behind one protocol.

``calibrator("centred+isotonic_pooled").fit(predicted, true) -> transform``;
``transform(predicted)``. Quantile normalisation (the paper's equation, nine estimators),
conditional means, parametric ones, digit corrections; cross-fitting and losses in latent space;
``stream`` for arrays larger than memory.
"""

from rewrite_utils.calibrate.bounds import Capped
from rewrite_utils.calibrate.digits import PriorShift, Temperature
from rewrite_utils.calibrate.isotonic import Isotonic, IsotonicPooled, IsotonicShrunk, TwoPart
from rewrite_utils.calibrate.judge import (
    Correlation,
    Losses,
    Mismatch,
    correlation_condition,
    correlations,
    cross_fit,
    in_sample,
    losses,
    mismatch,
)
from rewrite_utils.calibrate.names import CALIBRATORS, STEPS, calibrator
from rewrite_utils.calibrate.parametric import GlobalShrink, LogisticPooled, Mean, Raw, at_factor
from rewrite_utils.calibrate.protocol import CalibrationError, Calibrator, Transform
from rewrite_utils.calibrate.quantile import ESTIMATORS, Quantile, QuantileTransform
from rewrite_utils.calibrate.saving import from_arrays, read, to_arrays, write
from rewrite_utils.calibrate.steps import Centred, SameWindows, Standardised, center
from rewrite_utils.calibrate.stream import stream
from rewrite_utils.calibrate.target import Target

__all__ = [
    "CALIBRATORS",
    "ESTIMATORS",
    "STEPS",
    "CalibrationError",
    "Calibrator",
    "Capped",
    "Centred",
    "Correlation",
    "GlobalShrink",
    "Isotonic",
    "IsotonicPooled",
    "IsotonicShrunk",
    "LogisticPooled",
    "Losses",
    "Mean",
    "Mismatch",
    "PriorShift",
    "Quantile",
    "QuantileTransform",
    "Raw",
    "SameWindows",
    "Standardised",
    "Target",
    "Temperature",
    "Transform",
    "TwoPart",
    "at_factor",
    "calibrator",
    "center",
    "correlation_condition",
    "correlations",
    "cross_fit",
    "from_arrays",
    "in_sample",
    "losses",
    "mismatch",
    "read",
    "stream",
    "to_arrays",
    "write",
]
