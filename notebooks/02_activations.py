# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Activations
#
# **Which latents fire, how often, and on what?**
#
# The coder is run over the rows that did *not* train it, in four disjoint parts: explain, score,
# calibrate, evaluate. A document is in one part only.

# %% [markdown]
# **Expect.** k of the latents fire on each token, so the mean firing rate is k / width (paper: 32
# / 32,768).

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
# One latent along one row of text. k latents fire on every token, so on average a latent fires on k
# / width of the tokens; of the latents that will get a sentence, look at the one nearest to that
# average. The notebooks up to 07 stay with this typical latent. (`site.collector` is the subject in
# the precision that activations are collected in.)

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

site = next(iter(sites.values()))
model, coder, at = site.collector.bridge, site.coder.requires_grad_(False), site.hookpoint
cache = site.cache("explain")
latent = min(site.described.tolist(), key=lambda one: abs(cache.rate[one] - cache.rate.mean()))
print(f"latent {latent} fires on {cache.rate[latent]:.1%}; the mean is {cache.rate.mean():.1%}")

# %% [markdown]
# **The cache keeps only what is not zero, sorted by latent.** So everything about one latent is one
# slice: rows, positions and activations of its firings. The row to look at has the largest.

# %%
rows, positions, values = cache.of(latent)
row = rows[values.argmax()]
tokens = torch.from_numpy(cache.tokens[[row]]).to(site.subject.device)  # [batch pos]
print(f"{len(values)} firings in {cache.n_tokens:,} tokens; the strongest is in row {row}")

# %% [markdown]
# **One latent cannot be computed alone.** Its own answer is a dot product, but whether it counts
# depends on all the others: it has to be among the k largest of its token.

# %%
_, seen = model.run_with_cache(tokens, names_filter=[at.input_hook])
x = seen[at.input_hook][0].float()
read = x - coder.b_dec if coder.config.shifts_input else x
answers = read @ coder.W_enc.T + coder.b_enc  # [pos latent]
bar = coder.threshold if coder.k is None else answers.topk(coder.k).values[:, -1:]
along = (torch.relu(answers) * (answers >= bar))[:, latent].cpu().numpy()
along[~cache.counted[row]] = 0  # the BOS and control tokens are left out of everything
print(f"fires on {(along > 0).sum()} of {len(along) - 1} tokens, at most {along.max():.1f}")

# %% [markdown]
# **A window is a stretch of text around a peak.** The strongest peak is found with a sort, and
# stands two thirds into its window, so that a reader sees more of what came before it.

# %%
length = 24
peak = int(np.argsort(-along, kind="stable")[0])  # of equal ones the first
end = min(max(peak + length // 3, length), len(along) - 1)  # the window's last token
window = slice(end - length + 1, end + 1)
texts = site.texts(cache.tokens[row, window])

figure, axis = plt.subplots(figsize=(7.2, 2.2))
axis.bar(range(length), along[window], color="#e69f00")
axis.set(title=f"latent {latent} in row {row}", ylabel="activation", xticks=range(length))
axis.set_xticklabels([repr(text)[1:-1] for text in texts], rotation=60, ha="right")
plt.show()

# %% [markdown]
# **The cache says the same**, and its strongest window is this one. The cache may have been made in
# bfloat16 (`subject.collect_dtype`) on another processor: then activations agree to 1 % of the
# largest, and where two latents all but tie for the last of the k places, the other one may have
# it. So one token in twenty is allowed to differ.

# %%
from rewrite_utils.latents.windows import firing_windows

stored = np.zeros(len(along), np.float32)
stored[positions[rows == row]] = values[rows == row]
assert np.mean(abs(along - stored) <= 0.01 * along.max()) >= 0.95
found, peaks = firing_windows(cache, latent, window_tokens=length)
strongest = peaks.argmax()
assert (found.rows[strongest], found.ends[strongest]) == (row, end)
assert np.isclose(along[peak], cache.maximum[latent], rtol=0.01)

# %% [markdown]
# ## At scale

# %%
import numpy as np
import pandas as pd

from rewrite_utils.report import curves, display, figures, tables
from rewrite_utils.subject.stage import CACHED_SPLITS

made = figures.Provenance.of(run.params, run.opened)

# %% [markdown]
# ### The four parts

# %%
corpus = next(iter(sites.values())).corpus
display.table(
    [
        (split, len(corpus.rows(split)), corpus.documents(split), corpus.tokens(split))
        for split in ("train", *CACHED_SPLITS)
    ],
    ["split", "rows", "documents", "tokens"],
)

# %% [markdown]
# ### How often latents fire

# %%
rates, caches = {}, {name: site.cache("explain") for name, site in sites.items()}
figure, places = figures.places(caches)
for (axis,), name, cache in places:
    curves.firing_rates(axis, cache.rate, title=f"{name}: {sites[name].hookpoint.name}")
    told = {"latent": np.arange(cache.n_latents), "rate": cache.rate, "mean": cache.mean}
    told |= {"maximum": cache.maximum, "energy": sites[name].energy}
    rates[name] = pd.DataFrame(told)
every = tables.stacked(rates)
figures.keep(made, "02_firing_rates", figure, every, unit="latent", n=len(every))

# %% [markdown]
# ### What latents fire on
#
# The strongest windows of the three latents that carry most of the output; background =
# activation, on the latent's own scale.

# %%
sum(
    display.strongest(caches[name], latent, site.texts, windows=3, title=f"{name}, latent {latent}")
    for name, site in sites.items()
    for latent in np.argsort(-site.energy, kind="stable")[:3].tolist()
)

# %% [markdown]
# ## Result

# %%
said = "; ".join(
    f"{name}: {(cache.counts > 0).sum()} of {cache.n_latents} latents fire, "
    f"mean rate {cache.rate.mean():.3f} (n = {cache.n_tokens:,} tokens)"
    for name, cache in caches.items()
)
run.headline("02_activations", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* A latent that fires on a tenth of all tokens is no sparse feature; narrow
# coders have such latents. Rates are from one kind of text.
#
# Next: [03 · Explanations](03_explanations.ipynb).
