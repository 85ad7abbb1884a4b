# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · Tour
#
# **Can the inside of a language model be rewritten in plain English?**
#
# This notebook follows one latent through the whole experiment: the layer it belongs to, what it
# fires on, the sentence an LLM wrote about it, what a second LLM predicts from that sentence, and
# what the prediction does to the model.

# %% [markdown]
# **Expect.** One MLP of a small language model, replaced piece by piece: by a sparse coder, by
# sentences about the coder's latents, by nothing at all. The question is whether sentences are
# better than nothing.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.explorer import LatentExplorer
from rewrite_utils.report import coders, display, figures, tables, verdicts
from rewrite_utils.report.pipeline import pipeline
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
site = next(iter(sites.values()))
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### The experiment at one token (the paper's figure 2, with this run's numbers)
#
# Of the windows whose next token the model itself expects (chance .1 or more) the one on which the
# sentences win over mean ablation what they win on average. Bold: the token that the text goes on
# with. Below the latents that fire, the two silent ones that their sentences overrate most.

# %%
example = site.example
figure = pipeline(*example, layer=site.hookpoint.name)
data = tables.stacked({"latents": example.latents, "next tokens": example.said})
figures.keep(made, "00_pipeline", figure, data.rename(columns={"site": "part"}), unit="window", n=1)

# %% [markdown]
# ### The layer
#
# What the model loses when this MLP's output is replaced: by the coder, by its mean, by nothing.

# %%
display.frame(coders.arms(site.quality.assign(site=site.name)))

# %% [markdown]
# ### One latent
#
# Its sentence, what a second LLM makes of that sentence, and what it costs the model if only this
# latent is replaced. True activation as background, calibrated prediction as underline. Live, the
# sentence can be changed: the button says what that costs.

# %%
LatentExplorer(site)

# %% [markdown]
# ### What the rewrite does to the model

# %%
verdict = {name: one.verdict for name, one in sites.items()}
said = verdicts.headline(verdict, run.params.rewrite.headline)
run.headline("00_tour", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* One latent, chosen because it carries much, is no sample. The notebooks
# 01–09 count, [10](10_explorer.ipynb) has every latent.
#
# Next: [01 · The coder](01_coder.ipynb).
