"""How whole layers are read from descriptions, without an LLM pass a pair."""

from typing import Annotated, ClassVar

from pydantic import Field

from rewrite_utils.params.section import Section


class Readers(Section):
    """Readers of every live latent of the sites that name one (``sites.<site>.reader``)."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"bootstrap"})

    words: int = Field(64, ge=1)
    """Words counted from activations a latent (levels c and d)."""
    train_rows: int = Field(800, ge=0)
    """Train rows that words are counted on and token tables fitted on; 0: all of them."""
    told: int = Field(48, ge=0)
    """Latents a site that an LLM describes (levels a and b), those that carry most first, beside
    the described ones; 0: all that are read."""
    raises: int = Field(40, ge=1)
    """Next words that a description says the latent raises (level d)."""
    lowers: int = Field(10, ge=1)
    """Next words that it says the latent lowers."""
    trees: int = Field(60, ge=1)
    """Trees of the shared regression."""
    pairs: int = Field(250_000, ge=1000)
    """(token, latent) pairs it is fitted on."""
    folds: int = Field(4, ge=2)
    """Parts of the latents; each is read by a regression that was fitted on the others."""
    calibrate_rows: int = Field(120, ge=2)
    """Calibrate rows that regressions and curves are fitted on, all tokens of them."""
    evaluate_rows: int = Field(40, ge=2)
    """Evaluate rows that losses are measured on, at every position."""
    texts: tuple[str, ...] = ()
    """Other texts to measure on, foreign to all that was fitted ("embedded/recipes")."""
    text_rows: int = Field(40, ge=2)
    """Rows of each of them."""
    arms: tuple[str, ...] = Field(("a", "b", "c"), min_length=1)
    """Which readers, where a site does not say (``sites.<site>.arms``): a level (a to d) with all
    its features, "c+context", or one feature of level c alone ("c:exact"); see
    `simulate.readers.arms`."""
    elsewhere: bool = False
    """Also read each site by the regression fitted at another one."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = ("The river",)
    """Beginnings that the rewritten model continues."""
    continued: int = Field(24, ge=1)
    """Tokens it continues them by."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the rows behind every interval."""
