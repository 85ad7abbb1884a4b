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
# **Expect.** One row a claim: the paper's number, ours with its interval, and whether
# it goes in the same direction (numbers of another subject and size are not compared by value).

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import numpy as np
import pandas as pd

from rewrite_utils.report import claims, coders, display, figures, paper, ratings, studies, verdicts
from rewrite_utils.rewrite.measure import losses_of
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites
from rewrite_utils.subject.stage import CACHED_SPLITS

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)

# %% [markdown]
# ## At scale

# %% [markdown]
# ### What the claims are judged on
#
# Of each site: the losses of the rewrite (07), the estimates before any TopK and their rates (08),
# the losses with fewer calibrate windows (06), the false alarms that break even (08).

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
seed, draws = run.params.seed, run.params.rewrite.bootstrap
even, checkpoint = {}, dict.fromkeys(sites)
for name, site in sites.items():
    rate = site.cache("calibrate").rate[site.studied].mean()
    rows = site.windows("evaluate").rows
    told = {"silent_to_active": float((1 - rate) / rate), "topk": True, "seed": seed, "rows": rows}
    even[name] = studies.break_even(site.specificity, **told)
    if run.params.subject.checkpoints:
        coder, steps = losses_of(site.losses, "coder"), run.params.subject.steps
        told = {"seed": seed, "resamples": draws, "rows": rows}
        checkpoint[name] = verdicts.equivalence(coder, site.training_curve, steps, **told)


# %%
def found(name: str) -> claims.Found:
    site, asked = sites[name], run.params.rewrite
    estimates = {source: site.estimates[source].values for source in asked.calibrators}
    return claims.Found(
        site=name, kind=site.hookpoint.kind, seed=seed, resamples=draws,
        calibrators=asked.calibrators, headline=asked.headline,
        losses=site.losses, true=site.true("evaluate"), estimates=estimates,
        target=site.evidence.target, rates=rates[name], fewer=site.fewer,
        even=even[name], checkpoint=checkpoint[name], rows=site.windows("evaluate").rows,
    )  # fmt: skip


# %% [markdown]
# ### Claims
#
# A run as small as this one can contradict a claim, or fail to see it; the last column says
# which.

# %%
claimed = claims.table([found(name) for name in sites])
display.frame(claimed)

# %% [markdown]
# ### The paper's figures, and ours

# %%
display.frame(paper.figures(made.folder))

# %% [markdown]
# ### The coders
#
# What everything above rests on: what each coder keeps, and what it leaves its latents to decide.

# %%
splits = CACHED_SPLITS[:1] if run.params.corpus.faithful else CACHED_SPLITS
rows = {}
for name, site in sites.items():
    rate, tokens = coders.rates([site.cache(split) for split in splits])
    told = site.quality, site.coder.config, site.hookpoint, rate
    rows[name] = coders.row(*told, tokens=tokens, random=site.settings.coder == "random")
table = pd.DataFrame([{"site": name} | row for name, row in rows.items()])
shown = coders.shown(table)
display.frame(shown)

# %% [markdown]
# ### Headlines of the series

# %%
headlines = {name: record["text"] for name, record in run.headlines.items()}
display.table(list(headlines.items()), ["notebook", "result"])

# %% [markdown]
# ### The same claims in every run
#
# From the reports that are kept in `figures/`, one column a run and site.

# %%
paper.write(made, claimed, shown, headlines)
display.frame(paper.across())

# %% [markdown]
# ## Result

# %%
said = claims.headline(claimed)
run.headline("09_report", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Everything listed under "what could be wrong" in the notebooks before
# this one. The subject is not the paper's: SmolLM2-135M-Instruct, 4-bit-derived, SwiGLU,
# sequential blocks.
#
# Next: your own model and hookpoint: `params/pythia-160m.yaml` shows how.
