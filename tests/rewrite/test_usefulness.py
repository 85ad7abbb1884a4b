"""Usefulness: one latent replaced at a time, at windows it is not judged on; what it puts first."""

import numpy as np
import pandas as pd
import pytest
import torch
from stage_cases import SITES, finish, made

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.stage import Drawn
from rewrite_utils.report import verdicts
from rewrite_utils.rewrite.stage import judged
from rewrite_utils.rewrite.usefulness import MEAN, PREDICTED, TRUTH, usefulness
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.splice import GivenLatents, TrueLatents, hooked, spliced

ORDERS = ["top", "random", "useful"]
ONE = pytest.mark.parametrize("architecture", ["neox"], indirect=True, scope="session")
pytestmark = [pytest.mark.usefixtures("architecture"), ONE]


@pytest.fixture(scope="module")
def ordered(world) -> dict[str, SiteStages]:
    """The same run with the third order."""
    return open_sites(world.again(rewrite__orders=ORDERS))


def test_it_is_measured_only_where_an_order_asks_for_it(world, ordered):
    assert all(set(site.rankings) == {"top"} for site in world.sites.values())
    since = len(world.run.journal)
    finish(ordered)
    stages = {f"{stage}.{name}" for stage in ("07_usefulness", "07_rewrite") for name in SITES}
    assert made(world.run, since) == stages


@torch.no_grad()
def test_each_arm_is_one_latent_overwritten_at_a_calibrate_window(ordered):
    """Brute force: the row cut behind the window's end, one column of the true latents changed."""
    for site in ordered.values():
        losses = pd.read_parquet(site.usefulness_stage / "losses.parquet")
        windows, rows = site.simulated_windows("calibrate"), site.corpus.rows("calibrate")
        headline, seed = site.params.rewrite.headline, site.params.seed
        held = site.evidence.held_out(headline, windows.rows, seed=seed)
        mean = site.cache("calibrate").mean
        assert sorted(set(losses["window"])) == list(range(9))
        for window, place, arm in (
            (0, 0, PREDICTED),
            (4, 1, MEAN),
            (8, 3, PREDICTED),
            (2, 2, TRUTH),
        ):
            latent = site.simulated[place]
            wide, which = torch.zeros(12), torch.zeros(12, dtype=torch.bool)
            which[latent] = True
            wide[latent] = float(held[window, place] if arm == PREDICTED else mean[latent])
            source = TrueLatents() if arm == TRUTH else GivenLatents(wide, which)
            row, end = rows[windows.rows[window]], int(windows.ends[window])
            with spliced(site.subject, site.coder, site.hookpoint, source, positions="last"):
                logits = site.subject.bridge(row[None, : end + 1])[0, -1]
            told = losses[(losses["window"] == window) & (losses["latent"] == latent)]
            expected = -logits.log_softmax(-1)[row[end + 1]].item()
            assert told.set_index("arm").loc[arm, "loss"] == pytest.approx(expected, abs=2e-4)


def test_a_prediction_that_costs_less_than_the_mean_is_useful():
    generator = np.random.default_rng(0)
    rows = [
        {"window": window, "latent": latent, "arm": arm, "loss": loss + generator.normal(0, 0.01)}
        for window in range(40)
        for latent, losses in ((7, (2.0, 1.5, 1.0)), (3, (2.0, 2.3, 1.9)))
        for arm, loss in zip((MEAN, PREDICTED, TRUTH), losses, strict=True)
    ]
    table = usefulness(pd.DataFrame(rows), seed=0).set_index("latent")
    assert table.loc[7, "usefulness"] == pytest.approx(0.5, abs=0.02)
    assert table.loc[3, "usefulness"] == pytest.approx(-0.3, abs=0.02)
    assert table.loc[7, "at_stake"] == pytest.approx(1.0, abs=0.02)
    assert (table["usefulness_low"] < table["usefulness"]).all() and set(table["windows"]) == {40}


@torch.no_grad()
def test_the_most_useful_latents_go_first(ordered):
    """The squared error of the arm that puts one latent at its mean, computed by hand."""
    for site in ordered.values():
        useful = site.usefulness.set_index("latent")["usefulness"]
        assert site.rankings["useful"].tolist() == [useful[latent] for latent in site.simulated]
        best = useful.reindex(site.simulated).idxmax()
        windows = site.windows("evaluate")
        acts = hooked(site.subject, site.corpus.rows("evaluate"), site.hookpoint)
        x, y = (part[windows.rows, windows.ends] for part in acts)
        z = site.coder.dense(site.coder.encode(x))
        z[:, best] = float(site.cache("calibrate").mean[best])
        expected = (y - site.coder.decode_dense(z, x)).square().sum(-1).numpy()
        arm = site.losses[(site.losses["order"] == "useful") & (site.losses["source"] == "mean")]
        found = arm[arm["count"] == 1].sort_values("window")["squared_error"]
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_table_says_who_is_useful_and_no_latent_twice(ordered):
    for site in ordered.values():
        latents = site.usefulness["latent"]
        told = site.usefulness.assign(f1=0.5, share=0.1, sentence=latents.map(site.sentences))
        best = told.sort_values("usefulness", ascending=False).iloc[0]
        table = verdicts.ends(told, each=1)
        assert table["CE won"].iloc[0].startswith(f"{best['usefulness']:+.3f} [")
        assert table["latent"].is_unique and len(table) == min(2, len(told))
        whole = verdicts.ends(told, each=len(told))
        assert sorted(whole["latent"]) == sorted(latents) and whole["sentence"].notna().all()
        said = verdicts.agreement(told, seed=0)
        assert f"(n = {len(site.simulated)} latents)" in said


def test_windows_of_one_row_are_one_unit(ordered):
    site = ordered["mlp"]
    losses = pd.read_parquet(site.usefulness_stage / "losses.parquet")
    rows = np.arange(9) // 3
    apart, together = (usefulness(losses, seed=1, resamples=50, units=u) for u in (None, rows))
    assert together["usefulness"].equals(apart["usefulness"])
    assert not together["usefulness_low"].equals(apart["usefulness_low"])

    class Shared(Drawn):
        def __call__(self, split):
            return Windows(rows, rows)

    shared = Shared(cache=site.cache, settings=site.settings, params=site.params)
    judge = judged(output_variance=1.0, windows=shared, params=site.params)
    assert set(judge(site.losses[site.losses["window"] < 9])["rows"]) == {3, 2}
    assert "rows" not in site.verdict
