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
# The simulator's ratings have the wrong distribution. The paper matches the distributions latent by
# latent, T(x) = F_true⁻¹(F_pred(x)), and asks what would do better. This notebook is the argument:
# what the simulator says, what matching can and cannot mend, and what the conditional mean does
# instead.

# %% [markdown]
# **Expect.** The paper (figures 1 and A1): after normalisation the distributions agree, with 10K
# predictions much better than with 1K; the rewrite is still no better than ablation. From theory:
# with equal marginals E(a − â)² = 2 Var(a)(1 − ρ), so matching beats the mean only where the
# correlation ρ exceeds ½, and the conditional mean E[a | rating] cannot lose in expectation.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.report import plots, simulator_plots, study_plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites
from rewrite_utils.stages import studies

run = open_run(params_file, overrides)
sites = open_sites(run)
names = run.params.rewrite.calibrators
plots.use_style()

# %% [markdown]
# ## By hand
#
# The same latent: the paper's equation in five lines of NumPy, and what could replace it in three.
# What they have to go by are pairs from the calibrate windows: what the simulator said, its rating
# E, and what was so, the true activation a.

# %%
import matplotlib.pyplot as plt
import numpy as np
from sklearn.isotonic import IsotonicRegression

site = next(iter(sites.values()))
rate = site.cache("explain").rate
latent = min(site.sentences, key=lambda one: abs(rate[one] - rate.mean()))  # a typical one
column = site.simulated.index(latent)
E = site.ratings("calibrate").expected[:, column].astype(float)
a = site.true("calibrate")[:, column].astype(float)
E, a = E[~np.isnan(E)], a[~np.isnan(E)]  # NaN: screened out, never rated
print(f"latent {latent}: E from {E.min():.1f} to {E.max():.1f}; a > 0 in {(a > 0).mean():.0%}")

# %% [markdown]
# **The truth is cheap, ratings are dear.** So the distribution of true activations, F_true, comes
# from every token of the calibrate rows, and that of the ratings, F_pred, from a few windows. Most
# of the truth is exactly zero, and a simulator hardly ever says zero: hence a calibration.

# %%
cache = site.cache("calibrate")
everywhere = np.zeros(cache.n_tokens)
everywhere[: len(cache.of(latent).values)] = cache.of(latent).values
print(f"{len(everywhere):,} tokens, zero on {(everywhere == 0).mean():.1%}; {len(E)} ratings")

# %% [markdown]
# **T = F_true⁻¹ ∘ F_pred: the rating's rank, looked up among true activations.** F_pred is a
# plotting position, (rank − α) / (n + 1 − 2α), with tied ratings at the middle of their ranks.
# F_true⁻¹ is `numpy.quantile`. α = ⅓ and `median_unbiased` are two names of one estimator, type 8.

# %%
said, ties = np.unique(E, return_counts=True)
ranks = ties.cumsum() - (ties - 1) / 2
F_pred = (ranks - 1 / 3) / (len(E) + 1 / 3)


def T(rating):
    return np.quantile(everywhere, np.interp(rating, said, F_pred), method="median_unbiased")


print(f"the highest rating, {E.max():.1f}, becomes {T(E.max()):.1f}")

# %% [markdown]
# **E[a | E] is what the latent did, on average, when it was rated so.** The only assumption is that
# a higher rating never means less; least squares under it is isotonic regression.

# %%
rising = IsotonicRegression(out_of_bounds="clip")
conditional_mean = rising.fit(E, a).predict
print(f"the highest rating, {E.max():.1f}, becomes {conditional_mean(E).max():.1f}")

# %% [markdown]
# **Matching has to be bold.** T gives the highest ratings the highest activations, right or wrong;
# E[a | E] gives them what they earned on the calibrate windows. In expectation that cannot lose to
# the plain mean; fitted on few firings it can, which is why calibrations further down share one
# curve between latents. Squared errors at the evaluate windows, which none of them has seen:

# %%
new, truth = site.ratings("evaluate").expected[:, column], site.true("evaluate")[:, column]
new, truth = new[~np.isnan(new)].astype(float), truth[~np.isnan(new)]
arms = {"T": T(new), "E[a | E]": conditional_mean(new), "the mean": a.mean()}
print({name: round(np.mean((truth - told) ** 2).item(), 3) for name, told in arms.items()})

