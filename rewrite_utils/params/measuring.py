"""What is measured of a rewrite, the studies around it, and how whole layers are read."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rewrite_utils.params.section import Section

TOPK = "+topk"
"""A calibration whose name ends so keeps the k largest latents after the overwrite, as the paper
does."""


class Rewrite(Section):
    """The arms of the rewrite and how they are counted."""

    UNHASHED: ClassVar[frozenset[str]] = frozenset({"bootstrap"})

    fractions: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0), min_length=1
    )
    """Shares of the described latents that are replaced by their predictions."""
    orders: tuple[Literal["top", "random", "useful"], ...] = ("top", "random")
    """Which latents go first: best score, drawn anew for each window, or most useful: what the
    headline's prediction of this latent alone wins over its mean, on held-out calibrate windows."""
    calibrators: tuple[str, ...] = (
        "raw+topk",
        "quantile:type7+topk",
        "quantile:type8",
        "isotonic",
        "centred+standardised+isotonic_pooled",
        "centred+standardised+capped+isotonic_pooled",
        "centred+standardised+logistic_pooled",
    )
    """Calibrations whose rewrites are measured; a name that ends in +topk keeps
    only the k largest latents afterwards, as the paper does."""
    headline: str = "centred+standardised+logistic_pooled"
    """The calibrator that the verdict is about, declared before the run."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the windows behind every interval."""


class Studies(Section):
    """What is measured around the rewrite without asking an LLM."""

    latents: int = Field(256, ge=2)
    """Latents of a study at most, drawn among those that fire in the calibrate rows."""
    aurocs: tuple[Annotated[float, Field(ge=0.5, lt=1)], ...] = (0.7, 0.85, 0.95)
    """Qualities of the corrupted oracle; the first serves the study of the estimators."""
    sizes: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (100, 300, 1000, 3000, 10_000), min_length=1
    )
    """Calibration windows of the corrupted oracle (paper: 1K and 10K); the rewrite is measured for
    the fewest and the most."""
    draws: int = Field(3, ge=1)
    """How often the windows of the study of the estimators are drawn anew."""
    held_windows: int = Field(2000, ge=2)
    """Evaluate windows that the estimators' mismatch is measured on."""
    calibrators: tuple[str, ...] = (
        "quantile:type7+topk",
        "quantile:type8",
        "isotonic",
        "centred+standardised+isotonic_pooled",
        "centred+standardised+logistic_pooled",
    )
    """Calibrations of the corrupted oracle that are spliced."""
    factors: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)
    """Global shrink factors tried on held-out calibrate windows; 0 is mean ablation."""
    specificities: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (
        *(0.0, 0.5, 0.8, 0.9, 0.95, 0.98),
        *(0.99, 0.995, 0.999, 0.9999),
    )
    """Synthetic specificities of otherwise true activations."""
    simulators: tuple[
        Literal[
            *("rate", "score", "contrast"),
            *("ahead", "rate_ahead", "score_ahead", "contrast_ahead"),
            *("explanation_first", "original", "all"),
        ],
        ...,
    ] = ()
    """Other ways to ask the simulator, compared with the plain one on the same pairs: firing rate,
    score or contrast tokens shown behind the sentence; the prompt with them ahead of it, without
    and with each; the sentence first; in the original's words (sentence first, too); all positions
    in one pass. Costs LLM time; empty: not done."""
    simulator_windows: int = Field(16, ge=2)
    """Calibrate windows of that comparison."""
    screens: tuple[Literal["lexical", "embedding", "both"], ...] = ("lexical",)
    """Cheap first passes whose curve is drawn from the ratings that are there; embedding and both
    need the embedded sentence model."""
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (
        *(0.02, 0.05, 0.1, 0.2, 0.35),
        *(0.5, 0.75, 1.0),
    )
    """Shares of the pairs that such a first pass would send to the simulator."""
    layers_at_once: bool = False
    """Rewrite all sites of the run together too, one at a layer, without an LLM (notebook 11)."""
    floors: int = Field(3, ge=0)
    """Derangements of the sentences behind each of the two floors of the rewrite; 0: not done."""
    fewer: float = Field(0.25, gt=0, lt=1)
    """Share of the simulated calibrate windows that stands for fewer predictions (paper: 1K of
    10K)."""


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
