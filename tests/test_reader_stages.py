"""From a finished run to whole layers read: the stages of notebook 13 on tiny random models."""

import numpy as np
import pytest
import torch
from stage_cases import made
from test_by_hand import READ, by_hand

from rewrite_utils.explain.described import LEVELS, parse
from rewrite_utils.params import ParameterError
from rewrite_utils.report.benchmark_labels import shown
from rewrite_utils.rewrite.label_stage import COUNTED, LABELS, SHUFFLED, r_squared, require_enough
from rewrite_utils.rewrite.layer_stage import ablation
from rewrite_utils.runs.run import Run
from rewrite_utils.simulate.readers import passes
from rewrite_utils.simulate.readers import stage as readings
from rewrite_utils.simulate.readers.passes import Passes
from rewrite_utils.simulate.readers.reader import dense
from rewrite_utils.simulate.readers.spaces import Remembering
from rewrite_utils.simulate.readers.text import truth
from rewrite_utils.site import SiteStages, continuations, losses_together, open_sites, read_sites

READERS = {
    "words": 6,
    "train_rows": 40,
    "told": 7,
    "trees": 4,
    "pairs": 4000,
    "folds": 2,
    "calibrate_rows": 8,
    "evaluate_rows": 3,
    "arms": ["a", "b", "c", "d+context", "c:exact"],
    "elsewhere": True,
    "prompts": ["the thin"],
    "continued": 3,
    "bootstrap": 100,
}


def letters(words):
    """Words by the letters in them."""
    return np.array([[word.count(c) + 0.01 for c in "aehinrst ,;."] for word in words], np.float32)


@pytest.fixture(scope="module")
def read(world, plain, tokenizer):
    """The tiny run's two sites, read; the MLP's reader is declared to be c, the other's d."""
    patch = pytest.MonkeyPatch()
    spaces = {name: Remembering(name, letters) for name in ("input", "whitened", "minilm")}
    patch.setattr(readings, "spaces", lambda model: spaces)
    patch.setattr(passes, "opened", lambda llm, folder: Passes(lambda: plain, tokenizer, folder))
    changed = {"readers": READERS, "sites__mlp__reader": "c", "sites__sae__reader": "d+context"}
    yield read_sites(world.again(**changed))
    patch.undo()


def test_every_level_says_more_and_is_read_back(read):
    for site in read.values():
        assert len(site.read_latents) and set(site.told) <= set(site.read_latents)
        assert list(site.level_texts) == list(LEVELS)
        told = set(site.level_texts["a"])
        assert told == set(site.level_texts["b"]) <= set(site.told)
        assert set(site.level_texts["c"]) == set(site.read_latents)
        for latent in told:
            records = [parse(site.level_texts[level][latent]) for level in LEVELS]
            assert records[0].english and not records[0].words
            assert [w.text for w in records[1].words] == ["a", "b"]
            assert any(w.strength for w in records[2].words)
            assert records[3].raises and records[3].lowers


def test_an_llm_is_asked_only_about_latents_without_a_sentence(read):
    for site in read.values():
        assert not set(site.told_more["latent"]) & set(site.described)


def test_every_arm_has_a_finite_loss_at_every_position_against_its_own_ablation(read):
    for site in read.values():
        table = site.layer_losses
        arms = {*READERS["arms"], "c, fitted elsewhere"}
        assert arms < set(table["source"]) and np.isfinite(table[["loss", "kl"]]).all(None)
        known = set(table.dropna(subset=["whole"])["source"])
        assert known == {"coder", "output mean", "mean", site.settings.reader}
        assert (table["n"] == 38).all() and sorted(set(table["row"])) == [0, 1, 2]
        verdict = site.layer_verdict.set_index("source")
        assert verdict.loc["coder", "of_range"] == pytest.approx(1)
        assert verdict.loc["mean", "minus_mean"] == 0
        named = ablation(site.readers["a"].latents)
        assert verdict.loc["a", "against"] == named
        over = table.pivot(index="row", columns="source", values="loss")
        expected = (over["a"] - over[named]).mean()
        assert verdict.loc["a", "minus_mean"] == pytest.approx(expected, abs=1e-6)


def test_a_kept_reader_reads_as_it_did(read, tmp_path):
    for site in read.values():
        for arm in READERS["arms"]:
            kept = site.readers[arm]
            said = [site.level_texts[kept.level][one] for one in kept.latents.tolist()]
            text = readings.text_of(site.reader_rows["evaluate"], site.subject)
            found = dense(kept.reader.read(said, text), text)
            assert found.shape == (*text.rows.shape, len(kept.latents))
            assert np.isfinite(found).all() and (found >= 0).all() and not found[:, 0].any()


