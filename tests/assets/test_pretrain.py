"""The mini-Pythia: its schedule, exact resumption, checkpoints as revisions, Pythia's insides."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rewrite_utils.assets import model_folder, store
from rewrite_utils.assets.catalogue import PYTHIA
from rewrite_utils.assets.pretrain import (
    PYTHIA_MINI,
    Pretraining,
    _Run,
    pretrain,
    training_rows,
)
from rewrite_utils.assets.splits import assign
from rewrite_utils.subject.model import load_subject
from rewrite_utils.subject.pieces import token_texts
from rewrite_utils.subject.splice import Untouched, hooked, spliced

PLAN = replace(
    PYTHIA_MINI, vocabulary=300, layers=2, d_model=16, row_tokens=16, rows=2, steps=20, every=6
)
RATE = _Run._rate
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "rain", "fall"]


DRAW = torch.Generator().manual_seed(0)
ORDERS = [torch.randint(len(WORDS), (40,), generator=DRAW).tolist() for _ in range(30)]
TEXTS = [" ".join(WORDS[i] for i in order) for order in ORDERS]


@pytest.fixture(autouse=True)
def documents(monkeypatch) -> None:
    """Thirty short documents in the place of the embedded text."""
    monkeypatch.setattr(store, "documents", lambda name: TEXTS)


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    """The asset, trained for twenty steps into a cache of the test's own."""
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "PYTHIA_MINI", PLAN)
    return store.ready(PYTHIA)


def train(plan: Pretraining, place: Path) -> dict[str, torch.Tensor]:
    (place / "made").mkdir(parents=True, exist_ok=True)
    pretrain(plan, [TEXTS], place / "made", state=place / "training.pt")
    return weights(place / "made")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder).state_dict())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_schedule_doubles_to_512_and_then_is_linear():
    doubling = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert PYTHIA_MINI.checkpoints == [*doubling, 768, 1024, 1280, 1536, 1792, 2048]
    assert replace(PYTHIA_MINI, steps=1000, every=300).checkpoints == [*doubling, 600, 900, 1000]
    assert PLAN.checkpoints == [0, 1, 2, 4, 8, 16, 20]
    pythia = replace(PYTHIA_MINI, steps=143_000, every=1000).checkpoints
    assert (len(pythia), pythia[11], pythia[-2]) == (154, 1000, 142_000)


def test_a_killed_training_ends_in_the_same_weights(tmp_path, monkeypatch):
    whole = train(PLAN, tmp_path / "whole")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rewrite_utils.assets.pretrain._Run._rate", _until(11, killed))
        train(PLAN, tmp_path / "killed")
    made = tmp_path / "killed" / "made"
    assert not (made / "config.json").exists()
    early = weights(made / "step8")
    assert equal(train(PLAN, tmp_path / "killed"), whole)
    assert equal(weights(made / "step8"), early)
    for step in PLAN.checkpoints:
        mine, other = weights(made / f"step{step}"), tmp_path / "whole" / "made" / f"step{step}"
        assert equal(mine, weights(other))


def _until(step: int, then):
    """The learning rate of the first steps; ``then`` at ``step``."""

    def rate(run):
        return then() if run.step == step else RATE(run)

    return rate


def test_another_plan_starts_over(tmp_path):
    train(PLAN, tmp_path)
    other = replace(PLAN, seed=1, steps=4)
    again = train(other, tmp_path)
    fresh = train(other, tmp_path / "fresh")
    assert equal(again, fresh)
    assert sorted(p.name for p in (tmp_path / "made").glob("step*")) == [
        "step0",
        "step1",
        "step2",
        "step4",
    ]


def test_training_learns_and_says_how(tmp_path):
    train(replace(PLAN, steps=60), tmp_path)
    losses = json.loads((tmp_path / "made" / "training.json").read_text())["losses"]
    assert len(losses) == 60
    assert losses[0] == pytest.approx(torch.tensor(300.0).log().item(), rel=0.05)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_diverging_loss_stops_with_step_and_learning_rate(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"stopped at step \d+ \(learning rate 9.9\de\+35\): the loss is nan"
    ):
        train(replace(PLAN, lr=1e36, warmup=0), tmp_path)


def test_too_little_text_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="make no step of 5000 rows"):
        train(replace(PLAN, rows=5000), tmp_path)


def test_checkpoints_are_revisions(cached):
    name = PYTHIA.name
    assert model_folder(name) == model_folder(name, "main") == str(cached)
    first, last = load_subject(name, revision="step0"), load_subject(name, revision="step20")
    newest, ids = load_subject(name), torch.tensor([[0, 5, 9, 40, 7]])
    assert torch.equal(newest.bridge(ids), last.bridge(ids))
    assert not torch.allclose(first.bridge(ids), last.bridge(ids), atol=1e-3)
    with pytest.raises(ValueError, match=r"no revision 'step3'; there are: step0, step1, .*step20"):
        load_subject(name, revision="step3")
    with pytest.raises(ValueError, match="no revision 'step3'"):  # a folder of one's own
        load_subject(str(cached), revision="step3")


