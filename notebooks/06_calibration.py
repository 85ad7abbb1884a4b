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
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.report.figures import use_style
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
use_style()

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

# %%
import pandas as pd

from rewrite_utils.report import (
    calibrations,
    curves,
    display,
    figures,
    forests,
    levers,
    ratings,
    spreads,
    studies,
    tables,
)
from rewrite_utils.rewrite.arms import before_topk
from rewrite_utils.rewrite.studies import read_oracle_name

names = run.params.rewrite.calibrators
made = figures.Provenance.of(run.params, run.opened)

# %% [markdown]
# ### What the simulator says
#
# It never says 0, although a latent is silent almost everywhere, and much of what its ratings vary
# by is not about the pair: the mood of the text (between windows) and of the sentence (between
# latents). Only the rest can hold the answer.

# %%
evidence = {name: site.evidence for name, site in sites.items()}
rows = [
    {"site": name} | ratings.spread(told.ratings.expected, told.true)
    for name, told in evidence.items()
]
display.frame(pd.DataFrame(rows))

# %% [markdown]
# ### Before and after (the paper's figure 1)
#
# Share of (window, latent) pairs at or above an activation, on evaluate windows that no calibration
# has seen. Before: every pair fires. After: matching gives the right share and the right tail, to
# *somebody*; a conditional mean gives a little to everybody.

# %%
rated = {name: site.ratings("evaluate") for name, site in sites.items()}
true = {name: site.true("evaluate") for name, site in sites.items()}
windows = sum(len(values) for values in true.values())
figure, places = figures.places(true, each=2, width=5.0, height=4.8)
drawn = {}
for pair, name, values in places:
    told = {source: evidence[name].calibrated(source, rated[name]) for source in names}
    shown, title = {"true": values} | told, f"{name}, n = {len(values)} windows"
    drawn[name] = spreads.before_after(pair, shown, before=names[0], title=title)
whole = tables.stacked(drawn)
figures.keep(made, "06_distributions", figure, whole, unit="window", n=windows)

# %% [markdown]
# ### The same with fewer predictions (figure A1)

# %%
figure, places = figures.places(true, width=5.0, height=4.8)
drawn = {}
for (axis,), name, values in places:
    few, every = sites[name].few_windows, len(evidence[name].true)
    fewer = evidence[name].first(few)
    told = {source: fewer.calibrated(source, rated[name]) for source in names[1:]}
    title = f"{name}: {few} of {every} calibrate windows"
    drawn[name] = spreads.survival(axis, {"true": values} | told, title=title)
whole = tables.stacked(drawn)
figures.keep(made, "06_fewer_distributions", figure, whole, unit="window", n=windows)

# %% [markdown]
# ### What matching can and cannot do
#
# ρ of each latent between matched and true activations, beside its squared error. Matched marginals
# put every latent on the line 2(1 − ρ), and only those right of ½ beat the mean. The simulator's
# few windows scatter around the line; **corrupted oracles** (true activations corrupted to the
# shape of the simulator's ratings at a chosen AUROC, *not the simulator*) can be asked about as
# many windows as there are, and lie on it.

# %%
asked, latents = run.params.studies, {}
sizes = {"windows": max(asked.sizes), "held": asked.held_windows}
for name, site in sites.items():
    matched = evidence[name].calibrated("quantile:type8", rated[name])
    own = calibrations.condition(true[name], matched, evidence[name].target.mean)
    parts, material = [own.assign(what="simulator")], site.material
    for auroc in asked.aurocs:
        oracle = calibrations.oracle_condition(material, auroc=auroc, **sizes)
        parts.append(oracle.assign(what=f"oracle of AUROC {auroc:g}"))
    latents[name] = pd.concat(parts, ignore_index=True)

# %%
figure, places = figures.places(latents, width=5.0, height=3.8)
for (axis,), name, table in places:
    spreads.condition(axis, table, title=f"{name}: quantile type 8")
every = tables.stacked(latents)
own = every[every["what"] == "simulator"]
figures.keep(made, "06_condition", figure, every, unit="latent", n=len(own))
display.frame(calibrations.condition_table(every))

