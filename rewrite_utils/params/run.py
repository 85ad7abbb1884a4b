"""A whole run, and what its sections must agree on."""

import zlib

from pydantic import Field, field_validator, model_validator

from rewrite_utils.params.asking import LLM, Explain, Score, Simulate
from rewrite_utils.params.measuring import TOPK, Rewrite, Studies
from rewrite_utils.params.place import Corpus, Site, Subject
from rewrite_utils.params.readers import Readers
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
        last = self.simulate.last_position or self.corpus.row_tokens - 2
        if not self.simulate.first_position <= last <= self.corpus.row_tokens - 2:
            raise ValueError(
                f"rated positions {self.simulate.first_position} … {last} do not fit a row of "
                f"{self.corpus.row_tokens} tokens whose last one has no next token"
            )
        if self.simulate.window_tokens > self.simulate.first_position:
            raise ValueError(
                f"a window of {self.simulate.window_tokens} tokens cannot end at position "
                f"{self.simulate.first_position}: raise simulate.first_position"
            )
        for name in ("explain", "score"):
            length = getattr(self, name).window_tokens
            if length >= self.corpus.row_tokens:
                raise ValueError(
                    f"{name}.window_tokens = {length} does not fit a row of "
                    f"{self.corpus.row_tokens} tokens with BOS: at most "
                    f"{self.corpus.row_tokens - 1}"
                )
        if self.corpus.faithful and (
            self.explain.refine or "refined" in str(self.explain.compared)
        ):
            raise ValueError(
                "explain.refine needs explain rows that are not scored, and corpus.faithful makes "
                "them the same: set explain.refine = 0 or corpus.faithful = false"
            )
        self._require_reading_inside()
        self._require_readers()
        if self.rewrite.headline not in self.rewrite.calibrators:
            raise ValueError(
                f"rewrite.headline {self.rewrite.headline!r} is not in rewrite.calibrators"
            )
        return self

    def arms_of(self, site: str) -> tuple[str, ...]:
        """The readers of a site."""
        return self.sites[site].arms or self.readers.arms

    def _require_readers(self) -> None:
        for name, site in self.sites.items():
            if site.reader and site.reader not in self.arms_of(name):
                raise ValueError(
                    f"sites.{name}.reader {site.reader!r} is not among its arms "
                    f"({', '.join(self.arms_of(name))}): add it to readers.arms"
                )

    def _require_reading_inside(self) -> None:
        asked = self.simulator
        reader = asked.worker_engine if asked.engine == "ray" else asked.engine
        if self.simulate.mode == "all" and reader in ("vllm", "server"):
            raise ValueError(
                f"simulate.mode = 'all' is read inside a prompt, which the engine {reader!r} "
                "cannot: use transformers or auto"
            )

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
        return (
            self.simulate.first_position,
            self.simulate.last_position or self.corpus.row_tokens - 2,
        )


def _require_plain(name: str, why: str) -> None:
    """Raise ValueError unless a name can be part of a file's name and stays in its folder."""
    if not name.strip() or name.startswith(".") or set(name) & set("/\\\0"):
        raise ValueError(f"{why}: use letters, digits, - and _, no / and no dot in front")
