# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Explorer
#
# **What does this latent do, is what is said of it right, and can you say it better?**
#
# One card a latent, everything on one scale: the truth as background, the prediction as underline,
# the worst errors first. Live, a description is read and judged while you type, without an LLM,
# where the site has a reader (notebook 13); a click adds a word that it misses.

# %% [markdown]
# **Expect.** The paper counts latents by the thousand and shows none of them failing. Here each can
# be looked at alone: what is said of it predicts so much, and that costs the model so much when
# only this latent is replaced.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.explorer import LatentExplorer, headline, table
from rewrite_utils.report import display
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
explorers = {name: LatentExplorer(site) for name, site in sites.items()}

# %% [markdown]
# ## At scale

# %% [markdown]
# ### The clear case
#
# Select a latent, change what is said of it, look at R², AUROC and the estimated cost beside the
# old ones; *exact CE* says what measuring it takes. *Save* writes `curated.parquet` into the run's
# folder; the parameter `explain.curated` puts what you wrote in the explainer's place.

# %%
first, *others = explorers.values()
first

# %% [markdown]
# ### The other site

# %%
others[0] if others else display.said("This run has one site.")

# %% [markdown]
# ### The whole layer at a glance
#
# What is at stake in a latent (CE with its mean in its place, alone) against what is won back by
# what is said of it: by R² on evaluate rows, or measured where nothing is read. On the diagonal a
# description says all there is.

# %%
first.pictures

# %% [markdown]
# ### The rewritten model speaks
#
# The same prompt continued by the model, with the coder in the layer's place, with what the
# descriptions say of every token, and with every latent at its mean.

# %%
first.speak("The river")[1]

# %% [markdown]
# ### Your own text
#
# Which latents fire where, and what is said of them there.

# %%
first.read("The river flows through the old town, past three mills and a church built in 1432.")

# %% [markdown]
# ### The work list
#
# The descriptions that lose most of what is at stake.

# %%
table.html(first.work())

# %% [markdown]
# ## Result

# %%
said = headline({name: one.shelf for name, one in explorers.items()})
run.headline("10_explorer", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Few windows a latent, most of them silent: one card decides nothing. A
# sentence that was edited while looking at these windows is fitted to them; judge it in another run
# (another seed). Replaced alone, a latent costs little, and the costs do not add up: others may
# carry the same.
#
# Next: [00 · Tour](00_tour.ipynb).
