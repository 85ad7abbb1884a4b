"""Another sentence, simulated, kept, saved and used again; a text of one's own."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
from shown import Shown

from rewrite_utils.explain import curated
from rewrite_utils.explorer import LatentExplorer, Shelf
from rewrite_utils.explorer.edit import Cancelled, NoSimulator, calibrator_alone
from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.llm import opening
from rewrite_utils.params import ParameterError
from rewrite_utils.simulate import ExplanationError
from rewrite_utils.site import SiteStages

ATTACK = '<script>alert("x")</script>'


def test_the_same_sentence_again_gives_the_same_reading(explorer):
    old = explorer.reading
    explorer.attempt(old.sentence)
    new = explorer.draft
    pd.testing.assert_frame_equal(new.rated, old.rated, rtol=1e-5)
    pairs = zip(new.alone["over_truth"], old.alone["over_truth"], strict=True)
    assert all(a.value == pytest.approx(b.value, abs=1e-4) for a, b in pairs)


def test_another_sentence_is_put_to_the_simulator_on_the_run_s_windows(explorer, world):
    before, shares = len(world.llm.texts), []
    explorer.attempt("men in red hats", step=shares.append)
    asked = world.llm.texts[before:]
    assert len(asked) == len(explorer.shelf.rated) == 14
    assert all("men in red hats" in text for text in asked)
    assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(shares)
    assert explorer.draft.origin == "yours" and "yours" in explorer.comparison.markup
    assert not explorer.draft.rated.equals(explorer.reading.rated)
    truth = explorer.reading.alone.iloc[0]["delta"].value
    assert explorer.draft.alone.iloc[0]["delta"].value == pytest.approx(truth)


def test_an_empty_sentence_is_an_error(explorer):
    with pytest.raises(ExplanationError, match="has no explanation"):
        explorer.attempt("  ")


def test_cancelling_leaves_everything_as_it_was(explorer):
    def stop(share: float) -> None:
        if share > 0:
            raise Cancelled

    with pytest.raises(Cancelled):
        explorer.attempt("men in red hats", step=stop)
    assert explorer.draft is None and not explorer.kept


def test_the_new_sentence_is_judged_window_by_window_against_the_old_one(explorer):
    old = explorer.reading
    explorer.attempt("men in red hats")
    new = explorer.draft
    means = [
        reading.alone.set_index("arm")["over_truth"]["sentence"].value for reading in (old, new)
    ]
    expected = f"{means[1] - means[0]:+.3f} ["
    found = re.search(r"CE yours − explainer: (.*), nats, paired", explorer.comparison.markup)[1]
    assert found.startswith(expected) and f"(n = {len(old.losses)} evaluate windows" in found
    shown = Shown(explorer.comparison.markup).text
    assert shown.index("rating AUROC, yours") < shown.index("detection AUROC, explainer")


def test_keep_and_discard(explorer):
    old = explorer.reading
    explorer.attempt("men in red hats")
    explorer.keep()
    assert explorer.reading.sentence == "men in red hats" and explorer.draft is None
    explorer.attempt("women in blue hats")
    assert "CE yours − yours, kept:" in explorer.comparison.markup
    explorer.discard()
    assert explorer.reading.sentence == "men in red hats"
    explorer.discard()
    assert explorer.reading is old


def test_a_draft_does_not_survive_another_selection(explorer):
    explorer.attempt("men in red hats")
    explorer.select(next(one for one in explorer.shelf.latents if one != explorer.latent))
    assert explorer.draft is None and explorer.comparison.markup == ""


def test_without_an_engine_it_says_what_to_start(world, monkeypatch):
    def missing(_):
        raise OSError("nowhere to be found")

    monkeypatch.setattr(opening, "engine", missing)
    explorer = LatentExplorer(world.sites["mlp"])
    with pytest.raises(NoSimulator, match=r"rewrite_utils.assets.*Everything else works without"):
        explorer.attempt("men in red hats")
    assert "load the simulator" in explorer.price


def test_one_sentence_alone_is_not_centred():
    assert (
        calibrator_alone("centred+standardised+isotonic_pooled") == "standardised+isotonic_pooled"
    )
    assert calibrator_alone("quantile:type7+topk") == "quantile:type7"


def test_a_saved_sentence_takes_the_explainer_s_place(world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(world.run.folder, folder)
    site = SiteStages(world.again(folder), "mlp")
    explorer = LatentExplorer(site, engine=world.llm)
    with pytest.raises(ValueError, match="has no new sentence: try one first"):
        explorer.save()
    explorer.attempt("men in red hats")
    expected = explorer.draft.rated
    said = explorer.save()
    file = folder / curated.FILE
    assert str(file) in said and len(pd.read_parquet(file)) == 1
    chosen = SiteStages(world.again(folder, explain__curated=str(file)), "mlp")
    assert chosen.sentences == site.sentences | {explorer.latent: "men in red hats"}
    assert chosen.explanations_stage.hash == site.explanations_stage.hash
    assert chosen.simulation_stage.hash != site.simulation_stage.hash
    place = chosen.simulated.index(explorer.latent)
    rated = np.concatenate([chosen.ratings(split).expected[:, place] for split in SIMULATED])
    np.testing.assert_array_equal(rated.astype(np.float64), expected["expected"])
    assert Shelf(chosen).reading(explorer.latent).origin == "curated"


def test_the_parameter_alone_changes_no_hash(world, tmp_path):
    file = tmp_path / "other.parquet"
    curated.save(file, site="sae", coder="x", latent=1, sentence="a", replaced="b")
    site = SiteStages(world.again(explain__curated=str(file)), "mlp")
    assert site.simulation_stage.hash == world.sites["mlp"].simulation_stage.hash


def test_sentences_of_another_coder_are_refused(world, tmp_path):
    file = tmp_path / "other.parquet"
    curated.save(file, site="mlp", coder="0123", latent=1, sentence="a", replaced="b")
    site = SiteStages(world.again(explain__curated=str(file)), "mlp")
    with pytest.raises(ParameterError, match="were written for the coder 0123"):
        _ = site.sentences


def test_a_sentence_for_a_latent_that_is_not_described_is_refused(world, tmp_path):
    site = world.sites["mlp"]
    [silent, *_] = sorted(set(range(12)) - set(site.described.tolist()))
    file = tmp_path / "strange.parquet"
    stamp = site.coder_stage.hash
    curated.save(file, site="mlp", coder=stamp, latent=silent, sentence="a", replaced="")
    with pytest.raises(ParameterError, match=f"a sentence for latent {silent} of site 'mlp'"):
        _ = SiteStages(world.again(explain__curated=str(file)), "mlp").sentences


def test_a_second_save_replaces_the_first(tmp_path):
    file = tmp_path / curated.FILE
    for sentence in ("one", "two"):
        curated.save(file, site="a", coder="c", latent=3, sentence=sentence, replaced="zero")
    curated.save(file, site="a", coder="c", latent=1, sentence="three", replaced="zero")
    assert curated.read(file, site="a", coder="c") == {1: "three", 3: "two"}
    assert curated.read(file, site="b", coder="c") == {}
    with pytest.raises(ValueError, match="latent 3 is empty"):
        curated.save(file, site="a", coder="c", latent=3, sentence=" ", replaced="zero")


def test_a_text_is_read_as_the_cache_was(shelf):
    tokenizer = shelf.site.subject.tokenizer
    rows = shelf.cache.tokens[:, 1:].tolist()
    texts = [tokenizer.decode(row) for row in rows]
    same = [tokenizer.encode(text, add_special_tokens=False) == row
            for text, row in zip(texts, rows, strict=True)]  # fmt: skip
    chosen = same.index(True)
    own = shelf.own(texts[chosen])
    for latent in shelf.latents:
        firings = shelf.cache.of(latent)
        mine = firings.rows == chosen
        expected = np.zeros(len(rows[chosen]))
        expected[firings.positions[mine] - 1] = firings.values[mine]
        np.testing.assert_allclose(own.true[:, latent], expected, atol=1e-4)


def test_predictions_on_one_s_own_text_have_an_underline_at_every_token(explorer):
    text = "the thin man sat in a red hat"
    before, after = explorer.read(text), explorer.predict(text)
    assert "border-bottom" not in before.markup and "border-bottom" in after.markup
    assert "at most" in explorer.text_price(text) and "prediction" in explorer.text_price(text)
    explorer.attempt("men in red hats")
    explorer.keep()
    assert "men in red hats" in explorer.predict(text).markup
    with pytest.raises(ValueError, match="the text is empty"):
        explorer.read("")
