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
from rewrite_utils import report
from rewrite_utils.report import plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### The place
#
# A hookpoint is a TransformerLens hook: the coder reads the MLP's input behind its layer norm,
# and its output takes the place of the MLP's.

# %%
report.table(
    [
        (name, s.hookpoint.name, s.hookpoint.input_hook, s.hookpoint.output_hook)
        for name, s in sites.items()
    ],
    ["site", "hookpoint", "coder reads", "coder replaces"],
)

# %% [markdown]
# ### Training
#
# One Adam run over cached activations; the BOS is never among them. FVU is Σ|y−ŷ|² / Σ|y−ȳ|².

# %%
figure, axes = plots.panels(len(sites))
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    plots.training_curve(
        axis,
        site.training,
        title=f"{name}: {site.coder.config.num_latents} latents, k = {site.coder.config.k}",
    )
report.keep(
    run,
    "01_training",
    figure,
    report.stacked(
        {name: s.training.drop(columns="tokens_per_second") for name, s in sites.items()}
    ),
    unit="step",
    n=sum(len(s.training) for s in sites.values()),
)

# %% [markdown]
# ### What it is worth
#
# Held-out positions of the evaluate rows, each patched alone. The *range* is the loss with every
# latent at its mean minus the loss with the coder as it is: what any rewrite of the
# latents can win or lose. `recovered` is the share kept of what the output is worth.

# %%
report.frame(report.arms_shown(sites))

# %% [markdown]
# ### What a good coder looks like
#
# In one row a coder: what it keeps, what it leaves to its latents, how many fire, how often.

# %%
report.frame(report.shown_coders(report.coder_table(sites)))

# %% [markdown]
# Beside it, as committed: transcoder with and without skip, SAE, and random weights, at every
# block of the mini-Pythia (notebook 11 on `params/beyond/kinds.yaml` makes this table).

# %%
report.frame(report.shown_coders(report.committed_coders("kinds")))

# %% [markdown]
# ## Result

# %%
report.headline(run, "01_coder", report.coder_headline(sites))

# %% [markdown]
# *What could be wrong.* The coder is trained on little text; a better one would have a lower FVU
# and a wider range. The range is measured at single positions: patching all positions at once
# costs more. The embedded subject is a 4-bit-derived instruct model with a SwiGLU MLP, not
# Pythia.
#
# Next: [02 · Activations](02_activations.ipynb).
