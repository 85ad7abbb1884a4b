# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Simulation
#
# **From the sentence and the text alone: how strongly does the latent fire on the last token?**
#
# One prompt is one latent and one 32-token window. The probabilities of the digits 0–9 at a
# forced answer position give E = Σ p(d)·d from one forward pass; nothing is sampled, nothing
# parsed.

# %% [markdown]
# **Expect.** The paper's simulator (Llama-3.1-8B) calls far too many latents active: specificity
# about 80 %.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.report import plots, simulator_plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### One prediction
#
# The windows are shared by all latents and come first; the sentence comes last, so that each
# prediction costs only the sentence's own tokens.

# %%
report.one_prediction(next(iter(sites.values())))

# %% [markdown]
# ### Ratings where the latent fires and where it is silent

# %%
figure, axes = plots.panels(len(sites))
tables = {}
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    tables[name] = plots.rating_histogram(
        axis, site.ratings("calibrate").expected, site.true("calibrate"), title=name
    )
report.keep(
    run,
    "05_ratings",
    figure,
    report.stacked(tables),
    unit="(window, latent)",
    n=sum(s.true("calibrate").size for s in sites.values()),
)

# %% [markdown]
# ### How well ratings tell active from silent

# %%
report.frame(report.rating_quality(sites))

# %% [markdown]
# ### What screening would save
#
# Firing is rare, so most pairs are hopeless. A cheap first pass that sees only sentence and text
# ranks them; here the ratings of *all* pairs show what would be left if only the most plausible
# share went to the LLM. `simulate.screen` turns it on.

# %%
curves = report.screening(sites)
figure, axes = plots.panels(len(sites))
for axis, (name, table) in zip(axes, curves.groupby("site", sort=False), strict=True):
    simulator_plots.screening(axis, table, statistic="AUROC", title=name)
report.keep(run, "05_screening", figure, curves, unit="window", n=int(curves["windows"].max()))

# %% [markdown]
# ### Other ways to ask
#
# Firing rate, score or contrast tokens shown; the other two layouts; all positions of a window in
# one pass. Same pairs, paired differences. `studies.simulators` names the ways; each asks the LLM.
# *Levelled*: window and sentence means taken away, as the headline's calibration does.

# %%
report.simulator_study(run, sites)

# %% [markdown]
# ### What it costs

# %%
report.frame(
    report.llm_costs(
        {name: site.simulation_stage for name, site in sites.items()}, what="prediction"
    )
)

# %% [markdown]
# ## Result

# %%
report.headline(run, "05_simulation", report.simulation_headline(sites))

# %% [markdown]
# *What could be wrong.* AUROC is a poor target: a source with a few pure positives can have a low
# AUROC and be worth much in the rewrite. The simulator was not tuned on this task.
#
# Next: [06 · Calibration](06_calibration.ipynb).
