"""The splits share nothing, lose nothing, and depend on nothing but the text and the seed."""

from collections.abc import Callable, Sequence
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rewrite_utils.assets import model_folder
from rewrite_utils.assets.splits import assign, cut, plain_ids, tokenised
from rewrite_utils.params import SPLITS
from rewrite_utils.subject import corpus as corpus_module
from rewrite_utils.subject.corpus import SHARED, Corpus, load_corpus

SHARES = {"train": 0.4, "explain": 0.2, "score": 0.2, "calibrate": 0.1, "evaluate": 0.1}
TEXTS = [f"<{i}> " + "The quick brown fox, and a lazy dog. " * (i % 5 + 1) for i in range(120)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with a BOS and an EOS."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<bos>", "<eos>"], initial_alphabet=alphabet
    )
    tokens.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<bos>", eos_token="<eos>")


@pytest.fixture
def make(tokenizer, monkeypatch) -> Callable[..., Corpus]:
    """`load_corpus` over given texts, with small defaults."""

    def load(texts: Sequence[str] = TEXTS, **changes: object) -> Corpus:
        monkeypatch.setattr(corpus_module, "source_texts", lambda _: texts)
        settings = {"row_tokens": 16, "shares": SHARES, "seed": 1, "bos": 0} | changes
        return load_corpus(["texts"], tokenizer, **settings)

    return load