# %%
grid = np.linspace(E.min(), E.max(), 200)
figure, axis = plt.subplots(figsize=(5.2, 2.8))
axis.plot(E, a, "o", color="#bbbbbb", markersize=3, label="calibrate windows")
axis.plot(grid, T(grid), label="T, type 8")
axis.plot(grid, conditional_mean(grid), label="E[a | E]")
axis.axhline(a.mean(), color="#666666", linestyle="--", linewidth=0.8, label="the mean")
axis.set(title=f"latent {latent}", xlabel="rating E", ylabel="activation a")
axis.legend()
plt.show()

# %% [markdown]
# **The package's calibrators are these two curves**, with activations kept as float32: equal to
# 1e-4 of the largest.

# %%
from rewrite_utils.calibrate import Target, calibrator

target = Target.from_true(everywhere[:, None])
for name, by_hand in {"quantile:type8": T, "isotonic": conditional_mean}.items():
    fitted = calibrator(name).fit(E[:, None], a[:, None], target=target)
    assert np.allclose(fitted(new[:, None])[:, 0], by_hand(new), atol=1e-4 * everywhere.max())

# %% [markdown]
# ## At scale

# %% [markdown]
# ### What the simulator says
#
# It never says 0, although a latent is silent almost everywhere, and much of what its ratings vary
# by is not about the pair: the mood of the text (between windows) and of the sentence (between
# latents). Only the rest can hold the answer.

# %%
report.frame(report.shown_ratings(sites))

# %% [markdown]
# ### Before and after (the paper's figure 1)
#
# Share of (window, latent) pairs at or above an activation, on evaluate windows that no calibration
# has seen. Before: every pair fires. After: matching gives the right share and the right tail, to
# *somebody*; a conditional mean gives a little to everybody.

# %%
figure, axes = plots.panels(2 * len(sites), width=5.0, height=3.6)
tables, pairs = {}, zip(axes[::2], axes[1::2], strict=True)
for pair, (name, site) in zip(pairs, sites.items(), strict=True):
    shown = report.before_and_after(site, names)
    title = f"{name}, n = {site.settings.evaluate_windows} windows"
    tables[name] = study_plots.before_after(pair, shown, before=names[0], title=title)
whole = report.stacked(tables)
report.keep(run, "06_distributions", figure, whole, unit="window", n=report.windows(sites))

# %% [markdown]
# ### The same with fewer predictions (figure A1)

# %%
(figure, axes), tables = plots.panels(len(sites), width=5.0, height=3.6), {}
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    few = studies.few_windows(site)
    shown = report.before_and_after(site, names[1:], windows=few)
    title = f"{name}: {few} of {site.settings.calibrate_windows} calibrate windows"
    tables[name] = study_plots.survival(axis, shown, title=title)
fewer = report.stacked(tables)
report.keep(run, "06_fewer_distributions", figure, fewer, unit="window", n=report.windows(sites))

# %% [markdown]
# ### What matching can and cannot do
#
# ρ of each latent between matched and true activations, beside its squared error. Matched marginals
# put every latent on the line 2(1 − ρ), and only those right of ½ beat the mean. The simulator's
# few windows scatter around the line; **corrupted oracles** (true activations corrupted to the
# shape of the simulator's ratings at a chosen AUROC, *not the simulator*) can be asked about as
# many windows as there are, and lie on it.

# %%
latents = report.condition(sites, aurocs=run.params.studies.aurocs)
figure, axes = plots.panels(len(sites), width=5.0, height=3.8)
for axis, name in zip(axes, sites, strict=True):
    study_plots.condition(axis, latents[latents["site"] == name], title=f"{name}: quantile type 8")
rated = latents[latents["what"] == "simulator"]
report.keep(run, "06_condition", figure, latents, unit="latent", n=len(rated))
report.frame(report.condition_table(latents))

# %% [markdown]
# ### What the alternatives do instead
#
# Squared error minus that of mean ablation, paired, with 95 % bootstrap intervals over windows;
# left of zero is a gain. Three places: evaluate windows (never seen), the same with the k largest
# kept as in the paper, and the calibrate windows, each predicted from the others.

# %%
losses = report.latent_losses(sites)
figure, axes = plots.panels(len(sites), width=6.4, height=7.0)
for axis, name in zip(axes, sites, strict=True):
    study_plots.loss_forest(axis, losses[losses["site"] == name], title=name)
