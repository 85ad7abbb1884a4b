"""One window through the whole experiment: the numbers are the run's own."""

import numpy as np
import pandas as pd
import pytest

from rewrite_utils.report.pipeline import SILENT, chosen, pipeline
from rewrite_utils.rewrite.example import BEFORE, LIKELIEST, typical


def test_the_example_has_the_run_s_own_numbers(site):
    found, headline = site.example, site.params.rewrite.headline
    at = typical(site.losses, headline, (site.true("evaluate") > 0).any(1))
    windows, tokens = site.simulated_windows("evaluate"), site.cache("evaluate").tokens
    row, end = int(windows.rows[at]), int(windows.ends[at])
    texts = site.texts(tokens[row])
    assert (
        found.texts == texts[max(1, end - BEFORE) : end + 1] and found.following == texts[end + 1]
    )
    np.testing.assert_allclose(found.latents["true"], site.true("evaluate")[at])
    assert found.latents["latent"].tolist() == list(site.simulated)
    assert found.said["speaker"].unique().tolist() == ["untouched", "coder", headline, "mean"]
    stored = site.losses.query("window == @at and order == 'all'").set_index("source")
    follows = found.said[found.said["follows"]].set_index("speaker")["chance"]
    assert len(follows) == 4 and (found.said.groupby("speaker").size() >= LIKELIEST).all()
    for speaker in ("coder", headline, "mean"):
        assert -np.log(follows[speaker]) == pytest.approx(stored["loss"][speaker], abs=1e-4)
    assert -np.log(follows["untouched"]) == pytest.approx(stored["base_loss"]["mean"], abs=1e-4)


def test_a_typical_window_gains_what_all_gain_where_the_model_expects_the_token():
    chances = np.array([0.5, 0.5, 0.5, 0.01])
    gains = np.array([0.0, 1.2, 4.0, 1.3])
    parts = {"mean": 0 * gains, "sentences": -gains}
    losses = pd.concat(
        pd.DataFrame({"window": range(4), "source": name, "loss": loss, "order": "all",
                      "base_loss": -np.log(chances)})
        for name, loss in parts.items()
    )  # fmt: skip
    fires = np.ones(4, bool)
    assert typical(losses, "sentences", fires) == 1
    assert typical(losses.assign(base_loss=9.0), "sentences", fires) == 3
    assert typical(losses, "sentences", np.array([True, False, True, True])) == 0, "1 is silent"
    assert typical(losses, "sentences", np.array([False, False, False, True])) == 3
    assert typical(losses, "sentences", ~fires) == 3, "of all, where none fires"


@pytest.mark.usefixtures("drawing")
def test_the_picture_shows_token_latents_sentences_predictions_and_next_words(site):
    found = site.example
    figure = pipeline(*found, layer="layers.0.mlp")
    shown = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert f"“{found.texts[-1]}”" in shown and "the model itself" in shown
    rows, count = chosen(found.latents), int((found.latents["true"] > 0).sum())
    assert (np.diff(rows["true"][:count]) <= 0).all() and len(rows) <= count + SILENT
    for sentence in rows["sentence"]:
        assert any(sentence[:12] in text.replace("\n", " ") for text in shown)
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == [f"latent {one}" for one in rows["latent"]]
    titles = " ".join(axes.get_title(loc="left") for axes in figure.axes)
    assert f"{count} of {len(found.latents)} fire" in titles


@pytest.mark.usefixtures("drawing")
def test_a_token_on_which_nothing_fires_is_drawn(site):
    found = site.example
    silent = found.latents.assign(true=0.0, predicted=0.0, sentence="<b>$a_1^$" + "x" * 300)
    figure = pipeline(["$x_^$", "\n"], "$", silent, found.said, layer="layers.0.mlp")
    figure.canvas.draw()
    assert "0 of" in figure.axes[1].get_title(loc="left")
