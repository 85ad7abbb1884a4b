import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rewrite_utils.coder.fvu import fvu, total_variance
from rewrite_utils.coder.sparse import CoderConfig, SparseCoder
from rewrite_utils.coder.training import (
    ScheduleFreeSignum,
    TensorBatches,
    TrainingSettings,
    learning_rate,
    train,
)
from rewrite_utils.coder.training.loss import CoderLoss, auxk
from rewrite_utils.runs.whole import DamagedFileWarning

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
CONFIG = CoderConfig(d_in=8, num_latents=32, k=4, skip_connection=True, hookpoint="layers.0.mlp")
SAE = CoderConfig(d_in=8, num_latents=32, k=4, transcode=False, normalize_decoder=True)
SETTINGS = TrainingSettings(lr=1e-2, warmup_steps=5, record_every=10, save_every=10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse_data(tokens: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    """A target that a TopK coder can learn: eight one-sided features of the input."""
    x = torch.randn(tokens, 8, generator=generator(1))
    directions = torch.randn(8, 8, generator=generator(2))
    return x, torch.relu(x @ directions - 1) @ torch.randn(8, 8, generator=generator(3)) + 5


def batches(epochs: int = 1) -> TensorBatches:
    return TensorBatches(*sparse_data(), batch=50, epochs=epochs)


class Stop(Exception):
    pass


def stop_at(step: int):
    def on_step(done: int) -> None:
        if done == step:
            raise Stop

    return on_step


def weights(coder: SparseCoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in coder.state_dict().items()}


def assert_same(first: SparseCoder, second: SparseCoder) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adam", "signum"])
@pytest.mark.parametrize("config", [CONFIG, CONFIG.model_copy(update={"skip_connection": False})])
def test_training_learns(config, optimizer):
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    result = train(config, batches(10), settings=settings)
    assert result.records[0].fvu > 2 * result.records[-1].fvu
    x, y = sparse_data()
    assert fvu(y, result.coder(x)).item() == pytest.approx(result.records[-1].fvu, rel=0.3)
    assert not any(p.requires_grad for p in result.coder.parameters())


def test_first_loss_is_that_of_the_constant_function():
    settings = SETTINGS.model_copy(update={"record_every": 1, "mean_batches": 40})
    result = train(CONFIG, batches(), settings=settings)
    _, y = sparse_data()
    first = batches()[0][1]
    assert result.records[0].fvu == pytest.approx(
        fvu(first, y.mean(0).expand_as(first)).item(), rel=1e-4
    )


def test_sae_keeps_decoder_rows_at_norm_one():
    x, _ = sparse_data()
    result = train(SAE, TensorBatches(x, x, batch=50, epochs=5), settings=SETTINGS)
    torch.testing.assert_close(result.coder.W_dec.norm(dim=1), torch.ones(32))
    assert result.records[-1].fvu < result.records[0].fvu


@pytest.mark.parametrize("optimizer", ["adam", "signum"])
@pytest.mark.parametrize("config", [CONFIG, SAE])
def test_a_stopped_run_continues_to_the_same_weights(config, optimizer, tmp_path):
    if config is SAE and optimizer == "signum":
        config = SAE.model_copy(update={"normalize_decoder": False})
    settings = SETTINGS.model_copy(
        update={"optimizer": optimizer, "auxk_alpha": 0.1, "dead_after": 300, "record_every": 7}
    )
    x, y = sparse_data()
    data = TensorBatches(x, y if config.transcode else x, batch=50, epochs=2)
    whole = train(config, data, settings=settings)
    with pytest.raises(Stop):
        train(config, data, settings=settings, folder=tmp_path, on_step=stop_at(37))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000030"]
    resumed = train(config, data, settings=settings, folder=tmp_path)
    assert_same(whole.coder, resumed.coder)
    assert [r[:-1] for r in whole.records] == [r[:-1] for r in resumed.records]
    assert_same(SparseCoder.load(tmp_path), whole.coder)


def test_a_killed_process_resumes_to_the_same_weights(tmp_path):
    script = (
        "import time, sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_training import CONFIG, SETTINGS, batches\n"
        "from rewrite_utils.coder.training import train\n"
        "train(CONFIG, batches(), settings=SETTINGS, folder=sys.argv[1],\n"
        "      on_step=lambda step: time.sleep(0.02))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(HERE)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        while not list(tmp_path.glob("checkpoint-*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob("checkpoint-*")), "there was nothing to resume from"
    assert not (tmp_path / "training.json").exists(), "the run ended before it was killed"
    resumed = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path)
    assert_same(resumed.coder, train(CONFIG, batches(), settings=SETTINGS).coder)


def test_a_finished_folder_is_reused_and_never_overwritten(tmp_path):
    first = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"cfg.json", "sae.safetensors", "training.json"}
    again = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path, on_step=stop_at(1))
    assert_same(first.coder, again.coder)
    assert again.records == first.records
    with pytest.raises(ValueError, match="belongs to another training"):
        train(CONFIG, batches(), settings=SETTINGS.model_copy(update={"lr": 1.0}), folder=tmp_path)


