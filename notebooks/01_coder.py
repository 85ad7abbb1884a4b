# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 · The coder
#
# **What does the sparse coder keep of the layer, and how much is left for its latents to
# decide?**
#
# A skip transcoder (or an SAE) is trained on one hookpoint. Every later number is a share of what
# its latents carry, so this range has to be known first.

# %% [markdown]
# **Expect.** The paper's transcoder on Pythia-160M costs about +10 % cross-entropy, its SAE about
# +33 %. Here: a narrow coder without skip at the first MLP costs more, and leaves a wide range to
# its latents.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.report.figures import use_style
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
use_style()

# %% [markdown]
# ## By hand
#
# What the coder makes of one row of text, in plain TransformerLens and torch; any cell can be
# copied into your own work. `model` is a TransformerLens `TransformerBridge`, the `coder` four
# tensors, `W_enc`, `b_enc`, `W_dec` and `b_dec`, and a fifth, `W_skip`, if it has a skip.

# %%
import matplotlib.pyplot as plt
import torch

site = next(iter(sites.values()))
model, coder, at = site.subject.bridge, site.coder.requires_grad_(False), site.hookpoint
tokens = site.corpus.rows("evaluate")[:1].to(site.subject.device)  # [batch pos], the BOS first
texts = site.texts(tokens[0].cpu().numpy())
print("".join(texts[:40]), "…")

# %% [markdown]
# **A layer is what it reads and what it writes.** Both are hooks, so one pass with a cache gives
# all that a coder is ever shown: pairs of vectors, one a token. (For a residual stream the two
# hooks are the same one.)

# %%
_, cache = model.run_with_cache(tokens, names_filter=[at.input_hook, at.output_hook])
x = cache[at.input_hook][0, 1:].float()  # [pos d_model], the BOS left out
y = cache[at.output_hook][0, 1:].float()
print(f"{at.input_hook} → {at.output_hook}: {len(x)} tokens, {x.shape[1]} numbers each")

# %% [markdown]
# **The encoder asks every latent and keeps the k strongest answers.** Each row of `W_enc` is one
# question put to x; the ReLU drops every no, and only the k loudest yeses reach the bar. What is
# left, nearly all zeros, is z: the latents of that token. (An SAE first takes `b_dec` off x; a
# coder without k has a bar of its own for each latent.)

# %%
read = x - coder.b_dec if coder.config.shifts_input else x
answers = read @ coder.W_enc.T + coder.b_enc  # [pos latent]
bar = coder.threshold if coder.k is None else answers.topk(coder.k).values[:, -1:]
z = torch.relu(answers) * (answers >= bar)
said, kept = ((part > 0).sum(1).float().mean() for part in (answers, z))
print(f"a token: {said:.1f} of {z.shape[1]} latents say yes, {kept:.1f} are kept")

# %% [markdown]
# **The decoder adds up directions.** What will stand in place of the layer is a constant, plus one
# row of `W_dec` for each latent that was kept, times its activation. A skip adds a linear map of x,
# which no sentence has to explain.

# %%
y_hat = z @ coder.W_dec + coder.b_dec
if coder.W_skip is not None:
    y_hat = y_hat + x @ coder.W_skip.T
lengths = (part.norm(dim=1).mean() for part in (y, y_hat, y - y_hat))
print("a token: |y| = {:.1f}, |ŷ| = {:.1f}, |y − ŷ| = {:.1f}".format(*lengths))

# %% [markdown]
# **What is lost is a squared distance.** Divided by what the mean output would lose, it is the
# fraction of variance unexplained (FVU): 0 is the layer itself, 1 no better than its mean, here
# that of this one row. Some tokens are all but free, others are hardly touched.

# %%
lost = (y - y_hat).square().sum(1)  # [pos]
mean_lost = (y - y.mean(0)).square().sum(1)
unexplained = lost.sum() / mean_lost.sum()

