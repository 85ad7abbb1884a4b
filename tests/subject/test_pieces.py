"""The exact text of tokens, byte-level or SentencePiece-type; and those that lose it."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rewrite_utils.explain.evidence import named
from rewrite_utils.llm.tokens import digit_tokens, option_tokens, text_tokens
from rewrite_utils.subject.pieces import quotable_texts, spelled, token_texts

TEXT = "the Té, 日本語 🤖\n\n  two\tspaces 1234"


def sentencepiece(*, prepends: bool) -> PreTrainedTokenizerFast:
    """BPE on blanks written ▁, bytes for what is not in the vocabulary, as Llama 2's and Gemma's;
    ``prepends``: a blank before every text, as Llama 2's."""
    letters = [chr(code) for code in range(33, 127)] + ["é", "▁"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "y"), ("e", "s"), ("▁y", "es")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    blanks = [normalizers.Prepend("▁")] if prepends else []
    tokenizer.normalizer = normalizers.Sequence([*blanks, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("prepends", [False, True])
def test_sentencepiece_tokens_join_to_the_text(prepends):
    tokenizer = sentencepiece(prepends=prepends)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    texts = token_texts(tokenizer, ids)
    assert "".join(texts) == " " * prepends + TEXT == tokenizer.decode(ids)
    assert {"é", "日", "🤖"} <= set(texts)


def test_a_piece_of_a_character_is_spelt_by_its_bytes():
    for tokenizer, blank in ((sentencepiece(prepends=False), "▁"), (byte_level(), "Ġ")):
        ids = tokenizer.encode("日", add_special_tokens=False)
        assert spelled(tokenizer, ids) == ["\\xe6", "\\x97", "\\xa5"]
        assert token_texts(tokenizer, ids) == ["", "", "日"]
        assert token_texts(tokenizer, ids[:2]) == ["", "\\xe6\\x97"]
        assert token_texts(tokenizer, ids[1:]) == ["\\x97", "\\xa5"]
        assert spelled(tokenizer, [tokenizer.convert_tokens_to_ids(blank)]) == [" "]


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\\xe6", "\\xe6"), ('"', "'\"'"), ("'", '"\'"'), (" the", "the"), (", ", '","')],
)
def test_a_listed_token_is_told_from_its_quotes_and_from_other_bytes(text, shown):
    assert named(text) == shown


@pytest.mark.parametrize(
    "model", [models.WordPiece({"tea": 0, "?": 1}, unk_token="?"), models.WordLevel({"tea": 0})]
)
def test_a_tokenizer_that_drops_blanks_is_refused_with_the_reason(model):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(ValueError, match=r"a Word\w+ one, which drops the blanks .* Gemma"):
        token_texts(tokenizer, [0])


def test_a_tokenizer_of_other_pieces_is_refused():
    tokenizer = Tokenizer(models.BPE({"tea</w>": 0, "茶": 1}, []))
    with pytest.raises(ValueError, match=r"'茶' is not made of bytes, nor of SentencePiece"):
        token_texts(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [1])


@pytest.mark.parametrize("prepends", [False, True])
def test_parts_of_a_prompt_are_joined_without_blanks_that_nobody_wrote(prepends):
    tokenizer = sentencepiece(prepends=prepends)
    parts = ["the te", "xt\n", "Rating: ", "7"]
    ids = [token for part in parts for token in text_tokens(tokenizer, part)]
    assert "".join(spelled(tokenizer, ids)) == "".join(parts)
    assert spelled(tokenizer, digit_tokens(tokenizer)) == list("0123456789")
    assert len(option_tokens(tokenizer, [" yes"])) == 1


def test_only_control_tokens_are_named_in_a_prompt():
    tokenizer = sentencepiece(prepends=False)
    tokenizer.add_tokens(["<br>", "▁▁"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    pieces = ["<s>", "</s>", "<start_of_turn>", "<br>", "▁▁", "▁the"]
    told = quotable_texts(tokenizer, tokenizer.convert_tokens_to_ids(pieces))
    assert told == ["[s]", "[end of text]", "[start_of_turn]", "<br>", "  ", " the"]
