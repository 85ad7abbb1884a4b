# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · What a good coder looks like
#
# **Which hookpoint, width, k and skip leave the latents something to decide?**
#
# Every site of the parameter file is one coder. The sweeps are parameter files of their own:
# `params/beyond/width.yaml`, `params/beyond/layers.yaml`, `params/beyond/kinds.yaml`, run with
# `python -m rewrite_utils.series params/beyond/width.yaml --only 11`.

# %% [markdown]
# **Expect.** A skip connection carries most of what a narrow coder could: it lowers the FVU and
# shrinks the range that is left to the latents. Wider coders explain more. Random weights explain
# nothing.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration; its sites are the coders compared
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.report import coder_plots, plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### The coders
#
# FVU and losses at held-out positions, each patched alone. *CE recovered*: of what the output at
# its mean costs, the share that the coder saves (– where that cost is not seen to be above zero).
# *Range*: CE with all latents at their mean minus CE with the coder, which is all that a rewrite of
# latents can win or lose. Intervals are 95 % over rows; rates are over all rows not trained on.

# %%
coders = report.coder_table(sites)
report.frame(report.shown_coders(coders))

# %% [markdown]
# ### The dynamic range
#
# By layer and by width, as far as the sites differ in them; a line joins coders that differ in
# nothing else.

# %%
trained = coders[~coders["kind"].str.startswith("random")]
figure = coder_plots.coder_figure(trained, y="range")
report.keep(run, "11_range", figure, coders, unit="row", n=int(coders["rows"].sum()))

# %% [markdown]
# ### What is left unexplained

# %%
figure = coder_plots.coder_figure(trained, y="FVU")
report.keep(run, "11_kept", figure, coders, unit="row", n=int(coders["rows"].sum()))

# %% [markdown]
# ### Who fires how often

# %%
figure, (axis,) = plots.panels(1, width=6.5)
kinds = dict(zip(coders["site"], coders["kind"], strict=True))
rates = coder_plots.firing_rate_curves(axis, report.coder_firing_rates(sites), kinds)
report.keep(run, "11_firing_rates", figure, rates, unit="token", n=int(coders["tokens"].max()))

# %% [markdown]
# ### Several layers at once
#
# The coders of all sites spliced together, every latent of theirs from one source, each layer
# reading what the layers below it have left of the stream. Layers are added in the order of the
# parameter file; dotted: what they cost one by one, summed.

# %%
report.layers_at_once(run, sites)

# %% [markdown]
# ## Result

# %%
report.headline(run, "11_coders", report.coders_headline(coders))

# %% [markdown]
# **Which coder the embedded run has, and why.** The first MLP and the last: of SmolLM2's layers 0,
# 6, 12, 18, 24, 29 only these leave a range (2.72 and .83 nat; at most .04 in between). No skip:
# it takes 37 % and 30 % of these (98 % at the mini-Pythia's first MLP). 32 latents with k 2 early:
# 58 % of the range that 1,024 with k 8 have, and every latent is simulated in every window. The
# tables are in EXPERIMENTS.md and `figures/beyond/`.
#
# *What could be wrong.* Each coder is one draw of weights, trained on little text, at one learning
# rate for all widths. A small range does not mean a bad coder: a skip may carry what matters, and
# then a rewrite of the latents can neither win nor lose much.
