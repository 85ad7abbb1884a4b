"""What the tests of the stages share: caches with known truths, a tokenizer that chats, an LLM."""

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rewrite_utils.latents.cache import LatentCache, Windows
from rewrite_utils.llm.engine import Engine
from rewrite_utils.llm.protocol import Choices, Generation, Prompt, Usage
from rewrite_utils.llm.tokens import digit_tokens
from rewrite_utils.subject.pieces import token_texts

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOS = 0


def chatting_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level with a few merges and a chat template; "é" is two tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("Ġ", "th"), ("Ċ", "Ċ"), ("Ġ", "a"), ("D", "e")]
    pieces = ["<bos>", *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", chat_template=TEMPLATE
    )


def texts_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[np.ndarray], list[str]]:
    """What a site gives to the stages as ``token_texts``."""
    return lambda ids: token_texts(tokenizer, ids.tolist())


def cache_of(dense: np.ndarray, tokens: np.ndarray) -> LatentCache:
    """The cache of activations given whole: [row, pos, latent], zero at the BOS."""
    assert not dense[:, 0].any()
    latent, row, position = np.nonzero(dense.transpose(2, 0, 1))
    start = np.concatenate([[0], np.cumsum(np.bincount(latent, minlength=dense.shape[2]))])
    value = dense[row, position, latent].astype(np.float32)
    return LatentCache(tokens, start, row.astype(np.int32), position.astype(np.int32), value)


def drawn(
    seed: int = 0, *, rows: int = 6, length: int = 20, latents: int = 5, kinds: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Random (activations, tokens); latent 0 never fires, the last one nearly everywhere."""
    generator = np.random.default_rng(seed)
    fires = generator.random((rows, length, latents)) < np.linspace(0, 0.9, latents)
    dense = np.where(fires, generator.gamma(2.0, 1.0, fires.shape), 0).astype(np.float32)
    dense[:, 0] = 0
    tokens = generator.integers(1, 1 + kinds, (rows, length))
    tokens[:, 0] = BOS
    return dense, tokens


@st.composite
def truths(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(activations, tokens) of any small shape."""
    sizes = {"rows": (1, 5), "length": (2, 24), "latents": (1, 5), "kinds": (1, 8)}
    chosen = {name: draw(st.integers(*ends)) for name, ends in sizes.items()}
    return drawn(draw(st.integers(0, 10_000)), **chosen)


def all_windows(tokens: np.ndarray) -> Windows:
    """Every position but the BOS, row after row."""
    rows, ends = np.nonzero(np.ones_like(tokens[:, 1:]))
    return Windows(rows, ends + 1)


class FakeEngine(Engine):
    """An Engine that answers by functions of the prompt's text, and remembers what it was asked.

    ``rate``: text → probability of each digit, asked once an answer with the answer's number;
    ``reply``: (text, seed) → reply. ``dies_after`` so many calls it raises KeyboardInterrupt, as a
    kill does.
    """

    _choices = _generate = None  # what is asked of it is answered below

    def __init__(
        self,
        *,
        rate: Callable[[str, int], Sequence[float]] | None = None,
        reply: Callable[[str, int], str] | None = None,
        dies_after: int | None = None,
        label: str = "fake",
    ) -> None:
        super().__init__(chatting_tokenizer(), vocab_size=4096, max_tokens=4096, label=label)
        self.asked: list[str] = []
        self.prompts: list[Prompt] = []
        self.calls = 0
        self._rate, self._reply, self._dies_after = rate, reply, dies_after
        self.usage = self.spent()

    def spent(self) -> Usage:
        """What it has cost so far."""
        return Usage(prompts=len(self.asked))

    def choices(self, prompts, *, options, answers=1) -> Choices:
        assert self._rate is not None
        digit = {token: number for number, token in enumerate(digit_tokens(self.tokenizer))}
        wanted = [digit[option] for option in options]
        texts = self._called(prompts)
        whole = [[self._rate(text, n) for n in range(answers)] for text in texts]
        shape = (len(texts), answers, 10)
        given = np.asarray(whole, np.float32).reshape(shape)[..., wanted]
        mass = given.sum(-1)
        return Choices(given / mass[..., None], mass)

    def choices_inside(self, prompts, *, at, options) -> Choices:
        """``rate`` gives the digits at each place."""
        answers = len(at[0])
        return self.choices(prompts, options=options, answers=answers)

    def generate(self, prompts, *, max_tokens, temperature=0.0, seed=0) -> list[Generation]:
        assert self._reply is not None
        replies = [self._reply(text, seed) for text in self._called(prompts)]
        return [Generation(reply, (), True) for reply in replies]

    def close(self) -> None:
        pass

    def _called(self, prompts: Sequence[Prompt]) -> list[str]:
        if self.calls == self._dies_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.prompts += prompts
        texts = [self.tokenizer.decode(p.shared + p.own) for p in prompts]
        self.asked += texts
        self.usage = self.spent()
        return texts
