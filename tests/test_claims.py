"""A claim cannot outrun its data: numbers of the README are found in the figures' tables."""

import re

import pandas as pd
import pytest

from rewrite_utils.params import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = {
    "sentences, raw ratings, then top k": "raw+topk",
    "sentences, quantile normalisation, top k (the paper's, v1)": "quantile:type7+topk",
    "the same, matched on the rated windows (v2)": "same_windows+quantile:type7+topk",
    "**sentences, levelled ratings, one logistic curve (declared)**": (
        "centred+standardised+logistic_pooled"
    ),
    "word list: is the token among the latent's top eight? (no LLM)": "word list",
    "token table: mean activation given the token (no LLM)": "token table",
}
"""What the table calls each arm, and its name in figures/07_verdict.csv."""
NUMBERS = re.compile(r"([+−]?\d+\.\d+) \[([+−]?\d+\.\d+), ([+−]?\d+\.\d+)\]")


def numbers(text: str) -> list[float]:
    """A value and the ends of its interval, as the README prints them."""
    found = NUMBERS.search(text)
    assert found, text
    return [float(part.replace("−", "-")) for part in found.groups()]


@pytest.fixture(scope="module")
def verdict() -> pd.DataFrame:
    return pd.read_csv(ROOT / "figures" / "07_verdict.csv").set_index("source")


def test_every_row_of_the_readmes_table_is_what_figure_7_shows(verdict):
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", README, flags=re.MULTILINE))
    for said, source in SOURCES.items():
        row = verdict.loc[source]
        shown = [row[f"minus_mean{end}"] for end in ("", "_low", "_high")]
        assert numbers(rows[said]) == pytest.approx(shown, abs=0.0051), said


def test_the_shares_and_costs_in_the_readme_are_the_runs(verdict):
    headline = verdict.loc["centred+standardised+logistic_pooled"]
    low, high = headline["recovered_low"], headline["recovered_high"]
    said = f"{headline['recovered']:.0%} [{low * 100:.0f}, {high * 100:.0f}]".replace("%", " %")
    assert f"{said} of the coder's range" in README
    bars = pd.read_csv(ROOT / "figures" / "07_bars.csv").set_index("source")
    coder = bars.loc["coder", "delta"]
    assert f"the coder itself costs {coder:+.2f} nat" in README
    assert f"n = {int(headline['windows'])} windows" in README


def test_the_detection_score_in_the_readme_is_the_reports():
    report = (ROOT / "figures" / "report.md").read_text(encoding="utf-8")
    found = re.search(r"detection AUROC 0(\.\d+) \[0(\.\d+), 0(\.\d+)\]", report)
    assert (
        found
        and "Detection AUROC of the sentences is {} [{}, {}]".format(*found.groups()) in README
    )
