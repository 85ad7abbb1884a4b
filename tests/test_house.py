"""The floor plan of the package: arrows go down, no circles, and only site/ knows all rooms."""

import ast
from pathlib import Path

import pytest

from rewrite_utils.params import ROOT

PACKAGE = ROOT / "rewrite_utils"
ORDER = ["stats", "params", "runs", "assets", "llm", "subject", "coder", "latents", "explain"]
ORDER += ["score", "simulate", "calibrate", "rewrite", "report", "site", "explorer", "series"]
"""Rooms, and the files beside them, from the ground up: each imports only what stands before it."""
OPENED = ("rewrite_utils.site", "rewrite_utils.site.stages", "rewrite_utils.runs.run")
"""Where a site and a run come from."""
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in FILES
}


def imports(file: Path) -> set[str]:
    """The package's modules that a file imports anywhere in it, for types alone too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rewrite_utils"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


ARROWS = {name: imports(file) - {name} for name, file in MODULES.items()}


def is_command(name: str) -> bool:
    """A module that is run and that nothing imports: a command line may open a site."""
    run = '__name__ == "__main__"' in MODULES[name].read_text(encoding="utf-8")
    return run and not any(name in ends for ends in ARROWS.values())


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_there_are_at_most_fourteen_rooms_and_the_site_and_two_files_beside_them():
    beside = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    rooms = {file.relative_to(PACKAGE).parts[0] for file in FILES if file.parent != PACKAGE}
    assert beside == {"stats", "series"} and "site" in rooms
    assert rooms | beside == set(ORDER) and len(rooms - {"site"}) <= 14


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows_go_down(name):
    if is_command(name) or not room(name):
        return
    place = ORDER.index(room(name))
    up = {end for end in ARROWS[name] if room(end) and ORDER.index(room(end)) > place}
    assert not up, f"{name} imports {', '.join(sorted(up))}, which stand above it"


def test_no_files_import_each_other_in_a_circle():
    reach = {name: set(ends) for name, ends in ARROWS.items()}
    for middle, ends in reach.items():
        for others in reach.values():
            if middle in others:
                others |= ends
    assert not sorted(name for name, ends in reach.items() if name in ends)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_below_the_site_nothing_takes_a_site_or_a_run(name):
    if room(name) in ("", "runs", "site", "explorer", "series") or is_command(name):
        return
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in OPENED
        for alias in node.names
    }
    foreign = imported & {"SiteStages", "Run"}
    taken = {
        f"{function.name}({argument.arg}: {ast.unparse(argument.annotation)})"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for argument in (*function.args.args, *function.args.kwonlyargs)
        if argument.annotation and ast.unparse(argument.annotation) in foreign
    }
    assert not taken


def test_every_result_a_stage_wants_is_one_that_a_site_has():
    """Keywords are looked up by name when a stage is made: a misspelt one would fail only then."""
    import inspect  # noqa: PLC0415

    from rewrite_utils.runs.stage import Declared, Derived, Made, Staged  # noqa: PLC0415
    from rewrite_utils.site import PLANNED, SiteStages  # noqa: PLC0415

    found = [value for value in vars(SiteStages).values() if isinstance(value, Made | Staged)]
    declared: list[Declared] = [value.declared for value in found] + list(PLANNED)
    functions = [f for one in declared for f in (one.make, one.read, one.hashes)]
    functions += [v.function for v in vars(SiteStages).values() if isinstance(v, Derived)]
    known = set(dir(SiteStages)) | {"run", "name", "params", "settings"}
    for function in functions:
        keywords = inspect.signature(function).parameters.values()
        wanted = {k.name for k in keywords if k.kind is k.KEYWORD_ONLY and k.default is k.empty}
        assert wanted <= known, f"{function} wants {wanted - known}"