def test_a_damaged_checkpoint_is_named_and_not_used(tmp_path):
    with pytest.raises(Stop):
        train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path, on_step=stop_at(15))
    file = tmp_path / "checkpoint-00000010" / "training.pt"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="checkpoint-00000010 is damaged"):
        resumed = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path)
    assert_same(resumed.coder, train(CONFIG, batches(), settings=SETTINGS).coder)


@pytest.mark.parametrize("file", ["training.json", "sae.safetensors", "cfg.json"])
def test_a_damaged_result_is_named_and_trained_again(tmp_path, file):
    done = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(DamagedFileWarning, match=f"{tmp_path}.* is damaged, not used"):
        again = train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path)
    assert_same(again.coder, done.coder)
    assert train(CONFIG, batches(), settings=SETTINGS, folder=tmp_path).records == again.records


class Poisoned:
    """Batches of which one holds something that must stop the training."""

    def __init__(self, step: int, value: float) -> None:
        self.good, self.step, self.value = batches(), step, value

    def __len__(self) -> int:
        return len(self.good)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.good[step]
        if step == self.step:
            x = x.clone()
            x[3, 2] = self.value
        return x, y


def test_nan_activations_stop_with_step_and_learning_rate():
    message = r"stopped at step 12 \(learning rate 0.008\): the activations are not finite"
    with pytest.raises(RuntimeError, match=message):
        train(CONFIG, Poisoned(12, float("nan")), settings=SETTINGS)
    with pytest.raises(RuntimeError, match=r"step 0 .* not finite"):
        train(CONFIG, Poisoned(2, float("inf")), settings=SETTINGS)


def test_a_diverging_loss_stops_with_step_and_learning_rate():
    settings = SETTINGS.model_copy(update={"lr": 1e3, "clip": None})
    with pytest.raises(RuntimeError, match=r"step \d+ \(learning rate \S+\): the loss diverged"):
        train(CONFIG, batches(), settings=settings)


def test_a_constant_target_stops():
    x, y = sparse_data(200)
    settings = SETTINGS.model_copy(update={"warmup_steps": 1})
    with pytest.raises(RuntimeError, match="does not vary"):
        train(CONFIG, TensorBatches(x, torch.ones_like(y), batch=50), settings=settings)


