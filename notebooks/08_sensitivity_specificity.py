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
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import numpy as np

from rewrite_utils.report import curves, display, figures, paper, ratings, spreads, studies, tables
from rewrite_utils.rewrite.studies import read_alarm_name
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### Against the scores (the paper's figure 4, and v2's version for fuzzing)
#
# Means of bins of eight latents or more with their 95 % intervals over latents; equal scores stay
# together. Where a site has too few latents for two bins, its title says so and one mean is drawn:
# such a site says nothing about scores.

# %%
rates = {}
for name, site in sites.items():
    cache, latents = site.cache("calibrate"), site.simulated
    threshold = 0.5 * cache.mean[latents] / np.maximum(cache.rate[latents], 1e-9)
    f1 = site.scores.set_index("latent")["f1"].reindex(latents).to_numpy()
    told = {source: site.estimates[source].values for source in run.params.rewrite.calibrators}
    rates[name] = ratings.rates(
        site.true("evaluate"), told, threshold=threshold, latents=latents, f1=f1
    )

# %%
for kind, file in paper.SCORE_FILES.items():
    if not all(kind in site.score_kinds for site in sites.values()):
        continue
    figure, places = figures.places(rates, each=2, width=5.0, height=3.4)
    drawn = {}
    for pair, name, table in places:
        score = sites[name].scores_of(kind).set_index("latent")["f1"]
        told = {"named": f"{kind} F1", "title": name, "seed": run.params.seed}
        scored = table.assign(score=table["latent"].map(score))
        drawn[name] = spreads.against_score(pair, scored, **told)
    figures.shared_legend(figure)
    n = tables.latents(tables.stacked(rates))
    figures.keep(made, file, figure, tables.stacked(drawn), unit="latent", n=n)

# %% [markdown]
# ### Before and after calibration, all latents together

# %%
every = tables.stacked(rates)
display.frame(ratings.means(every))

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
losses = {name: site.specificity for name, site in sites.items()}
judged = {name: sites[name].judged(table) for name, table in losses.items()}
odds, even = {}, {}
for name, site in sites.items():
    rate = site.cache("calibrate").rate[site.studied].mean()
    odds[name] = float((1 - rate) / rate)
    told = {"silent_to_active": odds[name], "seed": run.params.seed}
    told |= {"rows": site.windows("evaluate").rows}
    even[name] = {
        topk: studies.break_even(losses[name], topk=topk, **told) for topk in (False, True)
    }
arms = studies.arms(judged, read_alarm_name)
arms = arms.assign(alarms=(1 - arms["specificity"]) * arms["site"].map(odds))

# %%
figure, places = figures.places(tables.by_site(arms), width=5.8, height=4.4)
for (axis,), name, part in places:
    title = f"{name}, synthetic alarms, sensitivity 1\n{studies.visible(part)}"
    curves.specificity(axis, part, even[name], title=title)
n = int(arms["windows"].max())
figures.keep(made, "08_specificity_study", figure, arms, unit="window", n=n)

# %%
display.frame(studies.break_even_table(even, odds))

# %% [markdown]
# ## Result

# %%
asked = run.params.rewrite
sources = [asked.calibrators[0], asked.headline]
said = ratings.headline(every, sources, seed=run.params.seed)
lines = [studies.break_even_line(name, found[False]) for name, found in even.items()]
said = f"{said}; {'; '.join(lines)}"
run.headline("08_sensitivity_specificity", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* The specificity at 32 of 32,768 latents is an extrapolation from one narrow
# coder: it assumes that an alarm costs the same there. A latent that never fires in the evaluate
# windows has no sensitivity and is left out of that curve. The threshold matters: another one moves
# both rates. Synthetic false alarms are independent of the text; a simulator's come where the
# sentence half fits, which may cost more or less.
#
# Next: [09 · Report](09_report.ipynb).