report.keep(run, "06_latent_losses", figure, losses, unit="window", n=report.windows(sites))

# %% [markdown]
# **Why the pooled curve can lose.** It is fitted in units of each latent's mean. Its top step rests
# on a few activations, and one of a latent that fires in 1 % of the tokens is worth about 100
# means; given to a latent that fires in 20 %, it claims to be active with probability 20. `capped`
# cuts every estimate at the latent's mean when active, which no conditional mean can pass if a
# rating says whether and not how much; `logistic_pooled` shares odds instead of means, and cannot
# pass it either. Which of them to take is chosen on calibrate windows alone:

# %%
headline = run.params.rewrite.headline
pooled = [name for name in report.ALTERNATIVES if "pooled" in name and name != headline]
report.frame(report.choice(sites, headline, pooled))

# %% [markdown]
# ### The missing experiment: which estimator, from how many windows?
#
# Ten thousand real ratings a latent are a week of GPUs, so this is a *declared corruption study*.
# Rating = latent's level + window's mood + noise + lift × activation, with the spreads of the real
# ratings, the lift set to a chosen AUROC, and every rank then given the real rating of that rank.
# Errors are independent given window and latent, which is optimistic. Fitted on calibrate rows,
# measured on evaluate rows.

# %%
mismatch = report.stacked({name: studies.estimators(site) for name, site in sites.items()})
figure, axes = plots.panels(2 * len(sites), width=5.2, height=3.6)
for place, name in enumerate(sites):
    part = mismatch[mismatch["site"] == name]
    study_plots.estimators(axes[2 * place : 2 * place + 2], part, title=name)
n = run.params.studies.held_windows
report.keep(run, "06_estimators", figure, mismatch, unit="window", n=n)

# %% [markdown]
# ### What that does to the model's loss
#
# All latents of the coder from corrupted oracles, through the real splice, on the evaluate windows:
# fewest against most calibration windows (figure A2), at three qualities.

# %%
arms = report.oracle_arms(sites)
draw, what = study_plots.oracle, ", corrupted oracle"
figure = report.study_figure(arms, draw, what=what, width=6.0, height=4.2)
plots.shared_legend(figure)
report.keep(run, "06_oracle_loss", figure, arms, unit="window", n=int(arms["windows"].max()))

# %% [markdown]
# And the simulator's own ratings, calibrated on few and on all of its windows:

# %%
own = report.fewer_arms(sites)
figure = report.study_figure(own, study_plots.fewer, width=6.0, height=3.4)
report.keep(run, "06_fewer_loss", figure, own, unit="window", n=report.windows(sites))

# %% [markdown]
# ### What a cheap first pass would cost the model
#
# Notebook 05 ranks pairs by sentence and text alone. Had only the most plausible share gone to the
# LLM, calibrated as the headline, with the rest in a bin of its own (its mean on the calibrate
# windows, not zero):

# %%
screened = report.screened_arms(sites)
what = f", {run.params.rewrite.headline}"
figure = report.study_figure(screened, simulator_plots.screening_loss, what=what)
report.keep(run, "06_screening_loss", figure, screened, unit="window", n=report.windows(sites))

# %% [markdown]
# ### One factor for everything
#
# The smallest possible calibration: mean + factor × (estimate − mean). The factor is chosen by the
# model's own loss on *calibrate* windows, each predicted from the other rows. A factor whose
# interval excludes 0 says that the sentences carry something.

# %%
shrunk = report.shrink_arms(sites)
what = ", calibrate windows held out"
figure = report.study_figure(shrunk, study_plots.shrink, what=what)
n = sum(site.settings.calibrate_windows for site in sites.values())
report.keep(run, "06_shrink", figure, shrunk, unit="window", n=n)

# %%
report.frame(report.best_factors(sites))

# %% [markdown]
# ## Result

# %%
unseen = losses[losses["where"] == "evaluate"]
report.headline(run, "06_calibration", report.calibration_headline(run, unseen))

# %% [markdown]
# *What could be wrong.* Few calibration windows: a latent that fires once in them has almost no
# distribution to match. Means, maxima and F_true are taken from all tokens of the calibrate rows,
# ratings only from the windows. The oracle's errors are independent where the simulator's are not;
# windows of one row are not independent of one another, and the intervals treat them as if.
#
# Next: [07 · The rewrite](07_rewrite.ipynb).
