"""Tiny random subjects of both architectures, loaded like any other model, and a run on each."""

import shutil
from pathlib import Path

import datasets
import hypothesis
import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from splice_cases import HOOKPOINTS, LATENTS, coder_for
from stage_cases import SITES, FakeLLM, World, finish, tiny_params, tokenizer_with_chat
from tiny import VOCABULARY, tiny_tokenizer, write_tiny_model
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.llm import opening
from rewrite_utils.params import parse
from rewrite_utils.runs.run import Run
from rewrite_utils.site import SiteStages, open_sites
from rewrite_utils.subject.model import Hookpoint, Subject, load_subject

# A busy machine is no failure. (On CI Hypothesis has no deadline by itself.)
hypothesis.settings.register_profile("patient", deadline=None)
if hypothesis.settings.get_current_profile_name() == "default":
    hypothesis.settings.load_profile("patient")
torch.set_num_threads(1)  # tiny tensors: a second thread only waits, and much longer when shared


@pytest.fixture(scope="session", params=["llama", "neox"])
def architecture(request: pytest.FixtureRequest) -> str:
    """Llama-type (SmolLM2) and GPT-NeoX (Pythia: parallel residual, a quarter rotary, untied)."""
    return request.param


@pytest.fixture(scope="session")
def tiny_folder(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as from_pretrained reads it."""
    folder = tmp_path_factory.mktemp(architecture)
    write_tiny_model(folder, architecture)
    return folder


@pytest.fixture(scope="session")
def subject(tiny_folder: Path) -> Subject:
    """The tiny model behind the bridge; tests leave it as they found it."""
    return load_subject(str(tiny_folder))


@pytest.fixture(scope="session")
def plain(tiny_folder: Path) -> PreTrainedModel:
    """A second copy of the same weights, in transformers alone."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny models."""
    return tiny_tokenizer()


@pytest.fixture
def rows() -> torch.Tensor:
    """Four rows of 12 tokens, BOS first."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (4, 12), generator=generator)
    tokens[:, 0] = 0
    return tokens


@pytest.fixture(params=HOOKPOINTS, ids=lambda hookpoint: hookpoint.name)
def hookpoint(request: pytest.FixtureRequest) -> Hookpoint:
    """First and last MLP, a residual stream in the middle and the last one."""
    return request.param


@pytest.fixture
def coder(hookpoint: Hookpoint) -> SparseCoder:
    """A random coder of that hookpoint."""
    return coder_for(hookpoint)


@pytest.fixture
def values(rows: torch.Tensor) -> torch.Tensor:
    """Simulated activations: one vector of latents a row."""
    return torch.rand(len(rows), LATENTS, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def raw(tiny_folder, tmp_path_factory) -> dict:
    """Parameters of a run on the tiny model: an MLP and a residual site."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_folder, folder / "model")
    return tiny_params(folder)


@pytest.fixture(scope="module")
def world(raw, tmp_path_factory) -> World:
    """Everything made once, from text to verdict."""
    tokenizer = tokenizer_with_chat(tiny_tokenizer())
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
        llm = FakeLLM(tokenizer)
        patch.setattr(opening, "engine", lambda _: llm)
        run = Run(parse(raw), tmp_path_factory.mktemp("run"))
        sites = open_sites(run)
        finish(sites)
        yield World(raw, run, llm, sites)


@pytest.fixture(params=SITES)
def site(request, world) -> SiteStages:
    """The MLP site and the residual one."""
    return world.sites[request.param]


@pytest.fixture
def drawing():
    """Figures without a screen, closed afterwards."""
    with mpl.rc_context({"backend": "agg"}):
        yield
    plt.close("all")
