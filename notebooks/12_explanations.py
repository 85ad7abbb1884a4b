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
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import numpy as np
import pandas as pd

from rewrite_utils.latents.stage import SIMULATED
from rewrite_utils.llm import prompts
from rewrite_utils.report import display, figures, forests, scores, tables
from rewrite_utils.runs.run import open_run
from rewrite_utils.score.stage import KINDS as SCORE_KINDS
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

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
kinds = {name: sites[name].variants for name in scores.trained(run.params.sites)}
compared = pd.concat(
    [
        one.scores_of(test).assign(site=name, kind=kind, test=SCORE_KINDS[test].label)
        for name, found in kinds.items()
        for kind, one in found.items()
        for test in one.score_kinds
        if test != "shuffled"
    ],
    ignore_index=True,
)
differences = scores.paired(compared, seed=run.params.seed)
display.frame(scores.paired_table(differences))

# %%
if run.params.explain.compared:
    figure, places = figures.places(tables.by_site(differences))
    for (axis,), name, rows in places:
        title = f"{name}, n = {rows['latents'].max()} latents"
        told = {
            "value": "difference",
            "xlabel": "AUROC − AUROC of the plain sentence; right is better",
        }
        forests.forest(axis, rows, title=title, **told)
    n = tables.latents(compared)
    figures.keep(made, "12_paired", figure, differences, unit="latent", n=n)

# %% [markdown]
# ### Sentences side by side

# %%
beside = {}
for name, found in kinds.items():
    latents = list(found["plain"].sentences)[:8]
    told = {kind: [one.sentences.get(latent, "(none)") for latent in latents]
            for kind, one in found.items()}  # fmt: skip
    beside[name] = pd.DataFrame({"latent": latents} | told)
display.frame(tables.stacked(beside))

# %% [markdown]
# ### How the scores agree
#
# Rank correlations over latents, the plain sentences. The simulation score is the correlation of
# the simulator's rating with the true activation; it is there once notebook 05 has run. Usefulness,
# if `rewrite.orders` names it, is what a latent's prediction wins for the model over its mean.

# %%
every = {}
for name in kinds:
    site, columns = sites[name], {}
    for kind in [kind for kind in site.score_kinds if kind != "shuffled"]:
        told = site.scores_of(kind).set_index("latent")
        columns[f"{SCORE_KINDS[kind].label}: AUROC"] = told["auroc"]
        columns[f"{SCORE_KINDS[kind].label}: F1"] = told["f1"]
    if site.is_simulated:
        expected, true = (
            np.concatenate([part(split) for split in SIMULATED])
            for part in (lambda split, s=site: s.ratings(split).expected, site.true)
        )
        found = pd.Series(scores.simulation(expected, true), index=site.simulated)
        columns[scores.SIMULATION] = found
    if site.is_simulated and "useful" in run.params.rewrite.orders:
        columns[scores.USEFULNESS] = site.usefulness.set_index("latent")["usefulness"]
    every[name] = pd.DataFrame(columns)

# %%
display.frame(scores.agreement(every, seed=run.params.seed))

# %% [markdown]
# ### What they cost

# %%
costs = []
for name, found in kinds.items():
    for kind, one in found.items():
        stages = {s.name: s for s in (one.explanations_stage, one.written_stage)}
        facts = {stage: told.manifest["facts"] for stage, told in stages.items()}
        told = tables.llm_costs(facts, what="latent", first="stage")
        told["stage"] = told["stage"].str.partition(".")[0]
        told.insert(0, "kind", kind)
        told.insert(0, "site", name)
        costs.append(told)
display.frame(pd.concat(costs, ignore_index=True))

# %% [markdown]
# ## Result

# %%
said = scores.comparison(differences)
run.headline("12_explanations", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Writer and judge are the same model, so a sentence in the judge's own words
# may score better than it is. A handful of windows a latent: single latents say nothing, means over
# latents do. What counts in the end is the rewrite (07), run once with the better kind.
