# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · Calibration
#
# **What may a rating be turned into, so that it hurts the model least?**
#
# The simulator's ratings have the wrong distribution: it never says 0, and a latent is silent
# almost always. The paper matches the distributions latent by latent, T(x) = F_true⁻¹(F_pred(x)).

# %% [markdown]
# **Expect.** Matching marginals helps over raw ratings. But E(a − â)² = 2 Var(a)(1 − ρ): it beats
# the mean only where the correlation ρ exceeds ½. The conditional mean E[a | rating] cannot lose
# in expectation.

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
# ## Before and after (the paper's figure 1)
#
# Share of (window, latent) pairs above an activation, on evaluate windows that no calibrator has
# seen.

# %%
figure, axes = plots.panels(len(sites))
tables = {}
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    tables[name] = plots.distributions(axis, report.activations_by_source(site), title=name)
report.keep(
    run,
    "06_distributions",
    figure,
    report.stacked(tables),
    unit="window",
    n=sum(s.settings.evaluate_windows for s in sites.values()),
)

# %% [markdown]
# ## Does the rating correlate well enough?
#
# ρ between the matched rating and the truth, a latent at a time; above ½ matching beats the mean.

# %%
report.frame(report.correlation_table(sites))

# %% [markdown]
# ## Loss in latent space, against the mean
#
# Squared error minus that of mean ablation, in units of the total variance; below zero is a gain.
# 95 % bootstrap intervals over windows.

# %%
losses = report.latent_losses(sites)
figure, axes = plots.panels(len(sites), width=5.6)
for axis, name in zip(axes, sites, strict=True):
    plots.forest(
        axis,
        losses[losses["site"] == name],
        value="difference",
        xlabel="squared error − mean ablation's, share of variance",
        title=name,
    )
report.keep(run, "06_latent_losses", figure, losses, unit="window", n=int(losses["windows"].sum()))

# %% [markdown]
# ## Result

# %%
report.headline(run, "06_calibration", report.calibration_headline(run, losses))

# %% [markdown]
# *What could be wrong.* Few calibration windows: a latent that fires once in them has almost no
# distribution to match. Means, maxima and F_true are taken from all tokens of the calibrate rows,
# ratings only from the windows.
#
# Next: [07 · The rewrite](07_rewrite.ipynb).
