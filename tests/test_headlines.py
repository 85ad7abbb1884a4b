"""The words of headlines on tables made by hand: which n stands beside which number."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from rewrite_utils import report


def run_of(first: str, headline: str) -> SimpleNamespace:
    rewrite = SimpleNamespace(calibrators=(first,), headline=headline)
    return SimpleNamespace(params=SimpleNamespace(rewrite=rewrite, seed=0))


def rates(sensitivity: list[float]) -> pd.DataFrame:
    table = pd.DataFrame({"sensitivity": sensitivity, "specificity": 0.9})
    return table.assign(site="early", source="raw", latent=np.arange(len(table)))


def test_rates_are_named_before_the_top_k():
    table = rates([1.0, 0.5]).assign(source="raw+topk")
    told = report.specificity_headline(run_of("raw+topk", "raw+topk"), table)
    assert told.startswith("early, raw: specificity") and "top" not in told
    assert report.rates_by_source(table)["source"].tolist() == ["raw"]


def test_sensitivity_has_the_n_of_the_latents_that_fire():
    """Pythia's report once said "sensitivity 1.00 (n = 8 latents)" where one of eight fired."""
    told = report.specificity_headline(run_of("raw", "raw"), rates([1.0, np.nan, np.nan]))
    assert told.endswith("sensitivity 1.00 (n = 3 latents, sensitivity: n = 1)")
    told = report.specificity_headline(run_of("raw", "raw"), rates([1.0, 1.0, 0.5]))
    assert told.endswith("(n = 3 latents)")
    told = report.specificity_headline(run_of("raw", "raw"), rates([np.nan, np.nan]))
    assert "sensitivity not measurable (n = 2 latents, sensitivity: n = 0)" in told