def test_it_is_a_pythia(cached):
    subject = load_subject(PYTHIA.name)
    config = subject.bridge.original_model.config
    assert (config.model_type, config.use_parallel_residual) == ("gpt_neox", True)
    assert config.rope_parameters["partial_rotary_factor"] == 0.25
    assert not config.tie_word_embeddings
    weights = subject.bridge.original_model.get_output_embeddings().weight
    assert weights is not subject.bridge.original_model.get_input_embeddings().weight
    assert subject.bos == subject.tokenizer.eos_token_id == 0


def test_its_tokens_are_bytes(cached):
    tokenizer = load_subject(PYTHIA.name).tokenizer
    text = "Zürich — naïve café 日本語 🤖\n\n  two spaces\tdone 1234 <|endoftext|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(token_texts(tokenizer, ids)) == text
    assert ids[-1] == 0


@torch.no_grad()
def test_the_bridge_computes_what_transformers_does(cached):
    _same_as_transformers(PYTHIA.name)


def test_a_damaged_state_is_not_believed(tmp_path):
    whole = train(PLAN, tmp_path)
    state = tmp_path / "training.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert equal(train(PLAN, tmp_path), whole)


def test_documents_of_the_other_splits_are_not_seen():
    numbered = [f"document {index:03d} and nothing else" for index in range(60)]
    tokenizer, rows = training_rows(PLAN, [numbered])
    shares = {"train": PLAN.train, "evaluate": 1 - PLAN.train}
    seen = assign([numbered], shares, seed=PLAN.seed)["train"]
    found = set(re.findall(r"\d{3}", tokenizer.decode(rows[:, 1:].flatten().tolist())))
    assert 30 < len(found) < 60
    assert found <= {f"{place.index:03d}" for place in seen}


def test_a_killed_asset_goes_on_and_a_new_plan_makes_it_again(tmp_path, monkeypatch):
    monkeypatch.setenv("REWRITE_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "PYTHIA_MINI", PLAN)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("rewrite_utils.assets.pretrain._Run._rate", _until(17, killed))
        store.ready(PYTHIA)
    folder = tmp_path / PYTHIA.name
    assert not folder.exists()
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(
            "rewrite_utils.assets.pretrain._Run._rate",
            lambda run: steps.append(run.step) or RATE(run),
        )
        assert store.ready(PYTHIA) == folder
    assert steps[0] == 16
    assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []
    assert store.flaw(PYTHIA, folder) is None
    (folder / "step4" / "model.safetensors").write_bytes(b"")
    assert "step4/model.safetensors has 0 bytes" in store.flaw(PYTHIA, folder)
    monkeypatch.setattr(store, "PYTHIA_MINI", replace(PLAN, steps=21))
    assert "made from or by something else" in store.flaw(PYTHIA, folder)


trained = pytest.mark.skipif(
    store.flaw(PYTHIA, store.cache_folder() / PYTHIA.name) is not None,
    reason="not trained here: python -m rewrite_utils.assets embedded/pythia-mini",
)


@pytest.mark.assets
@trained
@torch.no_grad()
@pytest.mark.parametrize("revision", ["step0", "step64", "main"])
def test_the_trained_one_is_what_transformers_computes(revision):
    _same_as_transformers(PYTHIA.name, revision=revision)


def _same_as_transformers(name: str, *, revision: str = "main") -> None:
    """Logits equal, the untouched splice exact, the MLP's hook behind its layer norm."""
    subject = load_subject(name, revision=revision)
    folder = model_folder(name, revision)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    rows = torch.randint(1, 256, (3, 14), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = subject.bos
    logits = plain(rows).logits
    assert torch.equal(subject.bridge(rows), logits)
    for hookpoint in (subject.hookpoint("layers.1.mlp"), subject.hookpoint("layers.0")):
        with spliced(subject, None, hookpoint, Untouched()):
            assert torch.equal(subject.bridge(rows), logits)
    seen = {}
    block = plain.gpt_neox.layers[1]
    block.post_attention_layernorm.register_forward_hook(
        lambda _, args, out: seen.update(before=args[0], behind=out)
    )
    plain(rows)
    acts = hooked(subject, rows, subject.hookpoint("layers.1.mlp"))
    assert torch.equal(acts.inputs, seen["behind"])
    assert torch.equal(acts.outputs, block.mlp(seen["behind"]))
    assert not torch.allclose(acts.inputs, seen["before"], atol=1e-3)
