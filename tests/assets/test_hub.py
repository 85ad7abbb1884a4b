"""Hub names from parameters to a verdict, without the hub: a local one serves everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import serving
from stage_cases import SITE, tokenizer_with_chat, write_text
from tiny import VOCABULARY, WIDTH, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rewrite_utils.assets.hub import HubError, from_hub
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.params import ROOT

CHECKPOINTS = ["step0", "step4", "step16"]
PARAMS = {
    "name": "hub",
    "subject": {"model": "lab/pythia-tiny", "checkpoints": CHECKPOINTS, "device": "cpu"},
    "corpus": {
        "sources": ["lab/pile-tiny:train[:80%]"],
        "row_tokens": 40,
        "max_rows": 20,
        "train": 0.4,
        "explain": 0.2,
        "score": 0.2,
        "calibrate": 0.1,
        "evaluate": 0.1,
    },
    "sites": {
        "mlp": SITE
        | {"hookpoint": "layers.2.mlp", "coder": "lab/sst", "skip": True, "control_windows": 30}
    },
    "explain": {"windows": 4, "window_tokens": 8, "min_firings": 5},
    "score": {"activating": 3, "random": 4, "window_tokens": 8, "per_prompt": 3},
    "simulate": {"window_tokens": 8, "first_position": 10, "align": 4},
    "rewrite": {"fractions": [1.0], "bootstrap": 100},
}


def fill(root: Path) -> None:
    """A subject with checkpoints, one whose weights never arrive, a coder, a text."""
    for seed, revision in enumerate([*CHECKPOINTS, "main"]):
        folder = root / "models" / "lab" / "pythia-tiny" / revision
        with torch.random.fork_rng():
            torch.manual_seed(min(seed, 2))
            AutoModelForCausalLM.from_config(tiny_config("neox")).save_pretrained(folder)
        tokenizer_with_chat(tiny_tokenizer()).save_pretrained(folder)
    cut = root / "models" / "lab" / "cut"
    cut.mkdir()
    (cut / "main").symlink_to(root / "models" / "lab" / "pythia-tiny" / "main")
    fitted(root / "models" / "lab" / "pythia-tiny" / "main").save(
        root / "models" / "lab" / "sst" / "main" / "layers.2.mlp"
    )
    (root / "datasets" / "lab" / "pile-tiny").mkdir(parents=True)
    write_text(root / "datasets" / "lab" / "pile-tiny" / "main")


def fitted(folder: Path) -> SparseCoder:
    """A transcoder of the last MLP that explains it: by its skip connection, for the most part."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    seen: list[torch.Tensor] = []
    mlp = model.gpt_neox.layers[2].mlp
    mlp.register_forward_hook(lambda _, given, made: seen.extend([given[0], made]))
    with torch.no_grad():
        model(torch.randint(1, VOCABULARY, (20, 40), generator=torch.Generator().manual_seed(0)))
    given, made = (states.flatten(0, 1) for states in seen)
    given, means = given - given.mean(0), (given.mean(0), made.mean(0))
    skip = torch.linalg.lstsq(given, made - means[1]).solution.T
    coder = SparseCoder(
        CoderConfig(
            d_in=WIDTH,
            num_latents=SITE["latents"],
            k=SITE["k"],
            hookpoint="layers.2.mlp",
            skip_connection=True,
        )
    )
    with torch.no_grad():
        coder.W_skip.copy_(skip)
        coder.b_dec.copy_(means[1] - skip @ means[0])
        coder.W_dec.normal_(std=0.05)
    return coder


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a process found that knows this hub only."""
    root, folder = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("run")
    fill(root)
    params = {**PARAMS, "figures": str(folder / "figures")}
    (folder / "params.json").write_text(json.dumps(params))
    tests = ROOT / "tests"
    paths = os.pathsep.join(map(str, [ROOT, tests, tests / "assets"]))
    with serving(root) as hub:
        here = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "0",
            "PYTHONPATH": paths,
            "NO_PROXY": "127.0.0.1",
        }
        script = [sys.executable, str(tests / "assets" / "hub_run.py")]
        done = subprocess.run(
            [*script, str(folder / "params.json"), str(folder)],
            env=os.environ | here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "found.json").read_text()) | {"asked": hub.asked}


def test_a_run_whose_names_are_hub_names_goes_from_text_to_losses(found: dict) -> None:
    assert found["losses"] > 0 and found["latents"] == SITE["latents"]
    assert found["documents"] == 120  # train[:80%] of 150
    assert found["curve"] == CHECKPOINTS
    for revision in (*CHECKPOINTS, "main"):
        assert f"lab/pythia-tiny@{revision} model.safetensors" in found["asked"]
    assert 0 < found["mass"] < 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gated model", "HubError: model 'lab/gated' is gated on the hub: ask for access"),
        ("revision", "HubError: model 'lab/pythia-tiny' has no revision 'step9' on the hub"),
        ("no model", "HubError: model 'lab/nothing' is not on the hub, or is private"),
        ("cut", "HubError: model 'lab/cut' was cut off on its way from the hub: run again"),
        ("gated coder", "coder 'lab/gated' is no folder here, and is gated on the hub"),
        ("gated text", "is a gated dataset on the Hub"),
        ("no text", "doesn't exist on the Hub"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_that_says_the_fix(
    found: dict, name: str, says: str
) -> None:
    said = found["said"][name]
    assert says in said and len(said.splitlines()) == 1 and len(said) < 400, said


@pytest.mark.parametrize("name", ["model", "coder", "text"])
def test_no_network_is_one_sentence_too(found: dict, name: str) -> None:
    said = found["gone"][name]
    assert "lab/other" in said and len(said.splitlines()) == 1, said
    assert "does not answer" in said or "Couldn't reach" in said, said


def test_an_error_that_is_not_the_hubs_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), from_hub("model", "x"):
        _ = 1 / 0
    with pytest.raises(HubError, match="model 'x' was cut off"), from_hub("model", "x"):
        raise OSError("Consistency check failed: file should be of size 2")
