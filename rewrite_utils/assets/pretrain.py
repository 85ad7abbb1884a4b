"""A small Pythia trained here, because no registry carries one: GPT-NeoX with its checkpoints.

In: a `Pretraining` (architecture, schedule), its text, a folder. Out: a model folder, and one below
it a checkpoint (`step0`, `step1`, `step2`, `step4` … `step512`, then linear), each as transformers
reads it. A killed training goes on where it stopped. Knows nothing of the experiment.
Paper: method §8, "checkpoint equivalence" (Pythia has 154 of them).
"""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from rewrite_utils.assets.convert import quiet_transformers
from rewrite_utils.assets.splits import Texts, assign, rows_of
from rewrite_utils.runs.whole import read_or_none, whole

END = "<|endoftext|>"
"""BOS and EOS in one, id 0, as in Pythia."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Everything that determines the model; the defaults are the mini-Pythia's."""

    sources: tuple[str, ...] = ("embedded/wikipedia",)
    """Names of the embedded texts it is trained on."""
    train: float = 0.7
    """Share of the documents it sees: those of the train split at this share and seed."""
    seed: int = 22
    """Splits the documents, draws the weights, orders the rows."""
    vocabulary: int = 4096
    """Tokens of its byte-level BPE, trained on the same documents."""
    layers: int = 4
    """Blocks, with parallel residual."""
    d_model: int = 128
    """Width of the residual stream; the MLP is four times as wide."""
    heads: int = 4
    """Attention heads, a quarter of each rotary."""
    row_tokens: int = 128
    """Tokens in a row, BOS included; also the model's context."""
    rows: int = 8
    """Rows in a step."""
    steps: int = 2048
    """Steps in all."""
    lr: float = 2e-3
    """Peak learning rate of AdamW: linear warm-up, then cosine to a tenth (Pythia's)."""
    warmup: int = 50
    """Steps of warm-up."""
    every: int = 256
    """Steps between two checkpoints after 512."""

    @property
    def checkpoints(self) -> list[int]:
        """Steps whose weights are kept: 0, 1, 2, 4 … 512, then every `every`, and the last."""
        doubling = [0, *(2**power for power in range(10))]
        linear = range(-(-513 // self.every) * self.every, self.steps, self.every)
        return [step for step in doubling if step < self.steps] + [*linear, self.steps]


PYTHIA_MINI = Pretraining()


def pretrain(plan: Pretraining, texts: Texts, folder: Path, *, state: Path) -> None:
    """Train and write the model and its checkpoints into `folder`; continue from `state` if it is
    this training's. `texts` holds the documents of the plan's sources.
    """
    tokenizer, rows = training_rows(plan, texts)
    run = _Run(plan, len(tokenizer), rows, state)
    if not run.resume():
        for left in folder.iterdir():  # of another training
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        run.keep(folder, tokenizer)
    with tqdm(total=plan.steps, initial=run.step, desc="pretraining", unit="step") as bar:
        while run.step < plan.steps:
            run.advance()
            if run.step in plan.checkpoints:
                run.keep(folder, tokenizer)
            bar.set_postfix({"loss": f"{run.losses[-1]:.2f}"}, refresh=False)
            bar.update()
    shutil.copytree(folder / f"step{plan.steps}", folder, dirs_exist_ok=True)
    done = json.dumps({**asdict(plan), "losses": run.losses}, indent=1)
    (folder / "training.json").write_text(done + "\n", "utf-8")


def training_rows(
    plan: Pretraining, texts: Texts
) -> tuple[PreTrainedTokenizerFast, Int[Tensor, "row pos"]]:
    """The tokenizer and the rows of the train split; other documents are in neither."""
    seen = assign(texts, {"train": plan.train, "evaluate": 1 - plan.train}, seed=plan.seed)["train"]
    documents = (texts[place.source][place.index] or "" for place in seen)
    tokenizer = train_tokenizer(documents, size=plan.vocabulary)
    found = rows_of(texts, seen, tokenizer, name="train", row_tokens=plan.row_tokens, bos=0)
    return tokenizer, found.rows


def train_tokenizer(texts: Iterator[str], *, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE with one special token, `END`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def configuration(plan: Pretraining, vocabulary: int) -> GPTNeoXConfig:
    """Pythia's architecture: parallel residual, a quarter rotary, embeddings not tied."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=plan.d_model,
        intermediate_size=4 * plan.d_model,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        max_position_embeddings=plan.row_tokens,
        use_parallel_residual=True,
        rope_parameters=rope,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",  # faster backward than sdpa at this size on the CPU
    )


class _Run:
    """The state of one training."""

    def __init__(
        self, plan: Pretraining, vocabulary: int, rows: Int[Tensor, "row pos"], state: Path
    ) -> None:
        self.plan, self.rows, self.state = plan, rows, state
        if len(rows) < plan.rows:
            raise ValueError(f"{len(rows)} rows of text make no step of {plan.rows} rows")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.model = GPTNeoXForCausalLM(configuration(plan, vocabulary)).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.step = 0
        self.losses: list[float] = []

    def advance(self) -> None:
        """One step; RuntimeError, with step and learning rate, where the loss is not finite."""
        ids, rate = self._batch(), self._rate()
        loss = self.model(input_ids=ids, labels=ids).loss
        if not loss.isfinite():
            raise RuntimeError(
                f"pretraining stopped at step {self.step} (learning rate {rate:.3g}): the loss is "
                f"{loss.item()}; lower the learning rate"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss.item())

    def keep(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        """Write the checkpoint of this step, then what a killed training needs to go on."""
        target, partial = folder / f"step{self.step}", folder / ".step"
        for left in (target, partial):
            shutil.rmtree(left, ignore_errors=True)
        with quiet_transformers():
            self.model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        partial.rename(target)
        content = {
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        with whole(self.state) as file:
            torch.save(content, file)

    def resume(self) -> bool:
        """Continue from the state on disk, if it can be read and is this training's."""
        found = read_or_none(self.state, lambda file: torch.load(file, weights_only=True))
        if found is None or found["plan"] != asdict(self.plan):
            return False
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.losses = found["step"], found["losses"]
        return True

    def _batch(self) -> Int[Tensor, "row pos"]:
        """The rows of this step; every epoch is another permutation."""
        a_pass = len(self.rows) // self.plan.rows
        epoch, place = divmod(self.step, a_pass)
        generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=generator)
        return self.rows[order[place * self.plan.rows : (place + 1) * self.plan.rows]]

    def _rate(self) -> float:
        plan = self.plan
        warm = (self.step + 1) / max(plan.warmup, 1)
        done = max(self.step - plan.warmup, 0) / max(plan.steps - plan.warmup, 1)
        return plan.lr * min(warm, 0.55 + 0.45 * math.cos(math.pi * done))
