"""A model card says what the coder is and was measured to be, and the coder beside it loads."""

import torch

from rewrite_utils.coder.formats import load_coder
from rewrite_utils.report.card import write_card


def test_a_card_holds_the_coder_its_figures_and_what_was_measured(site, tmp_path, drawing):
    card = write_card(site, tmp_path)
    text = card.read_text()
    assert card.parent.name == site.hookpoint.name
    assert site.coder_stage.hash in text and "12 latents, TopK with k = 3" in text
    assert ("SAE" if site.hookpoint.kind == "resid" else "transcoder") in text
    arms = ["coder", "latents at mean", "latents at zero", "output at mean", "output at zero"]
    assert all(f"| {arm} |" in text for arm in arms) and "{" not in text
    for picture in ("training.png", "firing_rates.png"):
        assert f"({picture})" in text
        assert (card.parent / picture).read_bytes().startswith(b"\x89PNG")
    again = load_coder(tmp_path, hookpoint=site.hookpoint.name)
    assert torch.equal(again.W_enc, site.coder.W_enc)