shown = range(min(24, len(lost)))
figure, axis = plt.subplots(figsize=(7.2, 2.4))
axis.bar(shown, mean_lost[: len(shown)].cpu(), color="#dddddd", label="lost by the mean")
axis.bar(shown, lost[: len(shown)].cpu(), color="#222222", width=0.5, label="lost by the coder")
axis.set(title=f"FVU of this row: {unexplained:.2f}", ylabel="|y − ŷ|²", xticks=shown)
axis.set_xticklabels([repr(t)[1:-1] for t in texts[1 : len(shown) + 1]], rotation=60, ha="right")
axis.legend()
plt.show()

# %% [markdown]
# **The package does the same.** It never writes down the zeros of z, so it adds in another order:
# equal to 1e-4.

# %%
from rewrite_utils.coder.fvu import fvu

assert torch.allclose(z, coder.dense(coder.encode(x)), rtol=1e-4, atol=1e-4)
assert torch.allclose(y_hat, coder(x), rtol=1e-4, atol=1e-4)
assert torch.allclose(unexplained, fvu(y, y_hat))

# %% [markdown]
# ## At scale

# %%
import pandas as pd

from rewrite_utils.report import coders, curves, display, figures, tables
from rewrite_utils.subject.stage import CACHED_SPLITS

made = figures.Provenance.of(run.params, run.opened)

# %% [markdown]
# ### The place
#
# A hookpoint is a TransformerLens hook: the coder reads the MLP's input behind its layer norm,
# and its output takes the place of the MLP's.

# %%
places = [(name, site.hookpoint) for name, site in sites.items()]
display.table(
    [(name, point.name, point.input_hook, point.output_hook) for name, point in places],
    ["site", "hookpoint", "coder reads", "coder replaces"],
)

# %% [markdown]
# ### Training
#
# One Adam run over cached activations; the BOS is never among them. FVU is Σ|y−ŷ|² / Σ|y−ȳ|².

# %%
training = {name: site.training.drop(columns="tokens_per_second") for name, site in sites.items()}
figure, places = figures.places(training)
for (axis,), name, records in places:
    config = sites[name].coder.config
    title = f"{name}: {config.num_latents} latents, k = {config.k}"
    curves.training(axis, records, title=title)
records = tables.stacked(training)
figures.keep(made, "01_training", figure, records, unit="step", n=len(records))

# %% [markdown]
# ### What it is worth
#
# Held-out positions of the evaluate rows, each patched alone. The *range* is the loss with every
# latent at its mean minus the loss with the coder as it is: what any rewrite of the
# latents can win or lose. `recovered` is the share kept of what the output is worth.

# %%
quality = tables.stacked({name: site.quality for name, site in sites.items()})
display.frame(coders.arms(quality))

# %% [markdown]
# ### What a good coder looks like
#
# In one row a coder: what it keeps, what it leaves to its latents, how many fire, how often.

# %%
splits = CACHED_SPLITS[:1] if run.params.corpus.faithful else CACHED_SPLITS
rows = {}
for name, site in sites.items():
    rate, tokens = coders.rates([site.cache(split) for split in splits])
    random, config = site.settings.coder == "random", site.coder.config
    rows[name] = coders.row(
        site.quality, config, site.hookpoint, rate, tokens=tokens, random=random
    )
table = pd.DataFrame([{"site": name} | row for name, row in rows.items()])
display.frame(coders.shown(table))

# %% [markdown]
# Beside it, as committed: transcoder with and without skip, SAE, and random weights, at every
# block of the mini-Pythia (notebook 11 on `params/beyond/kinds.yaml` makes this table).

# %%
display.frame(coders.shown(coders.committed("kinds")))

# %% [markdown]
# ## Result

# %%
said = "; ".join(
    f"{row.site}: FVU {row.FVU:.2f}, coder {row.delta:+.2f} nat, "
    f"range {row.range:.2f} nat (n = {row.rows} rows)"
    for row in table.itertuples()
)
run.headline("01_coder", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* The coder is trained on little text; a better one would have a lower FVU
# and a wider range. The range is measured at single positions: patching all positions at once
# costs more. The embedded subject is a 4-bit-derived instruct model with a SwiGLU MLP, not
# Pythia.
#
# Next: [02 · Activations](02_activations.ipynb).