# %% [markdown]
# ### What the alternatives do instead
#
# Squared error minus that of mean ablation, paired, with 95 % bootstrap intervals over windows;
# left of zero is a gain. Three places: evaluate windows (never seen), the same with the k largest
# kept as in the paper, and the calibrate windows, each predicted from the others.

# %%
measured = {
    name: calibrations.Measured(
        evidence=evidence[name],
        rows=site.simulated_windows("calibrate").rows,
        ratings=rated[name],
        whole=site.cache("evaluate").dense(site.simulated_windows("evaluate")),
        latents=site.simulated,
        decoder=site.coder.W_dec.detach().cpu().numpy(),
        k=site.coder.config.k,
        seed=run.params.seed,
    )
    for name, site in sites.items()
}

# %%
headline, losses = before_topk(run.params.rewrite.headline), {}
alternatives = list(dict.fromkeys([*calibrations.ALTERNATIVES, headline]))
for name, site in sites.items():
    free = {source: site.estimates[source].values for source in ("token table", "word list")}
    controls = {source: values[: len(true[name])] for source, values in free.items()}
    losses[name] = calibrations.losses(measured[name], alternatives, controls)
figure, places = figures.places(losses, width=6.4, height=7.0)
for (axis,), name, table in places:
    forests.losses(axis, table, title=name)
every = tables.stacked(losses)
figures.keep(made, "06_latent_losses", figure, every, unit="window", n=windows)

# %% [markdown]
# **Why the pooled curve can lose.** It is fitted in units of each latent's mean. Its top step rests
# on a few activations, and one of a latent that fires in 1 % of the tokens is worth about 100
# means; given to a latent that fires in 20 %, it claims to be active with probability 20. `capped`
# cuts every estimate at the latent's mean when active, which no conditional mean can pass if a
# rating says whether and not how much; `logistic_pooled` shares odds instead of means, and cannot
# pass it either. Which of them to take is chosen on calibrate windows alone:

# %%
declared = run.params.rewrite.headline
pooled = [source for source in calibrations.ALTERNATIVES if "pooled" in source]
others = [source for source in pooled if source != declared]
choice = {name: calibrations.choice(one, declared, others) for name, one in measured.items()}
display.frame(tables.stacked(choice))

# %% [markdown]
# ### The missing experiment: which estimator, from how many windows?
#
# Ten thousand real ratings a latent are a week of GPUs, so this is a *declared corruption study*.
# Rating = latent's level + window's mood + noise + lift × activation, with the spreads of the real
# ratings, the lift set to a chosen AUROC, and every rank then given the real rating of that rank.
# Errors are independent given window and latent, which is optimistic. Fitted on calibrate rows,
# measured on evaluate rows.

# %%
mismatch = {name: site.estimators for name, site in sites.items()}
figure, places = figures.places(mismatch, each=2, width=5.2, height=3.6)
for pair, name, table in places:
    curves.estimators(pair, table, title=name)
every = tables.stacked(mismatch)
figures.keep(made, "06_estimators", figure, every, unit="window", n=asked.held_windows)

# %% [markdown]
# ### Turn it: estimator, sample size, latent
#
# The quantile map of one latent, F_true⁻¹(F_pred(x)), fitted on its real ratings. With few windows
# the map is a staircase of the few activations that were seen; with one firing it has one step.

# %%
first, told = next(iter(evidence.items()))
choices = {
    "estimator": [f"quantile:type{number}" for number in range(1, 10)],
    "windows": [n for n in (4, 8, 16, 32, 64, 128, 256) if n < len(told.true)],
    "latent": sites[first].simulated,
}
choices["windows"] += [len(told.true)]
there = {"ratings": rated[first], "true": true[first]}


def drawn_map(estimator: str, count: int, latent: int) -> display.Html:
    place = sites[first].simulated.index(latent)
    return levers.quantile_map(told.first(count), estimator, place, **there)


start = {"estimator": "quantile:type7", "windows": choices["windows"][-1]}
levers.Levers(drawn_map, choices, start | {"latent": choices["latent"][0]})

