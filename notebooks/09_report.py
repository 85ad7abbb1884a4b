# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 · Report
#
# **What did the paper claim, and what did this run find?**

# %% [markdown]
# **Expect.** One row a claim: the paper's number, ours with its interval, and whether they agree.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)

# %% [markdown]
# ## At scale

# %% [markdown]
# ### Claims
#
# A run as small as this one can contradict a claim, or fail to see it; the last column says
# which.

# %%
claims = report.claims(run, sites)
report.frame(claims)

# %% [markdown]
# ### The paper's figures, and ours

# %%
report.frame(report.figures(run))

# %% [markdown]
# ### The coders
#
# What everything above rests on: what each coder keeps, and what it leaves its latents to decide.

# %%
coders = report.shown_coders(report.coder_table(sites))
report.frame(coders)

# %% [markdown]
# ### Headlines of the series

# %%
report.headlines(run)

# %% [markdown]
# ### The same claims in every run
#
# From the reports that are kept in `figures/`, one column a run and site.

# %%
report.write(run, claims, coders)
report.frame(report.across())

# %% [markdown]
# ## Result

# %%
report.headline(run, "09_report", report.report_headline(claims))

# %% [markdown]
# *What could be wrong.* Everything listed under "what could be wrong" in the notebooks before
# this one. The subject is not the paper's: SmolLM2-135M-Instruct, 4-bit-derived, SwiGLU,
# sequential blocks.
#
# Next: your own model and hookpoint: `params/pythia-160m.yaml` shows how.
