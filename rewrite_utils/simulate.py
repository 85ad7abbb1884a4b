"""The simulator: from a sentence and a text alone, how strongly does the latent fire on the last
token?

One prompt = one (latent, window). The ten digits' probabilities at a forced answer position,
renormalised, give E = Σ p(d)·d from one forward pass: nothing is sampled, nothing parsed. Paper §5.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zarr
from jaxtyping import Float
from numpy import ndarray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from rewrite_utils import prompts
from rewrite_utils.llm import Engine, Prompt, digit_tokens

DIGITS = np.arange(10, dtype=np.float32)
WINDOWS_A_BLOCK = 4
RESULT = "predictions.zarr"


class Ratings(NamedTuple):
    """What the simulator said of a block of windows."""

    expected: Float[ndarray, "window latent"]
    """E = Σ p(d)·d over the ten digits, renormalised: 0 … 9, float16."""
    digits: Float[ndarray, "window latent digit"]
    """Probability of each digit, renormalised, float16."""
    mass: Float[ndarray, "window latent"]
    """Probability that the model gave to the ten digits together, before renormalising, float16."""


class ExplanationError(ValueError):
    """A sentence that the simulator cannot be asked about."""


def described(
    sentence: str, *, rate: float | None = None, score: float | None = None, latent: int
) -> str:
    """The description in the prompt: the sentence, and if asked for the firing rate and the score.

    Raises ExplanationError: the sentence is missing or empty.
    """
    if not isinstance(sentence, str) or not sentence.strip():
        raise ExplanationError(
            f"latent {latent} has no explanation ({sentence!r}): leave it out or explain it again"
        )
    notes = []
    if rate is not None:
        notes.append(f"responds to 1 in {max(1, round(1 / max(rate, 1e-9))):,} tokens")
    if score is not None:
        notes.append(f"score {score:.2f}")
    return "; ".join([sentence.strip(), *notes])


class Window(NamedTuple):
    """A window as the simulator reads it."""

    text: str
    """The tokens' text, the last one between « and »."""
    token: str
    """The last token once more, alone: a small simulator finds it far better so."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Window":
        """From the exact texts of the window's tokens."""
        last = texts[-1]
        return cls("".join(texts[:-1]) + f"«{last}»", last.strip() or repr(last))


class Layout:
    """The prompt with the window in the shared part and the sentence last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, align: int) -> None:
        """``align``: the shared part is filled with newlines to a multiple of so many tokens."""
        self._tokenizer = tokenizer
        self._align = align
        head, _, rest = prompts.rendered(tokenizer, "simulate").partition("{pad}")
        self._window, colon, self._after = rest.partition("\nDescription:")
        self._window += colon
        self._head = self._encode(head)
        self._filler = self._encode("\n")

    def shared(self, window: Window) -> tuple[int, ...]:
        """Everything up to the description; the filling stands before the window."""
        text = self._encode(prompts.filled(self._window, window=window.text, token=window.token))
        missing = -(len(self._head) + len(text)) % self._align
        return (*self._head, *(self._filler * missing), *text)

    def own(self, description: str) -> tuple[int, ...]:
        """The description and the forced beginning of the answer."""
        return self._encode(prompts.filled(self._after, explanation=description))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))


def expected_rating(
    probabilities: Float[ndarray, "*shape digit"],
) -> Float[ndarray, "*shape"]:
    """E = Σ p(d)·d / Σ p(d) (paper §5): renormalised, so that a stray token changes nothing.

    Raises ValueError on NaN or when no digit has any probability.
    """
    total = probabilities.sum(-1)
    if not np.isfinite(total).all() or (total <= 0).any():
        raise ValueError(
            "digit probabilities are NaN or all zero: the simulator's weights are damaged"
        )
    return (probabilities @ DIGITS) / total


def simulate(
    windows: Sequence[Window],
    descriptions: Sequence[str],
    engine: Engine,
    *,
    align: int,
    folder: Path,
    name: str,
    limit: int | None = None,
) -> None:
    """Rate every (window, latent) pair and write ``folder``/predictions.zarr, if it is not there.

    Blocks of windows are kept as they finish, so a killed run goes on where it stopped; ``limit``
    stops after that many blocks (for partial work), leaving the blocks in place.
    """
    if (folder / RESULT).exists():
        _remove_blocks(windows, folder)
        return
    layout = Layout(engine.tokenizer, align=align)
    own = [layout.own(description) for description in descriptions]
    pairs = len(windows) * len(own)
    bar = tqdm(total=pairs, desc=f"simulation of {name}", unit="prediction", smoothing=0.05)
    for number, (file, block) in enumerate(_blocks(windows, folder)):
        if not file.exists() and (limit is None or number < limit):
            _save(file, rate(engine, [layout.shared(window) for window in block], own))
            bar.set_postfix(engine.usage.summary())
        bar.update(len(block) * len(own))
    bar.close()
    _gather(windows, folder)


def rate(
    engine: Engine, shared: Sequence[tuple[int, ...]], own: Sequence[tuple[int, ...]]
) -> Ratings:
    """Every (window, description) pair, given by the two parts of its prompt (see ``Layout``)."""
    asked = [Prompt(window, sentence) for window in shared for sentence in own]
    choices = engine.choices(asked, options=digit_tokens(engine.tokenizer))
    shape = (len(shared), len(own))
    probabilities = choices.probabilities[:, 0].reshape(*shape, 10)
    return Ratings(
        expected_rating(probabilities).astype(np.float16),
        probabilities.astype(np.float16),
        choices.mass[:, 0].reshape(shape).astype(np.float16),
    )


def _blocks(windows: Sequence[Window], folder: Path) -> Iterator[tuple[Path, Sequence[Window]]]:
    for start in range(0, len(windows), WINDOWS_A_BLOCK):
        yield folder / f"block-{start:06d}.npz", windows[start : start + WINDOWS_A_BLOCK]


def _save(file: Path, ratings: Ratings) -> None:
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, **ratings._asdict())
    temporary.replace(file)


def _gather(windows: Sequence[Window], folder: Path) -> None:
    """Once every block is there, one zarr group chunked by latent takes their place."""
    files = [file for file, _ in _blocks(windows, folder)]
    if not all(file.exists() for file in files):
        return
    parts = [np.load(file) for file in files]
    partial = folder / f"{RESULT}.partial"
    group = zarr.open_group(partial, mode="w")
    for field in Ratings._fields:
        whole = np.concatenate([part[field] for part in parts])
        chunks = (len(whole), min(256, whole.shape[1]), *whole.shape[2:])
        group.create_array(field, data=whole, chunks=chunks)
    partial.replace(folder / RESULT)
    _remove_blocks(windows, folder)


def _remove_blocks(windows: Sequence[Window], folder: Path) -> None:
    for file, _ in _blocks(windows, folder):
        file.unlink(missing_ok=True)


def read_ratings(folder: Path) -> Ratings:
    """The ratings of a finished simulation, whole."""
    group = zarr.open_group(folder / RESULT, mode="r")
    return Ratings(*(np.asarray(group[field]) for field in Ratings._fields))