# %% [markdown]
# ### What that does to the model's loss
#
# All latents of the coder from corrupted oracles, through the real splice, on the evaluate windows:
# fewest against most calibration windows (figure A2), at three qualities.

# %%
judged = {name: site.judged(site.oracle) for name, site in sites.items()}
arms = studies.arms(judged, read_oracle_name)
figure, places = figures.places(tables.by_site(arms), width=6.0, height=4.2)
for (axis,), name, part in places:
    forests.oracle(axis, part, title=f"{name}, corrupted oracle\n{studies.visible(part)}")
figures.shared_legend(figure)
n = int(arms["windows"].max())
figures.keep(made, "06_oracle_loss", figure, arms, unit="window", n=n)

# %% [markdown]
# And the simulator's own ratings, calibrated on few and on all of its windows:

# %%
judged = {name: site.judged(site.fewer) for name, site in sites.items()}
arms = studies.arms(judged, studies.read_windows)
figure, places = figures.places(tables.by_site(arms), width=6.0, height=3.4)
for (axis,), name, part in places:
    forests.fewer(axis, part, title=f"{name}\n{studies.visible(part)}")
figures.keep(made, "06_fewer_loss", figure, arms, unit="window", n=windows)

# %% [markdown]
# ### What a cheap first pass would cost the model
#
# Notebook 05 ranks pairs by sentence and text alone. Had only the most plausible share gone to the
# LLM, calibrated as the headline, with the rest in a bin of its own (its mean on the calibrate
# windows, not zero). The published run counted each share as a quota over the windows of each
# split, which needs all of them at once; `simulate.screen_cut: calibrate`, the default now, fixes
# the cut on calibrate windows. A curve to look at, not a choice: the best of 24 points flatters
# itself, and losses below the smallest visible difference in the title (.21 nat at best) are none.

# %%
judged = {name: site.judged(site.screened) for name, site in sites.items()}
arms = studies.arms(judged, studies.read_share)
figure, places = figures.places(tables.by_site(arms), width=5.0, height=3.6)
for (axis,), name, part in places:
    title = f"{name}, {declared}\n{studies.visible(part)}"
    curves.screening(axis, part, value="minus_mean", ylabel=curves.COST, title=title)
figures.keep(made, "06_screening_loss", figure, arms, unit="window", n=windows)

# %% [markdown]
# ### One factor for everything
#
# The smallest possible calibration: mean + factor × (estimate − mean). The factor is chosen by the
# model's own loss on *calibrate* windows, each predicted from the other rows. A factor whose
# interval excludes 0 says that the sentences carry something.

# %%
shrunk = {name: site.shrink for name, site in sites.items()}
judged = {name: sites[name].judged(table, split="calibrate") for name, table in shrunk.items()}
arms = studies.arms(judged, studies.read_factor)
figure, places = figures.places(tables.by_site(arms), width=5.0, height=3.6)
for (axis,), name, part in places:
    title = f"{name}, calibrate windows held out\n{studies.visible(part)}"
    curves.shrink(axis, part, title=title)
n = sum(len(told.true) for told in evidence.values())
figures.keep(made, "06_shrink", figure, arms, unit="window", n=n)

# %%
seed = run.params.seed
rows = {name: site.simulated_windows("calibrate").rows for name, site in sites.items()}
best = {
    name: studies.best_factors(table, seed=seed, rows=rows[name]) for name, table in shrunk.items()
}
display.frame(tables.stacked(best))

# %% [markdown]
# ## Result

# %%
every = tables.stacked(losses)
unseen = every[(every["where"] == "evaluate") & (every["source"] == headline)]
said = calibrations.headline(unseen)
run.headline("06_calibration", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Few calibration windows: a latent that fires once in them has almost no
# distribution to match. Means, maxima and F_true are taken from all tokens of the calibrate rows,
# ratings only from the windows. The oracle's errors are independent where the simulator's are not;
# windows of one row are not independent of one another, and the intervals in latent space treat
# them as if (those of losses resample rows). Levelling over few latents takes signal with it: over
# four described ones a quarter of what a latent says is its own part of the window's mean.
#
# Next: [07 · The rewrite](07_rewrite.ipynb).
