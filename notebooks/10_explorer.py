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
# **What does this latent do, is its sentence right, and can you write a better one?**
#
# One card a latent, everything on one scale: the truth as background, the prediction as underline,
# the worst errors first. Live, the sentence can be changed and simulated again on the same windows.

# %% [markdown]
# **Expect.** The paper counts latents by the thousand and shows none of them failing. Here each can
# be looked at alone: what its sentence predicts, and what that costs the model when only this
# latent is replaced.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.explorer import LatentExplorer, headline
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
# Select a latent, change its sentence, press *try*: the button says what it costs. *Save* writes
# `curated.parquet` into the run's folder; the parameter `explain.curated` puts the saved sentences
# in the explainer's place from notebook 03 on.

# %%
first, *others = explorers.values()
first

# %% [markdown]
# ### The other site

# %%
others[0] if others else first

# %% [markdown]
# ### Your own text
#
# Which latents fire where; live, also what the sentences would have predicted.

# %%
first.read("The river flows through the old town, past three mills and a church built in 1432.")

# %% [markdown]
# ### The latents, from the costliest sentence down
#
# Cross-entropy with this latent alone at its sentence's prediction, minus that with it at its mean.

# %%
display.frame(first.table(sort="CE sentence − mean").iloc[::-1].reset_index(drop=True))

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
