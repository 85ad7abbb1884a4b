"""make check-gpu, as far as it can be tested without a GPU: a device against itself."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rewrite_utils.params import ROOT

SCRIPT = ROOT / "benchmarks" / "check_gpu.py"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_on_the_cpu_agrees_with_itself(check: ModuleType, tmp_path: Path) -> None:
    sizes = check.Sizes(32, 2, 300, rows=4, length=24, latents=64, k=4, steps=3, batch=40)
    lines = [check.compare(part, "cpu") for part in check.parts(sizes, tmp_path)]
    assert len(lines) >= 12 and all(line.difference == 0 for line in lines)
    table = check.told(lines, "this machine")
    assert table.count("\n") == len(lines) + 2 and "DISAGREES" not in table


def test_a_part_that_disagrees_is_named_in_the_table(check: ModuleType) -> None:
    part = check.Part("one", lambda device: lambda: {"x": torch.ones(3) + 0.01 * (device != "cpu")})
    line = check.compare(part, "elsewhere")
    assert line.difference == pytest.approx(0.01, rel=1e-3)
    assert "DISAGREES" in check.told([line], "this machine")
    assert check.difference(torch.full((3,), torch.nan), torch.ones(3)) == float("inf")
    assert check.difference(torch.ones(2), torch.ones(3)) == float("inf")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "make env" in done.stderr and "lock-cuda" in done.stderr
