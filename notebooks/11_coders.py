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
# nothing, or less: at the mini-Pythia's third MLP their latents cost more than their mean.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # its sites are the coders compared
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import pandas as pd

from rewrite_utils.latents.windows import shared_rows
from rewrite_utils.report import coders, display, figures, verdicts
from rewrite_utils.rewrite import at_once
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import losses_at_once, open_sites, windows_at_once
from rewrite_utils.subject.stage import CACHED_SPLITS

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

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
splits = CACHED_SPLITS[:1] if run.params.corpus.faithful else CACHED_SPLITS
rates, rows = {}, {}
for name, site in sites.items():
    rates[name], tokens = coders.rates([site.cache(split) for split in splits])
    told = site.quality, site.coder.config, site.hookpoint, rates[name]
    rows[name] = coders.row(*told, tokens=tokens, random=site.settings.coder == "random")
table = pd.DataFrame([{"site": name} | row for name, row in rows.items()])
display.frame(coders.shown(table))

# %% [markdown]
# ### The dynamic range
#
# By layer and by width, as far as the sites differ in them; a line joins coders that differ in
# nothing else.

# %%
trained, n = table[~table["kind"].str.startswith("random")], int(table["rows"].sum())
figures.keep(made, "11_range", coders.over(trained, y="range"), table, unit="row", n=n)

# %% [markdown]
# ### What is left unexplained

# %%
figures.keep(made, "11_kept", coders.over(trained, y="FVU"), table, unit="row", n=n)

# %% [markdown]
# ### Who fires how often

# %%
figure, (axis,) = figures.panels(1, width=6.5)
kinds = dict(zip(table["site"], table["kind"], strict=True))
drawn = coders.firing_rates(axis, rates, kinds)
figures.keep(made, "11_firing_rates", figure, drawn, unit="token", n=int(table["tokens"].max()))

# %% [markdown]
# ### Several layers at once
#
# The coders of all sites spliced together, every latent of theirs from one source, each layer
# reading what the layers below it have left of the stream. Layers are added in the order of the
# parameter file; dotted: what they cost one by one, summed.

# %%
together, draws = pd.DataFrame(), run.params.rewrite.bootstrap
NONE = "Several layers at once: not measured, studies.layers_at_once is off "
NONE += "(params/beyond/layers_at_once.yaml switches it on)."
if run.params.studies.layers_at_once:
    losses = losses_at_once(sites)
    told = {"seed": run.params.seed, "resamples": draws}
    judged = at_once.judged(losses, units=shared_rows(windows_at_once(sites).rows), **told)
    together, n = verdicts.growing(judged, list(sites)), int(judged["windows"].max())
    figure, (left, right) = figures.panels(2, width=5.6, height=4.2)
    coders.layers_at_once(left, together, value="delta", parts=True)
    coders.layers_at_once(right, together, value="minus_mean", parts=False)
    left.set_title(f"{run.params.name}: all latents of each layer, n = {n} windows")
    seen = together[together["source"] == "word list"]["detectable"]
    span = f"word list: smallest visible {seen.min():.2f}–{seen.max():.2f} nat"
    right.set_title(f"against mean ablation of the same layers\n{span}")
    figures.shared_legend(figure)
    figures.keep(made, "11_at_once", figure, judged, unit="window", n=n)

# %%
display.frame(verdicts.layers(together)) if len(together) else display.said(NONE)

# %% [markdown]
# ## Result

# %%
said = coders.headline(table)
run.headline("11_coders", {"text": said})
display.said(said, head=True)

# %% [markdown]
# **Which coder the embedded run has, and why.** The first MLP and the last: of SmolLM2's layers 0,
# 6, 12, 18, 24, 29 these leave a range of 2.72 and .83 nat, layer 6 one of .038 [.017, .070]; at
# 12, 18 and 24 none is seen (the ends of the intervals are within .06 nat of zero). No skip:
# it takes 37 % and 30 % of these (98 % at the mini-Pythia's first MLP). 32 latents with k 2 early:
# 58 % of the range that 1,024 with k 8 have, and every latent is simulated in every window. The
# tables are in EXPERIMENTS.md and `figures/beyond/`.
#
# *What could be wrong.* Each coder is one draw of weights, trained on little text, at one learning
# rate for all widths. A small range does not mean a bad coder: a skip may carry what matters, and
# then a rewrite of the latents can neither win nor lose much.
