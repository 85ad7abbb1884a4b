"""Something to turn: what the sliders draw, the face without a kernel, and no LLM or address."""

import re

import numpy as np
import pandas as pd
import pytest
from shown import FORBIDDEN

from rewrite_utils.calibrate import Target
from rewrite_utils.report import levers
from rewrite_utils.report.display import Html
from rewrite_utils.rewrite.estimates import Evidence
from rewrite_utils.simulate import Ratings

pytestmark = pytest.mark.usefixtures("drawing")
CHOICES = {"source": ["a", "b"], "count": [1, 2, 4]}


def drawn(source: str, count: int) -> Html:
    return Html(f"<p>{source}{count}</p>", f"{source} {count}")


def test_turning_a_slider_draws_what_it_says():
    turned = levers.Levers(drawn, CHOICES, {"source": "b", "count": 4})
    assert turned.shown.value == "<p>b4</p>" and repr(turned) == "b 4"
    turned.sliders[1].value = 2
    turned.sliders[0].value = "a"
    assert turned.shown.value == "<p>a2</p>" and repr(turned) == "a 2"
    assert [slider.description for slider in turned.sliders] == ["source", "count"]


def test_there_are_sliders_a_static_face_and_a_line_of_text(monkeypatch):
    seen = []
    monkeypatch.setattr(levers, "show", lambda piece, **how: seen.append((piece, how)))
    levers.Levers(drawn, CHOICES, {"source": "a", "count": 1})._ipython_display_()
    (live, _), (static, _) = seen
    assert live["text/plain"] == "a 1" and levers.WIDGET in live
    bundle = static._repr_mimebundle_()
    assert "<p>a1</p>" in bundle["text/html"] and "<details open>" in bundle["text/html"]
    assert bundle["text/plain"] == "a 1" and "0x" not in str(bundle)
    assert not FORBIDDEN.search(bundle["text/html"])


def test_a_start_that_is_no_choice_is_refused():
    with pytest.raises(ValueError, match=r"count cannot start at 3: it is one of \[1, 2, 4\]"):
        levers.Levers(drawn, CHOICES, {"source": "a", "count": 3})


@pytest.fixture
def evidence() -> Evidence:
    generator = np.random.default_rng(0)
    true = np.where(generator.random((40, 3)) < 0.4, generator.gamma(2.0, 1.0, (40, 3)), 0)
    true[:, 2] = 0
    expected = (3 + true + generator.normal(0, 0.3, true.shape)).astype(np.float16)
    digits = np.full((*true.shape, 10), 0.1, np.float16)
    told = Ratings(expected=expected, digits=digits, mass=np.ones(true.shape, np.float16))
    pairs = np.nonzero(true.T)
    target = Target.from_pairs(pairs[0], true.T[pairs], latents=3, total=40)
    return Evidence(told, true.astype(np.float32), target)


def test_the_map_of_one_latent_says_what_it_is_fitted_on_and_what_it_costs(evidence):
    there = {"ratings": evidence.ratings, "true": evidence.true}
    found = levers.quantile_map(evidence.first(20), "quantile:type7", 1, **there)
    fires = int((evidence.true[:20, 1] > 0).sum())
    estimate = evidence.first(20).calibrated("quantile:type7", evidence.ratings)[:, 1]
    error = np.square(evidence.true[:, 1] - estimate).mean()
    cost = error / np.square(evidence.true[:, 1] - evidence.target.mean[1]).mean()
    assert repr(found).strip() == (
        f"quantile:type7: fires in {fires} of 20 windows; squared error at 40 evaluate windows: "
        f"{cost:.2f} of mean ablation's"
    )
    assert re.match(r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+"><p>', found.markup)
    assert levers.quantile_map(evidence, "quantile:type1", 0, **there).markup == (
        levers.quantile_map(evidence, "quantile:type1", 0, **there).markup
    )
    assert "never fires" in repr(levers.quantile_map(evidence, "quantile:type8", 2, **there))


def test_the_cost_of_a_share_is_the_verdicts(evidence):
    rows = [("mean", 2, "top", 0.3), ("mean", 4, "all", 0.6), ("a", 2, "top", 0.4)]
    rows += [("a", 4, "all", 2.0), ("coder", 0, "all", 0.0), ("zero", 4, "all", 0.9)]
    table = pd.DataFrame(rows, columns=["source", "count", "order", "over_coder"])
    for name in ("over_coder", "minus_mean"):
        value = table["over_coder"]
        table = table.assign(**{name: value, f"{name}_low": value - 1, f"{name}_high": value + 1})
    table["windows"] = 9
    told = repr(levers.cost(table, "a", "top", 2, described=4)).strip()
    assert told == (
        "a, best scores first, 2 of 4 latents: CE − coder's +0.400 [-0.600, +1.400], "
        "− mean ablation's +0.400 [-0.600, +1.400] nat (n = 9 windows)"
    )
    assert "4 of 4 latents: CE − coder's +2.000" in repr(
        levers.cost(table, "a", "random", 4, described=4)
    )
    assert repr(levers.cost(table, "a", "random", 2, described=4)).endswith("not measured")
