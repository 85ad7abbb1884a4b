"""The whole series with the subject on another device than the text and the estimates: a GPU where
there is one, else a pretended device."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from pretend_device import FAR, Far, Pretending
from stage_cases import World

from rewrite_utils.explain.logits import promoted
from rewrite_utils.explorer import Shelf
from rewrite_utils.explorer.desk import Desk
from rewrite_utils.latents import neighbours
from rewrite_utils.runs import machine
from rewrite_utils.site import open_sites
from rewrite_utils.subject import stage as reading
from rewrite_utils.subject.model import load_subject


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    reading.loaded.cache_clear()
    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
        reading.loaded.cache_clear()
        return
    rates = {"float32": 2e12, "bfloat16": 2e12}
    monkeypatch.setattr(machine, "product_rates", lambda device="cpu": rates)
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (8 * 2**30, 16 * 2**30),
        "get_device_name": "pretended",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with Pretending():
        yield FAR
    reading.loaded.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is pretended beside a GPU")
def test_the_pretended_device_keeps_far_from_near(far: torch.device) -> None:
    tensor = torch.arange(6.0).to("cuda")
    assert tensor.device == FAR and (tensor + 1).device == FAR
    assert (tensor + 1).cpu().tolist() == [1, 2, 3, 4, 5, 6]
    assert tensor[torch.tensor([1, 3])].device == FAR
    with pytest.raises(RuntimeError, match="far and near"):
        tensor + torch.ones(6)
    with pytest.raises(TypeError, match="cpu"):
        tensor.numpy()
    layer = torch.nn.Linear(6, 2).to("cuda")
    assert isinstance(layer.weight, Far) and layer(tensor).device == FAR


def test_the_whole_run_is_the_same_on_another_device(
    world: World, far: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("far")
    sites = open_sites(world.again(folder, subject__device="auto"))
    for name, site in sites.items():
        assert site.subject.device == far and site.coder.W_dec.device == far
        near = world.sites[name]
        pd.testing.assert_frame_equal(site.quality, near.quality, rtol=1e-3, atol=1e-4)
        if site.simulated != near.simulated:  # the fake LLM's answers hang on the evidence's order
            assert far != FAR, "which a GPU's products of another precision may change"
            continue
        np.testing.assert_allclose(
            site.true("evaluate"), near.true("evaluate"), rtol=1e-3, atol=1e-4
        )
        pd.testing.assert_frame_equal(site.losses, near.losses, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(site.energy, near.energy, rtol=1e-3)
        text = "the thin man in a red hat"
        own, before = (Desk(Shelf(one)).own(text) for one in (site, near))
        np.testing.assert_allclose(own.true, before.true, rtol=1e-3, atol=1e-4)
        latent = site.simulated[0]
        np.testing.assert_allclose(
            neighbours.cosines(site.coder, latent),
            neighbours.cosines(near.coder, latent),
            atol=1e-3,
        )
        raised = promoted(site.subject, site.coder, latent).raised
        wanted = promoted(near.subject, near.coder, latent).raised
        assert [token for token, _ in raised] == [token for token, _ in wanted]
        pd.testing.assert_frame_equal(site.usefulness, near.usefulness, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(ValueError, match=r"subject.device.*cuda.*cpu"):
        load_subject(world.raw["subject"]["model"], device="cuda")
