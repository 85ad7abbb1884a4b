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
    hashes: Wants = lambda: {}
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
        keywords = inspect.signature(function).parameters.values()
        asked = [word for word in keywords if word.kind is word.KEYWORD_ONLY]
        wanted = [w.name for w in asked if w.default is w.empty or w.name in self._given]
        return function(*first, **{name: self[name] for name in wanted})


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


class Staged(functools.cached_property[Stage]):
    """A property of a site: a stage, made if it is not there."""

    def __init__(self, declared: Declared[Any]) -> None:
        super().__init__(lambda site: site.stage(declared))
        self.declared, self.__doc__ = declared, declared.make.__doc__


class Made(functools.cached_property[T]):
    """A property of a site: what a stage holds."""

    def __init__(self, declared: Declared[T]) -> None:
        super().__init__(lambda site: site.read(declared))
        self.declared, self.__doc__ = declared, declared.read.__doc__


class Derived(functools.cached_property[T]):
    """A property of a site that needs no stage of its own: a function of other results."""

    def __init__(self, function: Callable[..., T]) -> None:
        super().__init__(lambda site: Results(site).call(function))
        self.function, self.__doc__ = function, function.__doc__


class Chosen(functools.cached_property[Stage]):
    """A property of a site: one stage or another, as a function of results names it."""

    def __init__(self, choose: Wants) -> None:
        super().__init__(lambda site: getattr(site, Results(site).call(choose)))
        self.__doc__ = choose.__doc__
