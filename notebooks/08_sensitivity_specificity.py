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
from rewrite_utils import report
from rewrite_utils.report import plots, study_plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### Against the scores (the paper's figure 4, and v2's version for fuzzing)
#
# Means of bins of eight latents or more with their 95 % intervals over latents; equal scores stay
# together. Where a site has too few latents for two bins, its title says so and one mean is drawn:
# such a site says nothing about scores.

# %%
rates = report.sensitivity_specificity(sites)
for score, by_site in report.score_tables(sites).items():
    report.against_score(run, report.scored(rates, by_site), score)

# %% [markdown]
# ### Before and after calibration, all latents together

# %%
report.frame(report.rates_by_source(rates))

# %% [markdown]
# ### How specific is specific enough?
#
# No prediction here: the *true* activations of all latents, and among the silent ones false alarms,
# each as strong as a true activation of its latent. Sensitivity is 1 by construction, so this is
# the best case for a given specificity. What a specificity means depends on how many latents are
# silent for every active one, so the axis is false alarms a true activation: at the paper's 32 of
# 32,768 latents 99 % is ten of them, 99.9 % one. Left of the crossing a rewrite beats mean
# ablation; the shaded bar is its 95 % interval over windows.

# %%
arms = report.specificity_arms(sites)
figure, axes = plots.panels(len(sites), width=5.8, height=4.4)
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    even = {topk: report.break_even(site, topk=topk) for topk in (False, True)}
    part = arms[arms["site"] == name]
    title = f"{name}, synthetic alarms, sensitivity 1\n{report.smallest_visible(part)}"
    study_plots.specificity(axis, part, even, title=title)
report.keep(run, "08_specificity_study", figure, arms, unit="window", n=int(arms["windows"].max()))

# %%
report.frame(report.break_even_table(sites))

# %% [markdown]
# ## Result

# %%
predicted = report.specificity_headline(run, rates)
study = "; ".join(report.specificity_line(site) for site in sites.values())
report.headline(run, "08_sensitivity_specificity", f"{predicted}; {study}")

# %% [markdown]
# *What could be wrong.* A latent that never fires in the evaluate windows has no sensitivity and
# is left out of that curve. The threshold matters: another one moves both rates. Synthetic false
# alarms are independent of the text; a simulator's come where the sentence half fits, which may
# cost more or less.
#
# Next: [09 · Report](09_report.ipynb).
