"""YAML and dotted names to parameters; a complaint names the value and the nearest real name."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rewrite_utils.params.place import Site
from rewrite_utils.params.run import Params
from rewrite_utils.params.section import ROOT, ParameterError


class _Loader(yaml.SafeLoader):
    """A safe loader for which a name that stands twice is an error: YAML's last one would win."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"{key.value!r} stands twice in one place: keep one of them"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def load(file: str | Path, overrides: Mapping[str, Any] | None = None) -> Params:
    """Read ``file`` (looked for here, then below the repository), then set ``overrides`` by dotted
    name.

    Raises ParameterError: the file or a name does not exist, or a value is impossible.
    """
    path = find(file)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # a SafeLoader
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParameterError(f"{path} holds a {type(raw).__name__}, not named parameters")
    for name, value in (overrides or {}).items():
        _set(raw, name, value)
    return parse(raw, origin=str(path))


def parse(raw: Mapping[str, Any], *, origin: str = "parameters") -> Params:
    """Validate nested ``raw`` parameters; every complaint names the parameter, its value and the
    fix."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [_complaint(item) for item in error.errors()]
        raise ParameterError(f"{origin}: " + "; ".join(lines)) from None


def find(file: str | Path) -> Path:
    """``file`` as given, else below the repository's root; a bare name also means
    params/<name>.yaml."""
    tried = [Path(file), ROOT / file, ROOT / "params" / f"{file}.yaml"]
    for path in tried:
        if path.is_file():
            return path
    folder = ROOT / "params"
    known = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    raise ParameterError(f"no parameter file {str(file)!r}; params/ holds {', '.join(known)}")


def names(model: type[BaseModel] = Params, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every dotted parameter name with its default and its one-line meaning; a site's as
    ``sites.<site>.…``."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from names(kind, f"{prefix}{name}.")
        elif name == "sites":
            yield from names(Site, f"{prefix}sites.<site>.")
        else:
            default = "(required)" if field.is_required() else field.default
            yield prefix + name, default, field.description or ""


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Set one dotted parameter in the nested mapping; unknown names are caught here with the
    nearest one."""
    sites = [str(site) for site in raw.get("sites") or {}]
    known = [name.replace("<site>", site) for name, *_ in names() for site in (sites or ["<site>"])]
    if dotted not in known:
        raise ParameterError(f"no parameter {dotted!r}" + _nearest(dotted, known))
    *path, last = dotted.split(".")
    inner = raw
    for part in path:
        below = inner.get(part, {})
        if not isinstance(below, dict):
            raise ParameterError(
                f"{dotted} = {value!r} cannot be set: the file has {part} = {below!r}, which is no "
                "group of named parameters; write some below it, or leave it out"
            )
        inner[part] = dict(below)  # a copy: places that share a YAML alias share the mapping
        inner = inner[part]
    inner[last] = value


def _nearest(name: str, known: list[str]) -> str:
    for close in difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; did you mean {close!r}?"
    return "; see python -m rewrite_utils.series --parameters"


def _complaint(item: Any) -> str:
    """One pydantic error as a sentence."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        site = str(item["loc"][1]) if item["loc"][0] == "sites" else "<site>"
        known = [name.replace("<site>", site) for name, *_ in names()]
        return f"no parameter {where!r}" + _nearest(where, known)
    if item["type"] == "missing":
        return f"parameter {where!r} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "secret":
        return f"{where}: {message}"
    told = where and not isinstance(item["input"], dict)
    return f"{where} = {item['input']!r}: {message}" if told else message
