"""Every command line: bad input is one clear error and a code of 1, never a traceback."""

import importlib
from pathlib import Path

import pytest

from rewrite_utils.assets import model_folder
from rewrite_utils.coder import formats
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.explain import delphi
from rewrite_utils.params import section
from rewrite_utils.runs import run as runs

RUN = "name: tiny\nsites:\n  early: {hookpoint: layers.0.mlp, latents: 8, k: 2}\n"
COMMANDS = {
    "series": [],
    "simulate.__main__": [],
    "coder.training.__main__": ["early", "coder"],
    "explain.export": ["out"],
    "runs.publish": [],
    "llm.serving": [],
}
WITH_RUN = sorted(set(COMMANDS) - {"llm.serving"})


def said(command: str, params: Path | str, capsys) -> str:
    module = importlib.import_module(f"rewrite_utils.{command}")
    assert module.main([str(params), *COMMANDS[command]]) == 1
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parameter_file_that_is_not_there(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said(command, "no/such.yaml", capsys).startswith("no parameter file 'no/such.yaml'")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parameter_file_in_another_encoding(command, tmp_path, capsys):
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: caf\xe9\n")
    assert f"{file} is not UTF-8 text" in said(command, file, capsys)


@pytest.mark.parametrize("command", WITH_RUN)
def test_a_runs_folder_that_cannot_be_written(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "runs").write_text("a file where the folder should be")
    (tmp_path / "tiny.yaml").write_text(RUN)
    assert str(tmp_path / "runs") in said(command, tmp_path / "tiny.yaml", capsys)


def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path / "cache"))
    main = importlib.import_module("rewrite_utils.assets.__main__").main
    with pytest.raises(SystemExit) as stopped:
        main(["embedded/wikipedia"])
    assert stopped.value.code == 1 and str(tmp_path / "cache") in capsys.readouterr().err


def test_folders_named_in_parameters_are_found_where_notebooks_run(tmp_path, monkeypatch):
    """A relative folder is named from the repository's root; a notebook's folder is another."""
    monkeypatch.setattr(section, "ROOT", tmp_path)
    config = CoderConfig(d_in=8, num_latents=6, k=2, hookpoint="layers.0.mlp")
    SparseCoder(config).save(tmp_path / "my" / "coder")
    (tmp_path / "my" / "explanations").mkdir()
    (tmp_path / "my" / "explanations" / "layers.0_latent1.txt").write_text('"a sentence"')
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert formats.load_coder("my/coder", hookpoint="layers.0.mlp").config.num_latents == 6
    assert model_folder("my/coder") == str(tmp_path / "my" / "coder")
    assert list(delphi.files("my", "explanations", "layers.0")) == [1]
    assert model_folder("some/hub-name") == "some/hub-name"
