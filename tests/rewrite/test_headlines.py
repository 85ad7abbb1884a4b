"""The words of headlines on tables made by hand: which n stands beside which number."""

import numpy as np
import pandas as pd
import pytest

from rewrite_utils import calibrate
from rewrite_utils.report import ratings, studies, verdicts
from rewrite_utils.report.ratings import centred_ranks
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.stats import Estimate


def rates(sensitivity: list[float]) -> pd.DataFrame:
    table = pd.DataFrame({"sensitivity": sensitivity, "specificity": 0.9})
    return table.assign(site="early", source="raw", latent=np.arange(len(table)))


def test_rates_are_named_before_the_top_k():
    table = rates([1.0, 0.5]).assign(source="raw+topk")
    told = ratings.headline(table, ["raw+topk"], seed=0)
    assert told.startswith("early, raw: specificity") and "top" not in told
    assert ratings.means(table)["source"].tolist() == ["raw"]


def test_sensitivity_has_the_n_of_the_latents_that_fire():
    """Pythia's report once said "sensitivity 1.00 (n = 8 latents)" where one of eight fired."""
    told = ratings.headline(rates([1.0, np.nan, np.nan]), ["raw"], seed=0)
    assert told.endswith("sensitivity 1.00 (n = 3 latents, sensitivity: n = 1)")
    told = ratings.headline(rates([1.0, 1.0, 0.5]), ["raw"], seed=0)
    assert told.endswith("(n = 3 latents)")
    told = ratings.headline(rates([np.nan, np.nan]), ["raw"], seed=0)
    assert "sensitivity not measurable (n = 2 latents, sensitivity: n = 0)" in told


def final(range_low: float) -> pd.DataFrame:
    names = ("delta", "minus_mean", "minus_zero", "recovered", "kl", "fvu")
    ends = {f"{name}{end}": 0.5 for name in names for end in ("", "_low", "_high")}
    row = {"site": "late", "source": "raw", "windows": 8, "detectable": 0.1, "method": "BCa"}
    return pd.DataFrame([row | ends | {"range_low": range_low}])


def test_no_share_is_recovered_of_a_range_that_is_not_there():
    """Once "-1.984 [-32.429, +30.450]" of a range of +0.05 [-0.02, +0.15] nat."""
    assert verdicts.shown(final(0.01))["CE recovered"].tolist() == ["+0.500 [+0.500, +0.500]"]
    for low in (-0.02, 0.0, np.nan):
        assert verdicts.shown(final(low))["CE recovered"].tolist() == ["–"]


def test_the_range_is_mean_ablation_over_the_coder():
    rows = [(s, 4, "all", low) for s, low in (("mean", 0.3), ("zero", 0.7), ("raw", 0.1))]
    rows.append(("coder", 0, "all", 0.0))
    verdict = pd.DataFrame(rows, columns=["source", "count", "order", "over_coder_low"])
    found = verdicts.final({"a": verdict})
    assert found["source"].tolist() == ["zero", "raw"] and set(found["range_low"]) == {0.3}


def useful(f1: list[float]) -> pd.DataFrame:
    rank = np.arange(len(f1))
    return pd.DataFrame({"usefulness": rank / 10, "f1": f1, "share": (4.0 - rank) / 10})


def test_a_correlation_has_the_n_of_its_own_pairs():
    """A latent that could not be scored has usefulness and no F1: it was counted all the same."""
    told = verdicts.agreement(useful([0.1, 0.2, 0.3, np.nan]), seed=0)
    assert "detection F1 +1.00" in told and told.count("(n = 3 latents)") == 1
    assert "share of the output -1.00" in told and told.endswith("(n = 4 latents)")
    told = verdicts.agreement(useful([np.nan] * 4), seed=0)
    assert "detection F1 not measurable (n = 0 latents)" in told


def test_a_pair_that_was_not_sent_moves_no_windows_mean():
    """The last window has one sent pair: its gaps, at -1, once pulled its mean down."""
    rating = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 3.0], [-1.0, 5.0, -1.0]])
    active = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    found = centred_ranks(rating)
    assert (found[2, [0, 2]] < found[rating >= 0].min()).all()
    np.testing.assert_allclose(found[2, 1], rating[rating >= 0].mean(), rtol=1e-6)
    assert auroc_value(active, found) == 1.0
    whole = np.maximum(rating, 0)
    np.testing.assert_array_equal(centred_ranks(whole), calibrate.center(whole))


def test_ratings_with_gaps_are_described_by_those_that_are_there():
    told = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, np.nan]], np.float16)
    row = ratings.spread(told, np.array([[0.0, 9.0, 1.0], [0, 0, 9]]))
    assert (row["ratings"], row["least"], row["median"], row["largest"]) == (4, 1, 3.5, 5)
    assert row["silent pairs"] == 0.75 and np.isnan(row["the rest"])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1.5, "cost what mean ablation does at 1.50 [0.00, 2.95] alarms"),
        (0.0, "cost more than mean ablation at every level measured, break-even [0.00, 2.95]"),
        (np.inf, "cost less than mean ablation at every level measured, break-even [0.00, 2.95]"),
    ],
)
def test_no_break_even_is_not_a_break_even_at_no_alarms(value, says):
    """0 stands for "dearer at every level": once told as "at 0.00 alarms a true activation"."""
    found = Estimate(value, 0.0, 2.95, 16, "window", "percentile")
    told = studies.break_even_line("late", found)
    assert says in told and told.endswith("(n = 16 windows)")
