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
from rewrite_utils import report
from rewrite_utils.report import plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites
from rewrite_utils.stages import CACHED_SPLITS

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### The four parts

# %%
corpus = next(iter(sites.values())).corpus
report.table(
    [
        (split, len(corpus.rows(split)), corpus.documents(split), corpus.tokens(split))
        for split in ("train", *CACHED_SPLITS)
    ],
    ["split", "rows", "documents", "tokens"],
)

# %% [markdown]
# ### How often latents fire

# %%
figure, axes = plots.panels(len(sites))
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    plots.firing_rates(axis, site.cache("explain").rate, title=f"{name}: {site.hookpoint.name}")
rates = report.stacked({name: report.rates(site) for name, site in sites.items()})
report.keep(run, "02_firing_rates", figure, rates, unit="latent", n=len(rates))

# %% [markdown]
# ### What latents fire on
#
# The strongest windows of the three latents that carry most of the output; background =
# activation, on the latent's own scale.

# %%
report.latent_windows(sites, latents=3, windows=3)

# %% [markdown]
# ## Result

# %%
report.headline(run, "02_activations", report.firing_headline(sites))

# %% [markdown]
# *What could be wrong.* A latent that fires on a tenth of all tokens is no sparse feature; narrow
# coders have such latents. Rates are from one kind of text.
#
# Next: [03 · Explanations](03_explanations.ipynb).
