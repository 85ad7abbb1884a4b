"""Several layers at once: which sets there are, what stands in each, and whether errors add up."""

import numpy as np
import pandas as pd
import pytest
import torch
from stage_cases import made

from rewrite_utils.latents.cache import Windows
from rewrite_utils.latents.windows import draw_windows
from rewrite_utils.params import ParameterError
from rewrite_utils.report import coders, figures, verdicts
from rewrite_utils.rewrite import at_once
from rewrite_utils.rewrite.estimates import without_llm
from rewrite_utils.site import losses_at_once, open_sites
from rewrite_utils.subject.splice import GivenLatents, Spot, TrueLatents, spliced_at_once

ONE = pytest.mark.parametrize("architecture", ["neox"], indirect=True, scope="session")
pytestmark = [pytest.mark.usefixtures("architecture"), ONE]


@pytest.fixture(scope="module")
def both(world):
    """The run with its two sites spliced together too."""
    return world.again(studies__layers_at_once=True)


@pytest.fixture(scope="module")
def losses(both) -> pd.DataFrame:
    return losses_at_once(open_sites(both))


def test_every_place_alone_and_then_ever_more_of_them():
    assert at_once.sets(["a", "b", "c"]) == [("a",), ("b",), ("c",), ("a", "b"), ("a", "b", "c")]
    assert at_once.sets(["a"]) == [("a",)]


def test_it_is_one_stage_of_the_run_and_changes_no_other(world, both, losses):
    since = len(world.run.journal)
    again = losses_at_once(open_sites(both))
    assert again.equals(losses) and made(world.run, since) == set()
    assert set(losses["places"]) == {"mlp", "sae", "mlp+sae"}
    assert set(losses["source"]) == set(at_once.SOURCES)
    assert len(losses) == 9 * 3 * len(at_once.SOURCES)


@torch.no_grad()
def test_an_arm_is_its_sources_spliced_at_all_its_places(both, losses):
    """Brute force at two windows: the row cut behind the position, both places by hand."""
    sites = open_sites(both)
    site = sites["mlp"]
    tokens, base = site.cache("evaluate").tokens, losses["base_loss"]
    for window in (0, 7):
        told = losses[losses["window"] == window].set_index(["places", "source"])
        end, row = found_window(both, sites, window)
        cut, target = torch.from_numpy(tokens[row][None, : end + 1]), int(tokens[row, end + 1])
        for source in ("coder", "word list", "mean"):
            spots = [spot_of(s, source, row, end) for s in sites.values()]
            with spliced_at_once(site.subject, spots, positions="last"):
                logits = site.subject.bridge(cut)[0, -1]
            expected = -logits.log_softmax(-1)[target].item()
            assert told.loc[("mlp+sae", source), "loss"] == pytest.approx(expected, abs=5e-4)
    assert np.isfinite(base).all()


def found_window(run, sites, window: int) -> tuple[int, int]:
    first, last = run.params.rated_positions
    drawn = draw_windows(
        sites["mlp"].cache("evaluate").measured,
        9,
        first=first,
        last=last,
        generator=np.random.default_rng([run.params.seed, 11]),
    )
    return int(drawn.ends[window]), int(drawn.rows[window])


def spot_of(site, source: str, row: int, end: int) -> Spot:
    if source == "coder":
        return Spot(site.hookpoint, site.coder, [TrueLatents()])
    window = Windows(np.array([row]), np.array([end]))
    latents = np.arange(site.coder.config.num_latents)
    caches = site.cache("explain"), site.cache("calibrate"), window, site.cache("evaluate")
    values = torch.from_numpy(without_llm(*caches, latents)[source])
    return Spot(site.hookpoint, site.coder, [GivenLatents(values)])


def table_of(effects: dict[str, float], extra: float) -> pd.DataFrame:
    """Losses of places a and b whose mean ablation costs twice as much as anything else."""
    generator = np.random.default_rng(0)
    rows = []
    for window in range(30):
        base = generator.gamma(2.0)
        for places in ("a", "b", "a+b"):
            for source in at_once.SOURCES:
                cost = sum(effects[place] for place in places.split("+"))
                cost = cost * (2 if source == "mean" else 1) + extra * (places == "a+b")
                noise = generator.normal(0, 0.01)
                rows.append((window, places, source, base, base + cost + noise))
    columns = ["window", "places", "source", "base_loss", "loss"]
    return pd.DataFrame(rows, columns=columns)


def test_errors_that_add_up_and_errors_that_compound():
    for extra in (0.0, 0.4):
        table = at_once.judged(table_of({"a": 0.3, "b": 0.5}, extra), seed=0)
        row = table.set_index(["places", "source"]).loc[("a+b", "word list")]
        assert row["delta"] == pytest.approx(0.8 + extra, abs=0.02)
        assert row["parts"] == pytest.approx(0.8, abs=0.02)
        assert row["over_sum"] == pytest.approx(extra, abs=0.02)
        assert row["minus_mean"] == pytest.approx(-0.8, abs=0.02)
        assert (row["over_sum_low"] > 0.1) == (extra > 0) and row["windows"] == 30
        alone = table[table["count"] == 1]
        assert (alone["over_sum"] == 0).all()


def test_two_sites_at_one_layer_are_refused(world):
    run = world.again(studies__layers_at_once=True, sites__sae__hookpoint="layers.0")
    with pytest.raises(ParameterError, match=r"the layers are mlp 0, sae 0: remove sites"):
        losses_at_once(open_sites(run))


def test_the_table_has_a_row_a_layer_and_source(losses):
    table = at_once.judged(losses, seed=0, resamples=100)
    shown = verdicts.layers(verdicts.growing(table, ["mlp", "sae"]))
    assert shown["added"].tolist() == ["mlp"] * len(at_once.SOURCES) + ["sae"] * len(
        at_once.SOURCES
    )
    assert figures.label("word list") in set(shown["source"]) and set(shown["windows"]) == {9}
    assert shown["ΔCE"].str.contains(" [", regex=False).all()


@pytest.mark.usefixtures("drawing")
def test_lines_are_by_the_number_of_layers_and_the_sums_dotted():
    table = at_once.judged(table_of({"a": 0.3, "b": 0.5}, 0.4), seed=0)
    together = verdicts.growing(table, ["a", "b"])
    assert together["places"].unique().tolist() == ["a", "a+b"]
    axes = figures.panels(1)[1][0]
    coders.layers_at_once(axes, together, value="delta", parts=True)
    lines = {str(line.get_label()): line for line in axes.lines}
    drawn = lines[figures.label("word list")]
    assert np.asarray(drawn.get_xdata()).tolist() == [1, 2]
    np.testing.assert_allclose(np.asarray(drawn.get_ydata()), [0.3, 1.2], atol=0.02)
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    np.testing.assert_allclose(np.asarray(dotted[-1].get_ydata()), [0.3, 0.8], atol=0.02)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1\n+a", "2\n+b"]
