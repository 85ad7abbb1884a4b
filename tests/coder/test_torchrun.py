"""The coder of a site, trained by two gloo processes under torchrun: the coder of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stage_cases import SITE, tokenizer_with_chat, write_text
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM

from rewrite_utils.coder.sparse import SparseCoder
from rewrite_utils.coder.training import __main__ as command
from rewrite_utils.runs import run as runs

HERE = Path(__file__).parents[1]
WORKER = """
import sys
from pathlib import Path
from rewrite_utils.runs import run as runs
from rewrite_utils.coder.training import __main__ as command
runs.ROOT = Path(sys.argv[1])
raise SystemExit(command.main(sys.argv[2:]))
"""


@pytest.fixture
def params_file(tmp_path) -> Path:
    """A run with one site on a tiny GPT-NeoX."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(tiny_config("neox")).save_pretrained(tmp_path / "model")
    tokenizer_with_chat(tiny_tokenizer()).save_pretrained(tmp_path / "model")
    shares = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
    corpus = {"sources": [write_text(tmp_path / "text")], "row_tokens": 40, "max_rows": 20}
    site = SITE | {"hookpoint": "layers.1.mlp", "skip": True, "batch": 5 * 39}
    raw = {
        "name": "tiny",
        "subject": {"model": str(tmp_path / "model"), "collect_dtype": "", "device": "cpu"},
        "corpus": corpus | shares,
        "sites": {"mlp": site},
        "simulate": {"window_tokens": 8, "first_position": 10},
        "explain": {"window_tokens": 8},
        "score": {"window_tokens": 8},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps(raw))
    return file


def test_two_processes_train_a_sites_coder_as_one_does(params_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    asked = [str(params_file), "mlp"]
    there = [str(tmp_path / "worker.py"), str(tmp_path), *asked, str(tmp_path / "joint")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [*torchrun, *there],
        check=False,
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert command.main([*asked, str(tmp_path / "alone")]) == 0
    assert "to use it: sites.mlp.coder: " in done.stdout and "FVU " in capsys.readouterr().out
    joint, alone = (SparseCoder.load(tmp_path / name) for name in ("joint", "alone"))
    for name, weight in joint.state_dict().items():
        torch.testing.assert_close(weight, alone.state_dict()[name], atol=1e-4, rtol=1e-3)
    records = [json.loads((tmp_path / n / "training.json").read_text()) for n in ("joint", "alone")]
    joint_tokens, alone_tokens = (r["records"][-1][1] for r in records)
    assert 0.9 * 15 * 195 < joint_tokens == alone_tokens <= 15 * 195  # control tokens are left out


def test_more_processes_than_gpus_are_an_error(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert command._device("cpu") == "cpu"
    monkeypatch.setattr(command, "device", lambda asked: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 has no GPU.*sees 1: lower --nproc-per-node"):
        command._device("auto")


def test_a_site_that_is_not_there_is_named(params_file, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="no site 'late'; there are mlp"):
        command.main([str(params_file), "late", str(tmp_path / "x")])
