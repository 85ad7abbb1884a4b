# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 04 · Scores
#
# **Can a reader who has only the sentence tell where the latent fires?**
#
# Detection: five windows at a time, some in which the latent fires, some in which it is silent,
# none of them ever shown to the explainer. The judge's probability of "yes" is read from the
# answer's token.

# %% [markdown]
# **Expect.** The paper ranks latents by this score and finds better-scored ones easier to
# simulate.

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
# ## Distribution

# %%
figure, axes = plots.panels(len(sites))
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    plots.score_distribution(axis, site.scores, title=f"{name}: {len(site.scores)} latents")
scores = report.stacked({name: site.scores for name, site in sites.items()})
report.keep(run, "04_scores", figure, scores, unit="latent", n=len(scores))

# %% [markdown]
# ## Best and worst

# %%
report.best_and_worst(sites, each=3)

# %% [markdown]
# ## What they cost

# %%
report.frame(
    report.llm_costs(
        {name: site.scores_stage for name, site in sites.items()}, what="judged latent"
    )
)

# %% [markdown]
# ## Result

# %%
report.headline(run, "04_scores", report.score_headline(sites))

# %% [markdown]
# *What could be wrong.* Few windows a latent: a single latent's score is uncertain by ±.2 and
# more. Balanced accuracy at ½ punishes a judge that says "yes" too readily even if it ranks well:
# compare F1 with AUROC.
#
# Next: [05 · Simulation](05_simulation.ipynb).
