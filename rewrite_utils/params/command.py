"""The arguments of a command that say which parameters: a file, and changes to it.

In: an argument parser, then what was typed. Out: parameters by dotted name, as `load` takes them.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from rewrite_utils.params.section import ParameterError


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which parameters: a file, and changes to it for `overrides_of`."""
    default = "params/embedded.yaml"
    parser.add_argument(
        "params_file", nargs="?", default=default, help="a YAML (default: %(default)s)"
    )
    parser.add_argument(
        "-p",
        dest="set",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set one parameter by its dotted name, e.g. -p sites.early.k 8",
    )


def overrides_of(pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Parameters by dotted name, from (name, YAML text) pairs of a command line.

    Raises ParameterError for a text that is no YAML.
    """
    return {name: _value(name, text) for name, text in pairs}


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"{name} = {text!r} is not readable YAML: {reason}") from None
