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
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import pandas as pd

from rewrite_utils.report import coders, curves, display, figures, tables
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
