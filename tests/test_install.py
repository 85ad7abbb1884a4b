"""The installer behind `make env`: uv looks where pip looks, and pip steps in where uv fails."""

import importlib.util
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from rewrite_utils.params import ROOT

SPEC = importlib.util.spec_from_file_location("install", ROOT / "requirements" / "install.py")
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)

LISTED = """\
:env:.find-links='/my/wheels /other'
global.cert='/a.pem'
global.find-links='/wheels'
install.index-url='https://example.org/simple'
"""


def test_uv_is_told_what_pip_is_told_and_a_variable_wins() -> None:
    told = install.settings(LISTED.splitlines())
    assert told["find-links"] == "/my/wheels /other" and told["cert"] == "/a.pem"
    flags = ["--find-links", "/my/wheels", "--find-links", "/other"]
    assert install.flags(told) == [*flags, "--index-url", "https://example.org/simple"]


@pytest.mark.parametrize(
    ("fails", "ends"), [((), "uv"), (("uv==",), "pip"), (("uv",), "pip"), (("uv==", "pip"), "1")]
)
def test_pip_installs_where_uv_cannot(
    fails: tuple[str, ...], ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uv cannot be had, or it stumbles; what pip says at the end counts."""
    asked: list[str] = []

    def run(command: list[str], **_: Any) -> Any:
        words = command[2:]
        kind = next((word for word in ("config", "uv", install.UV) if word in words), "pip")
        asked.append(kind)
        failed = any(kind.startswith(one) if one.endswith("==") else kind == one for one in fails)
        return SimpleNamespace(returncode=int(failed), stdout=LISTED)

    monkeypatch.setattr(subprocess, "run", run)
    code = install.main(["--no-deps", "x"])
    assert (code == 1) == (ends == "1")
    assert asked[-1] == ("uv" if ends == "uv" else "pip")
