"""Calibration: from the simulator's expected digits to activations, behind one protocol.

``calibrator("centred+isotonic_pooled").fit(predicted, true) -> transform``;
``transform(predicted)``. Quantile normalisation (the paper's equation, nine estimators),
conditional means, parametric ones, digit corrections; cross-fitting and losses in latent space.
"""

from rewrite_utils.calibrate.judge import Losses, correlations, cross_fit, losses, mismatch
from rewrite_utils.calibrate.names import calibrator
from rewrite_utils.calibrate.protocol import CalibrationError, Calibrator, Transform
from rewrite_utils.calibrate.quantile import ESTIMATORS, Quantile, QuantileTransform
from rewrite_utils.calibrate.steps import center
from rewrite_utils.calibrate.target import Target
