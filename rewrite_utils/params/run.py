"""A whole run, and what its sections must agree on."""

import zlib
from collections.abc import Iterator

from pydantic import Field, field_validator, model_validator

from rewrite_utils.params.asking import LLM, Explain, Score, Simulate
from rewrite_utils.params.measuring import TOPK, Readers, Rewrite, Studies
from rewrite_utils.params.place import Corpus, Site, Subject
from rewrite_utils.params.section import Section


class Params(Section):
    """A whole run."""

    name: str
    """The run's folder is runs/<name>."""
    seed: int = Field(22, ge=0)
    """Every random choice of the run descends from it."""
    figures: str = "figures"
    """Folder the figures are written to."""
    subject: Subject = Subject()
    corpus: Corpus = Corpus()
    sites: dict[str, Site]
    explainer: LLM = LLM()
    simulator: LLM = LLM()
    explain: Explain = Explain()
    score: Score = Score()
    simulate: Simulate = Simulate()
    rewrite: Rewrite = Rewrite()
    readers: Readers = Readers()
    studies: Studies = Studies()

    @field_validator("name")
    @classmethod
    def _one_folder(cls, name: str) -> str:
        _require_plain(name, "the run's folder is runs/<name>")
        return name

    @field_validator("sites")
    @classmethod
    def _named(cls, sites: dict[str, Site]) -> dict[str, Site]:
        if not sites:
            raise ValueError("a run needs one site or more, each with its hookpoint")
        for name in sites:
            _require_plain(name, f"files of the site {name!r} carry its name")
        return sites

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for complaint in (*self._of_rows(), *self._of_choices()):
            raise ValueError(complaint)
        return self

    def _of_rows(self) -> Iterator[str]:
        """What does not fit the rows of the corpus."""
        (first, last), row = self.rated_positions, self.corpus.row_tokens
        if not first <= last <= row - 2:
            yield (
                f"rated positions {first} … {last} do not fit a row of {row} tokens whose last one "
                "has no next token"
            )
        if self.simulate.window_tokens > first:
            yield (
                f"a window of {self.simulate.window_tokens} tokens cannot end at position {first}: "
                "raise simulate.first_position"
            )
        for name in ("explain", "score"):
            length = getattr(self, name).window_tokens
            if length >= row:
                yield (
                    f"{name}.window_tokens = {length} does not fit a row of {row} tokens with BOS: "
                    f"at most {row - 1}"
                )
        refined = self.explain.refine or "refined" in str(self.explain.compared)
        if self.corpus.faithful and refined:
            yield (
                "explain.refine needs explain rows that are not scored, and corpus.faithful makes "
                "them the same: set explain.refine = 0 or corpus.faithful = false"
            )

    def _of_choices(self) -> Iterator[str]:
        """What does not go together, or is not among what there is to choose from."""
        asked = self.simulator
        reader = asked.worker_engine if asked.engine == "ray" else asked.engine
        if self.simulate.mode == "all" and reader in ("vllm", "server"):
            yield (
                f"simulate.mode = 'all' is read inside a prompt, which the engine {reader!r} "
                "cannot: use transformers or auto"
            )
        for name, site in self.sites.items():
            if site.reader and site.reader not in (arms := self.arms_of(name)):
                yield (
                    f"sites.{name}.reader {site.reader!r} is not among its arms "
                    f"({', '.join(arms)}): add it to readers.arms"
                )
        if self.rewrite.headline not in self.rewrite.calibrators:
            yield f"rewrite.headline {self.rewrite.headline!r} is not in rewrite.calibrators"

    def arms_of(self, site: str) -> tuple[str, ...]:
        """The readers of a site."""
        return self.sites[site].arms or self.readers.arms

    @property
    def draws(self) -> int:
        """What rows, windows and sentences are drawn by; see ``corpus.draw``."""
        if self.corpus.draw == "seed":
            return self.seed
        return zlib.crc32(f"{self.name} {self.seed}".encode())

    @property
    def after_topk(self) -> dict[str, list[str]]:
        """The calibrations that keep the k largest latents afterwards, which only a TopK coder can,
        by the parameter that names them."""
        named = {
            "rewrite.headline": (self.rewrite.headline,),
            "rewrite.calibrators": self.rewrite.calibrators,
            "studies.calibrators": self.studies.calibrators,
        }
        kept = {key: [one for one in names if one.endswith(TOPK)] for key, names in named.items()}
        return {key: names for key, names in kept.items() if names}

    @property
    def rated_positions(self) -> tuple[int, int]:
        """First and last position of a row that may be rated, both included."""
        last = self.simulate.last_position or self.corpus.row_tokens - 2
        return self.simulate.first_position, last


def _require_plain(name: str, why: str) -> None:
    """Raise ValueError unless a name can be part of a file's name and stays in its folder."""
    if not name.strip() or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError(f"{why}: use letters, digits, - and _, no / and no dot in front")
