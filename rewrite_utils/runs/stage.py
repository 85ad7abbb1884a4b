"""A stage, declared once: its name, what it hashes and stands on, how it is made and read, its cost.

A declaration's functions name in their keywords the results of a site that they want:
``make(folder, *, coder, corpus)`` is called with that site's coder and corpus, as pytest hands
fixtures to tests. So a stage reads like a function of arrays, and is tested like one. Knows no
stage's content; site/ lists the stages and finds their results.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from rewrite_utils.runs.cost import Cost
from rewrite_utils.runs.run import Run, Stage

T = TypeVar("T")
Facts = Mapping[str, Any]
"""What a builder has to say of its stage; it stands in the manifest."""
Wants = Callable[..., Any]
"""A function whose keywords are results of a site."""


def _nothing() -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared(Generic[T]):
    """One stage of a site."""

    name: str
    """As its folder begins: NN_stage; the number is the notebook's."""
    make: Callable[..., Facts]
    """``make(folder, **results)`` fills the folder; it may be killed and called again."""
    read: Callable[..., T]
    """``read(folder, **results)``: what the stage holds."""
    on: tuple[str, ...] | Wants = ()
    """Results that are the stages it stands on; or a function of results that names them."""
    hashes: Wants = _nothing
    """What of the parameters determines its content, as JSON-able values."""
    cost: Callable[..., Cost | list[Cost] | None] | None = None
    """What it would cost, from parameters alone; None where it would not be made."""
    version: int = 1
    """Raised when ``make`` would give other content from the same parameters."""
    shared: bool = False
    """One stage for all sites of a run."""


class Results:
    """Finds results by name: a site's own, with some put in their place."""

    def __init__(self, of: object, **given: Any) -> None:
        self._of, self._given = of, given

    def __getitem__(self, name: str) -> Any:
        return self._given[name] if name in self._given else getattr(self._of, name)

    def call(self, function: Callable[..., T], *first: Any) -> T:
        """Call ``function`` with the results its keywords name; defaults are left as they are."""
        return function(*first, **{name: self[name] for name in self._wanted(function)})

    def _wanted(self, function: Callable[..., Any]) -> list[str]:
        return [
            name
            for name, keyword in inspect.signature(function).parameters.items()
            if keyword.kind is keyword.KEYWORD_ONLY
            and (keyword.default is keyword.empty or name in self._given)
        ]


class StagedSite:
    """What every composed site does with declarations: make a stage, find it, read it."""

    run: Run
    name: str

    def stage(self, declared: Declared[Any], **given: Any) -> Stage:
        """The stage of a declaration, made if it is not there; ``given`` stands in the place of
        results, for its maker alone."""
        make = functools.partial(Results(self, **given).call, declared.make)
        return self.run.stage(self._folder(declared), make, **self._key(declared))

    def finished(self, declared: Declared[Any]) -> bool:
        """Whether the stage is there already; only what it stands on is made."""
        return self.run.finished(self._folder(declared), **self._key(declared))

    def read(self, declared: Declared[T]) -> T:
        """What a stage holds; made if it is not there."""
        return Results(self).call(declared.read, self.stage(declared).folder)

    def _folder(self, declared: Declared[Any]) -> str:
        return declared.name if declared.shared else f"{declared.name}.{self.name}"

    def _key(self, declared: Declared[Any]) -> dict[str, Any]:
        wanted = Results(self)
        on = wanted.call(declared.on) if callable(declared.on) else declared.on
        return {
            "parameters": wanted.call(declared.hashes),
            "inputs": [wanted[name] for name in on],
            "version": declared.version,
        }


class _Once(Generic[T]):
    """A property of a site that is found once."""

    def find(self, site: Any) -> T:
        """The result."""
        raise NotImplementedError

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, site: Any, owner: type | None = None) -> T:
        if site is None:
            return self  # type: ignore[return-value]
        site.__dict__[self.name] = found = self.find(site)
        return found


class Staged(_Once[Stage]):
    """A property of a site: a stage, made if it is not there."""

    def __init__(self, declared: Declared[Any]) -> None:
        self.declared, self.__doc__ = declared, declared.make.__doc__

    def find(self, site: StagedSite) -> Stage:
        """The stage on disk."""
        return site.stage(self.declared)


class Made(_Once[T]):
    """A property of a site: what a stage holds."""

    def __init__(self, declared: Declared[T]) -> None:
        self.declared, self.__doc__ = declared, declared.read.__doc__

    def find(self, site: StagedSite) -> T:
        """What is read of it."""
        return site.read(self.declared)


class Derived(_Once[T]):
    """A property of a site that needs no stage of its own: a function of other results."""

    def __init__(self, function: Callable[..., T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def find(self, site: StagedSite) -> T:
        """What the function says."""
        return Results(site).call(self.function)


class Chosen(_Once[Stage]):
    """A property of a site: one stage or another, as a function of results names it."""

    def __init__(self, choose: Wants) -> None:
        self.choose, self.__doc__ = choose, choose.__doc__

    def find(self, site: StagedSite) -> Stage:
        """The stage it names."""
        return getattr(site, Results(site).call(self.choose))
