# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 · Sensitivity and specificity
#
# **When a latent fires, is it predicted? When it is silent, is it left alone?**
#
# A prediction counts as active when it exceeds half of the latent's mean activation when it
# fires.

# %% [markdown]
# **Expect.** The paper (figure 4): specificity about 80 % before normalisation, which at 32
# active of 32,768 latents means thousands of false alarms a token; high after it, with less
# sensitivity. Better-scored latents do better in both.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import plots, report
from rewrite_utils.runs import open_run
from rewrite_utils.stages import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## Against the detection score (the paper's figure 4)

# %%
rates = report.sensitivity_specificity(sites)
figure, axes = plots.panels(len(sites), width=5.2)
for axis, name in zip(axes, sites, strict=True):
    plots.sensitivity_specificity(axis, rates[rates["site"] == name], title=name)
plots.shared_legend(figure)
report.keep(
    run, "08_sensitivity_specificity", figure, rates, unit="latent", n=rates["latent"].nunique()
)

# %% [markdown]
# ## Before and after calibration, all latents together

# %%
report.frame(report.rates_by_source(rates))

# %% [markdown]
# ## Result

# %%
report.headline(run, "08_sensitivity_specificity", report.specificity_headline(run, rates))

# %% [markdown]
# *What could be wrong.* A latent that never fires in the evaluate windows has no sensitivity and
# is left out of that curve. The threshold matters: another one moves both rates.
#
# Next: [09 · Report](09_report.ipynb).
