"""The cheap first pass: what it ranks, what it sends, and the bin of what it leaves out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latent_cases import cache_of, texts_of

from rewrite_utils.calibrate import CalibrationError, Target, calibrator
from rewrite_utils.calibrate.names import CALIBRATORS
from rewrite_utils.calibrate.screened import Screened, bin_mean
from rewrite_utils.explain.contrast import contrast_texts, contrast_tokens
from rewrite_utils.score.rates import auroc_value
from rewrite_utils.simulate import Window, screening
from rewrite_utils.simulate.judging import (
    by_place,
    compared,
    levelled,
    precision_at_rate,
    screening_curve,
)
from rewrite_utils.simulate.screening import embedded, lexical, most_plausible, plausibility

SENTENCES = ["conjunctions (and, or, but)", "bodies of water (lake, sea)", "full stops (.)"]
WINDOWS = [Window.of(["rowed over the", word]) for word in (" sea", " and", ".", " lakes", " But")]


def test_lexical_closeness_is_of_the_last_token_and_the_sentences_words():
    found = lexical(WINDOWS, SENTENCES)
    assert found.shape == (5, 3)
    assert found.argmax(1).tolist() == [1, 0, 2, 1, 0]
    assert found[0, 1] == found[1, 0] == found[2, 2] == found[4, 0] == 1.0
    assert found[3, 1] == pytest.approx(4 / 5)
    assert found[2, 0] == found[2, 1] == 0  # no word begins with a full stop


@pytest.mark.assets
def test_embeddings_find_what_no_letter_says():
    windows = [Window.of([" across the", " ocean"]), Window.of([" she was", " happy"])]
    said = ["words for bodies of water", "feelings and moods"]
    assert embedded(windows, said).argmax(1).tolist() == [0, 1]
    assert plausibility(windows, said, by="both").argmax(0).tolist() == [0, 1]


@given(st.integers(1, 30), st.integers(1, 5), st.floats(0.01, 1), st.integers(0, 999))
def test_the_most_plausible_share_of_each_latents_windows_is_sent(windows, latents, share, seed):
    scores = np.random.default_rng(seed).integers(0, 4, (windows, latents)).astype(float)
    sent = most_plausible(scores, share=share)
    assert (sent.sum(0) == max(1, round(share * windows))).all()
    for column, chosen in zip(scores.T, sent.T, strict=True):
        if not chosen.all():
            assert column[chosen].min() >= column[~chosen].max()


# ── numbers about ratings ─────────────────────────────────────────────────────────────────────


@given(st.integers(0, 999))
def test_auroc_is_the_share_of_pairs_in_order(seed):
    dice = np.random.default_rng(seed)
    active, rating = dice.random((8, 5)) < 0.3, dice.integers(0, 5, (8, 5)).astype(float)
    if active.any() and not active.all():
        above = np.subtract.outer(rating[active], rating[~active])
        wins = (above > 0) + 0.5 * (above == 0)
        assert auroc_value(active, rating) == pytest.approx(wins.mean())
    else:
        assert np.isnan(auroc_value(active, rating))


def test_precision_at_the_firing_rate_counts_ties_by_their_mean():
    active = np.array([1, 0, 1, 0, 0, 0], bool)
    assert precision_at_rate(active, np.array([9.0, 8, 7, 1, 1, 1])) == 0.5
    assert precision_at_rate(active, np.array([9.0, 1, 8, 1, 1, 1])) == 1.0
    assert precision_at_rate(active, np.zeros(6)) == pytest.approx(2 / 6)
    assert precision_at_rate(active, np.array([9.0, 5, 5, 5, 5, 0])) == pytest.approx(5 / 8)
    assert np.isnan(precision_at_rate(np.zeros(3, bool), np.arange(3.0)))


def test_a_better_way_is_found_better_and_the_same_way_exactly_equal():
    dice = np.random.default_rng(0)
    true = np.where(dice.random((40, 6)) < 0.2, 1.0, 0.0)
    noise = dice.normal(size=true.shape)
    table = compared(
        true,
        {"plain": true + noise, "better": 3 * true + noise, "same": true + noise},
        base="plain",
        seed=0,
        resamples=60,
    ).set_index(["way", "statistic"])
    better = table.loc[("better", "AUROC")]
    assert better["minus plain"] > 0 and better["difference_low"] > 0
    same = table.loc["same"]
    assert (same[["minus plain", "difference_low", "difference_high"]] == 0).all(None)
    assert same["rank correlation with plain"].to_numpy() == pytest.approx(1.0)
    assert (table["windows"] == 40).all() and (table["active"] == int(true.sum())).all()


def test_levels_of_sentences_and_of_windows_change_nothing_once_levelled():
    dice = np.random.default_rng(3)
    active = dice.random((40, 6)) < 0.3
    rating = active + dice.normal(size=active.shape) / 2
    apart = rating + 20 * np.arange(6) + 7 * dice.normal(size=(40, 1))
    assert auroc_value(active, levelled(apart)) == pytest.approx(
        auroc_value(active, levelled(rating))
    )
    assert auroc_value(active, levelled(rating)) > 0.8 > auroc_value(active, apart) + 0.2


def test_the_curve_ends_at_the_ratings_themselves_and_a_perfect_screen_costs_nothing():
    dice = np.random.default_rng(1)
    true = np.where(dice.random((50, 4)) < 0.1, 1.0, 0.0)
    expected = true + dice.normal(size=true.shape) / 2 + 2
    shares = (0.2, 0.5, 1.0)
    for screen, at_fifth in ((true + 0.0, 1.0), (-true, None)):
        sent = {share: most_plausible(screen, share=share) for share in shares}
        curve = screening_curve(true, expected, sent, seed=0, resamples=20)
        rows = curve.set_index(["statistic", "share"])["value"]
        assert rows["AUROC", 1.0] == pytest.approx(auroc_value(true > 0, expected))
        assert rows["firings sent", 1.0] == 1
        if at_fifth:
            assert rows["firings sent", 0.2] == 1 and rows["AUROC", 0.2] >= rows["AUROC", 1.0]
        else:
            assert rows["firings sent", 0.2] < 0.2 and rows["AUROC", 0.2] < rows["AUROC", 1.0]
    assert (curve["sent"] == [share * 200 for share in shares for _ in range(3)]).all()


def test_a_cut_is_fixed_on_calibrate_windows_and_holds_at_every_other():
    """A quota would send the same share of a text in which nothing is plausible."""
    dice = np.random.default_rng(4)
    scores = {"calibrate": dice.random((40, 3)), "evaluate": dice.random((200, 3)) / 2}
    quota = screening.sent(scores, share=0.25, cut="each")
    cut = screening.sent(scores, share=0.25, cut="calibrate")
    assert (cut["calibrate"] == quota["calibrate"]).all()
    assert (quota["evaluate"].sum(0) == 50).all() and not cut["evaluate"].any()
    alone = {"calibrate": scores["calibrate"], "evaluate": scores["evaluate"][:1]}
    assert (
        screening.sent(alone, share=0.25, cut="calibrate")["evaluate"] == cut["evaluate"][0]
    ).all()


def test_of_equal_scores_a_cut_takes_all_or_none_whichever_is_nearer():
    scores = np.array([[1.0, 0.0], [0.5, 0.0], [0.5, 0.0], [0.0, 0.0]])
    assert screening.cuts(scores, share=0.25).tolist() == [1.0, np.nextafter(0, 1)]
    assert screening.cuts(scores, share=0.75).tolist() == [0.5, 0.0]
    assert (screening.cuts(scores, share=1.0) == 0).all()


def test_ranks_among_calibrate_windows_do_not_depend_on_the_other_windows():
    own, among = np.array([[3.0], [1.0], [1.0]]), np.array([[1.0], [2.0], [4.0]])
    assert screening._ranks(own, among).ravel().tolist() == [2.5, 1.0, 1.0]
    assert screening._ranks(own, own).ravel().tolist() == [3.0, 1.5, 1.5]


def test_places_of_the_window_are_judged_apart():
    true = np.zeros((6, 2, 8))
    true[:, 0, ::2] = 1
    good = true.copy()
    good[..., 4:] = 1 - good[..., 4:]
    table = by_place(true, good, seed=0, resamples=30)
    told = table[table["statistic"] == "AUROC"]
    assert told["value"].tolist() == told["low"].tolist() == told["high"].tolist() == [1, 1, 0, 0]
    assert told["tokens"].tolist() == ["1–2", "3–4", "5–6", "7–8"]
    assert told["triples"].sum() == true.size and (told["windows"] == 6).all()


# ── the bin of what was left out ──────────────────────────────────────────────────────────────


def sample(seed=0, windows=60, latents=5, share=0.4):
    dice = np.random.default_rng(seed)
    true = np.where(dice.random((windows, latents)) < 0.3, dice.gamma(2, 1, (windows, latents)), 0)
    rating = np.clip(2 * true + dice.random(true.shape) * 3, 0, 9)
    sent = most_plausible(rating + dice.normal(size=true.shape), share=share)
    digits = dice.dirichlet(np.ones(10), true.shape).astype(np.float32)
    return np.where(sent, rating, np.nan).astype(np.float32), true.astype(np.float32), sent, digits


@pytest.mark.parametrize("name", [*CALIBRATORS, "centred+standardised+isotonic_pooled"])
def test_sent_pairs_are_calibrated_as_if_there_were_no_others(name):
    rating, true, sent, digits = sample()
    target = Target.from_true(np.concatenate([true, true]))
    transform = Screened(calibrator(name)).fit(rating, true, digits=digits, target=target)
    found = transform(rating, digits=digits)
    assert found.shape == true.shape and np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_allclose(found[~sent], np.tile(transform.left_out, (60, 1))[~sent])
    if "centred" in name:
        return
    order = np.argsort(~sent, axis=0, kind="stable")[: sent[:, 0].sum()]
    some = [np.take_along_axis(values, order, 0) for values in (rating, true)]
    own = None if name == "quantile" else target
    alone = calibrator(name).fit(
        *some, digits=np.take_along_axis(digits, order[..., None], 0), target=own
    )
    wanted = alone(some[0], digits=np.take_along_axis(digits, order[..., None], 0))
    np.testing.assert_allclose(np.take_along_axis(found, order, 0), wanted, rtol=1e-5, atol=1e-6)


def test_shrunk_quantiles_are_matched_to_the_sent_pairs_by_either_name():
    """F_pred of the sent pairs, which fire oftener than all tokens, asks for their F_true."""
    rating, true, _, _ = sample()
    target = Target.from_true(np.concatenate([true, np.zeros((600, true.shape[1]), true.dtype)]))
    short, long = (
        Screened(calibrator(name)).fit(rating, true, target=target)(rating)
        for name in ("global_shrink", "global_shrink+quantile")
    )
    np.testing.assert_array_equal(short, long)


def test_the_bin_is_what_the_left_out_pairs_are_worth_and_not_zero():
    _, true, sent, _ = sample()
    means = bin_mean(true, ~sent, Target.from_true(true))
    assert (means > 0).all()
    ones = np.ones((4, 2), np.float32)
    same = bin_mean(ones, ones > 0, Target.from_true(ones))
    np.testing.assert_allclose(same, 1)
    silent = np.where(sent, true, 0)
    assert (bin_mean(silent, ~sent, Target.from_true(true)) == 0).all()
    assert (bin_mean(true, np.zeros_like(sent), Target.from_true(true)) == 0).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_windows_level_is_that_of_its_sent_pairs(seed):
    rating, true, _, _ = sample(seed)
    own = rating / 3
    drifted = (own + np.arange(len(rating))[:, None] % 5).astype(np.float32)
    name = "centred+logistic_pooled"
    one, other = (Screened(calibrator(name)).fit(rated, true)(rated) for rated in (own, drifted))
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.02)  # a weak prior on the level


def test_too_few_sent_windows_are_an_error():
    rating, true, _, _ = sample(windows=6, share=0.1)
    with pytest.raises(CalibrationError, match="1 windows that were sent"):
        Screened(calibrator("isotonic")).fit(rating, true)


# ── contrast tokens ───────────────────────────────────────────────────────────────────────────


def test_contrast_tokens_stand_beside_firings_and_never_fire():
    tokens = np.array([[0, 5, 9, 5, 7, 3, 3, 3, 3, 8], [0, 7, 9, 6, 6, 2, 2, 2, 2, 2]])
    dense = np.zeros((2, 10, 1), np.float32)
    dense[0, 2] = dense[1, 2] = 1.0  # fires on token 9
    dense[1, 1] = 2.0  # and once on 7, which is then no contrast
    cache = cache_of(dense, tokens)
    found = contrast_tokens(cache, 0, count=5).tolist()
    assert found[:2] in ([5, 6], [6, 5])
    assert not set(found) & {0, 7, 9, 8}
    from latent_cases import chatting_tokenizer  # noqa: PLC0415

    texts = contrast_texts(cache, 0, count=2, token_texts=texts_of(chatting_tokenizer()))
    assert len(texts) == 2
    assert contrast_texts(cache, 0, count=0, token_texts=texts_of(chatting_tokenizer())) == []