def test_the_vocabulary_as_a_table_is_the_reader_at_every_token(read):
    site = read["mlp"]
    tokens = site.reader_rows["evaluate"]
    kept, text = site.reader, readings.text_of(tokens, site.subject)
    said = [site.level_texts[kept.level][one] for one in kept.latents.tolist()]
    found = dense(kept.reader.read(said, text), text)[:, 1:]
    table = site.token_reader.values(torch.from_numpy(tokens[:, 1:]))[..., kept.latents]
    alike = np.isclose(table, found, atol=1e-4)
    assert alike.mean() > 0.99  # a tree's step may fall on either side of a rounding


def test_the_rewritten_model_speaks_and_is_scored(read):
    spoken = continuations(read)
    assert {"model", "coder, mlp", "reader, mlp+sae", "edited, mlp"} <= set(spoken["model"])
    table = losses_together(read)
    site = read["mlp"]
    own = table[table["model"] == "model"].set_index("row")["loss"]
    rows = torch.from_numpy(site.reader_rows["evaluate"])
    logits = site.subject.bridge(rows)[:, 1:-1].log_softmax(-1)
    expected = -logits.gather(2, rows[:, 2:, None]).mean((1, 2))
    np.testing.assert_allclose(own, expected.detach(), atol=1e-4)


def test_all_of_it_is_made_once_and_old_stages_stay(world, read):
    for site in read.values():
        assert len(site.layer_losses)
    events = len(world.run.journal)
    again = {name: SiteStages(site.run, name) for name, site in read.items()}
    for site in again.values():
        assert len(site.layer_losses) and len(site.losses)
    assert made(world.run, events) == set()


def test_a_run_that_reads_nothing_says_what_to_set(world):
    with pytest.raises(ParameterError, match=r"reads no site: set sites\.<site>\.reader"):
        read_sites(world.run)
    assert open_sites(world.run)


def test_labels_are_benchmarked_against_counted_words_and_other_latents_labels(read, tmp_path):
    site = read["mlp"]
    file = tmp_path / "labels.csv"
    told = {one: f"fires on the {one}" for one in site.read_latents[:6].tolist()}
    file.write_text("".join(f"{latent},{text}\n" for latent, text in told.items()))
    run = Run(
        site.params.model_copy(
            update={"explain": site.params.explain.model_copy(update={"labels": str(file)})}
        ),
        site.run.folder,
    )
    again = open_sites(run)["mlp"]
    table = again.label_benchmark.set_index("source")
    assert set(table.index) == {LABELS, COUNTED, SHUFFLED, "coder", "mean"}
    assert table.loc["coder", "of_range"] == pytest.approx(1)
    assert table.loc["mean", "minus_mean"] == 0 and (table["latents"] == 6).all()
    for source in (LABELS, COUNTED, SHUFFLED):
        assert np.isfinite(table.loc[source, ["of_range", "perplexity", "r2_mean"]].tolist()).all()
    assert again.told_more.empty and "03_labels.mlp" in run.opened  # nobody writes beside them
    lines = shown(again.label_benchmark)
    assert list(lines["source"][:3]) == [LABELS, COUNTED, SHUFFLED]


def test_r_squared_is_one_for_the_truth_and_zero_for_the_mean(read):
    cache = read["mlp"].cache("evaluate")
    latents, means = np.array([0, 3]), np.full(12, 0.25)
    true = truth(cache)[:, latents].toarray().reshape(*cache.tokens.shape, 2)
    assert r_squared(cache, latents, true, means) == pytest.approx(1)
    flat = np.broadcast_to(means[latents], true.shape)
    assert r_squared(cache, latents, flat, means) == pytest.approx(0)


def test_too_few_labels_name_the_parameter():
    with pytest.raises(ParameterError, match=r"sites\.s: 3 labels .* readers.folds = 2 needs 4"):
        require_enough(np.arange(3), 2, "s")


def test_by_hand_the_model_and_its_ablation_have_the_stored_losses(read):
    for name, site in read.items():
        names = {"sites": {name: site}, "losses_together": losses_together}
        for cell in by_hand(READ):
            if cell.cell_type == "code":
                exec(compile(cell.source, "13_rewritten", "exec"), names)
        assert names["losses"]["lists"] > 0
