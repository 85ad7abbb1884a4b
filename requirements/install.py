"""Installs packages with uv, which shows how far it is; with pip where uv cannot be had.

``python requirements/install.py --no-deps --requirement LOCK``: arguments as pip install takes. uv
looks where pip is told to look (its files and variables are handed on), so both find the same
builds. Standard library only: it runs in an empty environment.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable

UV = "uv==0.13.9"
FLAGS = {
    "index-url": "--index-url",
    "extra-index-url": "--extra-index-url",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
}
"""uv's names for pip's settings of places."""
VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
"""Those that uv takes from the environment."""
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def settings(listed: Iterable[str]) -> dict[str, str]:
    """pip's settings by name, from what ``pip config list`` says; a variable wins over a file."""
    found: dict[str, str] = {}
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    return found


def flags(asked: dict[str, str]) -> list[str]:
    """The same places for uv; every place may have several addresses."""
    places = [(FLAGS[name], value) for name, value in asked.items() if name in FLAGS]
    pairs = [(flag, one) for flag, value in places for one in value.split()]
    return [word for pair in pairs for word in pair]


def main(arguments: list[str]) -> int:
    """The exit code of the one that installed."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    told = settings(listed.stdout.splitlines())
    environment = {VARIABLES[name]: told[name] for name in VARIABLES.keys() & told.keys()}
    # as pip does: the best version of all places, not only of the first that has the name
    how = ["--python", sys.executable, "--index-strategy", "unsafe-best-match", *flags(told)]
    if not subprocess.run([*PIP, "--quiet", "install", UV], check=False).returncode:
        command = [sys.executable, "-m", "uv", "pip", "install", *how, *arguments]
        if not subprocess.run(command, env=os.environ | environment, check=False).returncode:
            return 0
    sys.stderr.write("env: not with uv; pip takes longer and says what it does\n")
    return subprocess.run([*PIP, "install", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