def numbers(corpus: Corpus, split: str, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The documents of which the rows of a split hold the beginning (its number is there)."""
    text = tokenizer.decode(corpus.rows(split)[:, 1:].flatten())
    return {i for i in range(len(TEXTS)) if f"<{i}> " in text}


def test_no_document_is_in_two_splits(make, tokenizer):
    corpus = make()
    found = [numbers(corpus, split, tokenizer) for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found))
    for split, numbered in zip(SPLITS, found, strict=True):
        assert corpus.documents(split) - len(numbered) in (0, 1)  # a number cut off by the end
    assert sum(map(len, found)) >= len(TEXTS) - len(SPLITS)  # each may lose what fills no row


def test_a_split_is_its_documents_in_order_with_bos_and_eos(make, tokenizer):
    corpus = make()
    for split, places in assign([TEXTS], SHARES, seed=1).items():
        expected = [
            token
            for place in places
            for token in [*tokenizer.encode(TEXTS[place.index]), tokenizer.eos_token_id]
        ]
        rows = corpus.rows(split)
        assert rows.dtype == torch.int64
        assert (rows[:, 0] == 0).all()
        assert rows[:, 1:].flatten().tolist() == expected[: len(expected) // 15 * 15]
        assert corpus.tokens(split) == len(expected) // 15 * 15


@given(st.lists(st.text()), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_splits_partition_the_distinct_documents_in_any_order(texts, seed, random):
    def placed(texts: list[str]) -> dict[str, list[str]]:
        found = assign([texts], SHARES, seed=seed)
        return {split: [texts[place.index] for place in found[split]] for split in found}

    splits = placed(texts)
    joined = [text for split in splits.values() for text in split]
    assert sorted(joined) == sorted({text for text in texts if text.strip()})
    assert placed(random.sample(texts, len(texts))) == splits
    assert placed(texts + texts) == splits


@given(st.lists(st.text(min_size=1), min_size=1), st.integers(0, 99))
def test_a_new_document_moves_no_other(texts, seed):
    def homes(texts: list[str]) -> dict[str, str]:
        found = assign([texts], SHARES, seed=seed)
        return {texts[place.index]: split for split in found for place in found[split]}

    before = homes(texts)
    assert homes(["a newcomer", *texts]).items() >= before.items()


def test_shares_are_kept_and_the_seed_decides():
    texts = [str(i) for i in range(10_000)]
    first, second = (assign([texts], SHARES, seed=seed) for seed in (1, 2))
    for split, share in SHARES.items():
        error = (len(first[split]) - 10_000 * share) / (10_000 * share * (1 - share)) ** 0.5
        assert abs(error) < 4  # standard deviations of the binomial
    both = {p.index for p in first["train"]} & {p.index for p in second["train"]}
    assert abs(len(both) - 1600) < 200  # independent: 0.4 x 0.4 of the documents


def test_the_order_of_the_source_does_not_matter(make):
    one, other = make(), make(TEXTS[::-1])
    assert all(torch.equal(one.rows(split), other.rows(split)) for split in SPLITS)


def test_a_draw_of_its_own_reorders_every_split_but_train_and_moves_no_document(make, tokenizer):
    """So the first rows of one run are not those of another; its coder is the same."""
    plain, drawn = make(), make(draw=7)
    assert torch.equal(plain.rows("train"), drawn.rows("train"))
    for split in SHARED:
        assert not torch.equal(plain.rows(split)[:3], drawn.rows(split)[:3])
    placed = [assign([TEXTS], SHARES, seed=1, draw=draw) for draw in (None, 7)]
    homes = [{name: {p.index for p in found} for name, found in each.items()} for each in placed]
    assert homes[0] == homes[1]
    assert assign([TEXTS], SHARES, seed=1, draw=1) == assign([TEXTS], SHARES, seed=1)


def test_max_rows_takes_the_first_rows(make):
    whole, capped = make(), make(max_rows={"train": 3, "score": 10_000})
    assert torch.equal(capped.rows("train"), whole.rows("train")[:3])
    assert 0 < capped.documents("train") <= 3 * 15
    assert all(torch.equal(capped.rows(s), whole.rows(s)) for s in SPLITS[1:])


def test_documents_are_joined_cut_and_counted():
    split = cut(iter([[1, 2, 3, 4], [5, 6], [7]]), row_tokens=4, bos=0, limit=None)
    assert split.rows.tolist() == [[0, 1, 2, 3], [0, 4, 5, 6]]
    assert split.documents == 2


def test_nothing_is_tokenised_beyond_the_last_row():
    def tokens():
        yield [1, 2, 3, 4]
        raise AssertionError("there was enough")

    split = cut(tokens(), row_tokens=4, bos=0, limit=1)
    assert split.rows.tolist() == [[0, 1, 2, 3]]


def test_faithful_holds_nothing_out_and_says_so(make, tokenizer):
    apart, faithful = make(), make(faithful=True)
    assert (apart.faithful, faithful.faithful) == (False, True)
    assert "faithful=True" in repr(faithful)
    assert torch.equal(apart.rows("train"), faithful.rows("train"))
    pool = set.union(*(numbers(apart, split, tokenizer) for split in SHARED))
    for split in SHARED:
        assert torch.equal(faithful.rows(split), faithful.rows("explain"))
        assert numbers(faithful, split, tokenizer) >= pool - {max(pool)}


def test_written_and_read_again_it_is_the_same_and_the_bytes_repeat(make, tmp_path):
    corpus = make()
    corpus.write(tmp_path / "one")
    make(TEXTS[::-1]).write(tmp_path / "two")
    again = Corpus.read(tmp_path / "one")
    for split in SPLITS:
        assert torch.equal(again.rows(split), corpus.rows(split))
        assert again.rows(split).dtype == torch.int64
        assert again.documents(split) == corpus.documents(split)
    assert (again.sources, again.seed, again.faithful) == (("texts",), 1, False)
    for file in ("rows.safetensors", "corpus.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_empty_split_is_named_with_the_fix(make):
    shares = {"train": 0.9999, "evaluate": 0.0001}
    with pytest.raises(
        ValueError, match=r"'evaluate' is empty: its share of 0.0001 holds 0 of 120"
    ):
        make(shares=shares)


def test_a_split_without_a_share_is_left_out(make):
    corpus = make(shares={"explain": 0.5, "score": 0.5, "train": 0.0})
    with pytest.raises(ValueError, match="no split 'train': it has explain, score"):
        corpus.rows("train")


def test_a_missing_text_is_a_blank_document():
    found = assign([["one", None, "two"]], {"train": 1.0}, seed=1)
    assert {place.index for place in found["train"]} == {0, 2}


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    endless = deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(ValueError, match="has no EOS token"):
        next(tokenised(iter(["text"]), endless))


def test_what_a_document_writes_is_text(make, tokenizer):
    """No control token comes from a document: each <eos> in the rows is the end of one."""
    texts = [f"<{i}> write <eos> or <bos> here" for i in range(60)]
    corpus = make(texts, shares={"train": 1.0})
    rows = corpus.rows("train")[:, 1:].flatten()
    assert tokenizer.bos_token_id not in rows
    assert (rows == tokenizer.eos_token_id).sum() in (59, 60)  # the last may be cut off
    assert tokenizer.decode(rows).count("write <eos> or <bos> here<eos>") in (59, 60)


def test_the_tokenizer_reads_special_tokens_as_before_afterwards(tokenizer):
    before = tokenizer.encode("a<eos>")
    ids = plain_ids(tokenizer, ["a<eos>"])[0]
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == "a<eos>"
    assert tokenizer.encode("a<eos>") == before and before[-1] == tokenizer.eos_token_id


@pytest.mark.assets
def test_the_embedded_text_makes_rows_for_the_subject():
    subject = AutoTokenizer.from_pretrained(model_folder("embedded/smollm2-135m-instruct"))
    corpus = load_corpus(
        ["embedded/wikipedia"],
        subject,
        row_tokens=256,
        shares=SHARES,
        seed=22,
        bos=subject.bos_token_id,
        max_rows=dict.fromkeys(SPLITS, 8),
    )
    assert all(corpus.rows(split).shape == (8, 256) for split in SPLITS)
    assert not any(subject.bos_token_id in corpus.rows(split)[:, 1:] for split in SPLITS)