def test_the_bar_shows_fvu_dead_latents_and_tokens_a_second(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(
        "rewrite_utils.coder.training.loop.tqdm.set_postfix",
        lambda bar, text, refresh: shown.append(text),
    )
    result = train(CONFIG, batches(), settings=SETTINGS.model_copy(update={"dead_after": 100}))
    last = result.records[-1]
    assert shown[-1]["FVU"] == f"{last.fvu:.3f}" and shown[-1]["dead"] == f"{last.dead:.1%}"
    assert float(shown[-1]["tokens/s"].replace(",", "")) > 0
    assert "training: 100%" in capsys.readouterr().err


def test_settings_and_activations_that_do_not_fit():
    with pytest.raises(ValueError, match="warmup_steps = 1000, but the batches make 40 steps"):
        train(CONFIG, batches(), settings=TrainingSettings())
    with pytest.raises(ValueError, match="maps width 9 to 9, but the activations are 8 and 8"):
        train(CoderConfig(d_in=9, num_latents=32, k=4), batches(), settings=SETTINGS)
    with pytest.raises(ValueError, match="normalize_decoder needs optimizer 'adam'"):
        train(SAE, batches(), settings=TrainingSettings(optimizer="signum"))
    with pytest.raises(ValueError, match="coders are trained as TopK: give the configuration a k"):
        train(CoderConfig(d_in=8, num_latents=32), batches(), settings=SETTINGS)
    with pytest.raises(ValueError, match="2000 tokens make no batch of 3000"):
        TensorBatches(*sparse_data(), batch=3000)


def test_learning_rate_is_the_papers():
    paper = TrainingSettings()
    rates = [learning_rate(paper, num_latents=32768, step=s, steps=5000) for s in range(5000)]
    assert max(rates) == pytest.approx(1.414e-4, rel=1e-3)
    assert rates[999] == max(rates)
    assert rates[0] == pytest.approx(max(rates) / 1000)
    assert rates[-1] == pytest.approx(max(rates) / 4000)


def test_every_epoch_shows_every_token_once():
    x = torch.arange(103.0)[:, None]
    data = TensorBatches(x, x, batch=10, epochs=2)
    epochs = [[data[s][0] for s in range(start, start + 10)] for start in (0, 10)]
    for epoch in epochs:
        assert len(set(torch.cat(epoch).flatten().tolist())) == 100
    assert not torch.equal(epochs[0][0], epochs[1][0])
    assert torch.equal(data[13][1], TensorBatches(x, x, batch=10, epochs=2)[13][1])
    with pytest.raises(IndexError, match="step 20 is not in 0 … 19"):
        data[20]


def test_auxk_trains_the_dead_latents_and_no_others():
    coder, (x, y) = SparseCoder(CONFIG, generator=generator()), sparse_data(100)
    coder.W_dec.data.normal_(generator=generator(5))
    dead = torch.zeros(32, dtype=torch.bool)
    dead[[3, 7, 20]] = True
    loss = auxk(coder, x, y - coder(x).detach(), total_variance(y), dead)
    rows = torch.autograd.grad(loss, [coder.W_enc, coder.W_dec])
    for gradient in rows:
        assert torch.equal(gradient.abs().sum(1) > 0, dead)
    assert loss.item() > 0


def test_auxk_is_scaled_down_when_few_latents_are_dead():
    coder, (x, y) = SparseCoder(CONFIG, generator=generator()), sparse_data(100)
    one, dead = torch.zeros(32, dtype=torch.bool), torch.ones(32, dtype=torch.bool)
    one[0] = True
    whole = total_variance(y)
    # The decoder is 0, so AuxK is the residual's own energy, times n_dead / (d_out / 2) at most 1.
    energy = y.square().sum() / whole
    torch.testing.assert_close(auxk(coder, x, y, whole, dead), energy)
    torch.testing.assert_close(auxk(coder, x, y, whole, one), energy / 4)


def test_auxk_is_off_by_default_and_needs_dead_latents():
    coder, (x, y) = SparseCoder(CONFIG, generator=generator()), sparse_data(100)
    none, every = torch.zeros(32, dtype=torch.bool), torch.ones(32, dtype=torch.bool)
    plain = CoderLoss(coder, auxk_alpha=0.0, processes=1)(x, y, total_variance(y), every)
    alive = CoderLoss(coder, auxk_alpha=1.0, processes=1)(x, y, total_variance(y), none)
    revived = CoderLoss(coder, auxk_alpha=1.0, processes=1)(x, y, total_variance(y), every)
    assert plain.loss == alive.loss == plain.fvu
    assert revived.loss > plain.loss


def test_signum_is_the_schedulefree_packages():
    schedulefree, peer = (
        pytest.importorskip("schedulefree"),
        pytest.importorskip("sparsify.sign_sgd"),
    )
    target = torch.randn(20, generator=generator())
    ours, theirs = (torch.nn.Parameter(torch.zeros(20)) for _ in range(2))
    mine = ScheduleFreeSignum([ours], lr=0.03, momentum=0.95)
    wrapped = schedulefree.ScheduleFreeWrapper(peer.SignSGD([theirs], lr=0.03), momentum=0.95)
    wrapped.train()
    for _ in range(30):
        for parameter, optimizer in ((ours, mine), (theirs, wrapped)):
            ((parameter - target) ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    mine.averaged()
    wrapped.eval()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


WORKER = """
import json, sys; sys.path.insert(0, sys.argv[2])
import torch.distributed as dist
from test_training import Share, run_recorded
dist.init_process_group("gloo")
records = run_recorded(Share(dist.get_rank(), dist.get_world_size()), sys.argv[3])
open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w").write(json.dumps(records))
dist.destroy_process_group()
"""


class Share:
    """One process' share of every joint batch (shares of 20 and 30 tokens)."""

    def __init__(self, rank: int, processes: int) -> None:
        self.joint = batches()
        self.part = slice(None) if processes == 1 else (slice(0, 20), slice(20, 50))[rank]

    def __len__(self) -> int:
        return len(self.joint)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.joint[step]
        return x[self.part], y[self.part]


def run_recorded(data: Share, folder: str | None) -> list[list[float]]:
    settings = SETTINGS.model_copy(
        update={"record_every": 1, "auxk_alpha": 0.1, "dead_after": 200, "save_every": 25}
    )
    result = train(CONFIG, data, settings=settings, folder=folder)
    return [list(record[:-1]) for record in result.records]


def test_two_processes_give_the_losses_of_one_with_the_joint_batch(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(tmp_path / "worker.py"), str(tmp_path), str(HERE)]
    folder = tmp_path / "coder"
    subprocess.run([*command, str(folder)], check=True, env=ENVIRONMENT, timeout=120)
    alone = torch.tensor(run_recorded(Share(0, 1), None))
    for rank in range(2):
        joint = torch.tensor(json.loads((tmp_path / f"{rank}.json").read_text()))
        torch.testing.assert_close(joint, alone, atol=1e-5, rtol=1e-4)
    assert SparseCoder.load(folder).config == CONFIG
