# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Explanations compared
#
# **Do counterexamples, a second try, or the logits make better sentences?**
#
# Each kind of explanation is made for the same latents and tried on the same windows of the score
# rows. `explain.compared` names the kinds; `params/beyond/explanations.yaml` is the run for this
# notebook: `python -m rewrite_utils.series params/beyond/explanations.yaml --only 04,12`.

# %% [markdown]
# **Expect.** Nobody has published contrastive explanations on this test. Counterexamples should
# make a sentence more specific, above all on hard negatives; a small explainer may as well be
# confused by them.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.llm import prompts
from rewrite_utils.report import plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()
kinds = run.params.explain.compared

# %% [markdown]
# ## At scale

# %% [markdown]
# ### What a contrastive explainer is told

# %%
print(prompts.turns("explain_more", ["contrast"])[0].text)

# %% [markdown]
# ### The same latents, the same windows
#
# Kind minus plain, latent by latent. The interval is 95 % over latents; *detectable* is the
# smallest mean difference that so many latents can show.

# %%
scores = report.compared(report.trained(sites))
differences = report.paired(scores, seed=run.params.seed)
report.frame(report.paired_table(differences))

# %%
if kinds:
    figure, axes = plots.panels(differences["site"].nunique())
    for axis, (name, rows) in zip(axes, differences.groupby("site", sort=False), strict=True):
        told = {"value": "difference", "xlabel": "AUROC − AUROC of the plain sentence"}
        plots.forest(axis, rows, title=f"{name}, n = {rows['latents'].max()} latents", **told)
    report.keep(run, "12_paired", figure, differences, unit="latent", n=report.latents(scores))

# %% [markdown]
# ### Sentences side by side

# %%
report.sentences_by_kind(report.trained(sites), most=8)

# %% [markdown]
# ### How the scores agree
#
# Rank correlations over latents, the plain sentences. The simulation score is the correlation of
# the simulator's rating with the true activation; it is there once notebook 05 has run. Usefulness,
# if `rewrite.orders` names it, is what a latent's prediction wins for the model over its mean.

# %%
report.frame(report.agreement(report.trained(sites)))

# %% [markdown]
# ### What they cost

# %%
report.frame(report.kind_costs(report.trained(sites)))

# %% [markdown]
# ## Result

# %%
report.headline(run, "12_explanations", report.comparison_headline(differences))

# %% [markdown]
# *What could be wrong.* Writer and judge are the same model, so a sentence in the judge's own words
# may score better than it is. A handful of windows a latent: single latents say nothing, means over
# latents do. What counts in the end is the rewrite (07), run once with the better kind.
