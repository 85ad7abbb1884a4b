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
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import numpy as np
import pandas as pd

from rewrite_utils.report import curves, display, figures, tables
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites
from rewrite_utils.stages import CACHED_SPLITS

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

# %% [markdown]
# ## At scale

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
