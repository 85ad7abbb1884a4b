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
# Detection: windows in which the latent fires and windows in which it is silent, none of them ever
# shown to the explainer, five a prompt as in the paper or one (`score.per_prompt`; with a 1.5B
# judge, five are at chance). The judge's probability of "yes" is read from the answer's token.

# %% [markdown]
# **Expect.** The paper ranks latents by this score and finds better-scored ones easier to
# simulate.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import pandas as pd

from rewrite_utils.report import display, figures, scores, spreads, tables
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites
from rewrite_utils.stages.worded import SCORE_KINDS

run = open_run(params_file, overrides)
sites = open_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### Distribution
#
# A latent without an activating window among the score rows has no score: it is missing, not 0.

# %%
detection = {name: site.scores for name, site in sites.items()}
figure, places = figures.places(detection)
for (axis,), name, table in places:
    spreads.scores(axis, table, title=f"{name}: {len(table)} latents")
every = tables.stacked(detection)
figures.keep(made, "04_scores", figure, every, unit="latent", n=len(every))

# %% [markdown]
# ### Scores over their floors
#
# Every test this run asked for, as the share of latents at or below each AUROC. A judge that
# guesses lies on .5; what a sentence that says nothing gets, the floors say, if the run has them:
# other latents' sentences (`score.shuffled`), and sentences about a coder with random weights (a
# site of that kind). Means with 95 % over latents.

# %%
tests = {}
for name in scores.trained(run.params.sites):
    site, floor = sites[name], scores.random_coder(run.params.sites, name)
    found = {SCORE_KINDS[kind].label: site.scores_of(kind) for kind in site.score_kinds}
    found |= {scores.RANDOM_CODER: sites[floor].scores} if floor else {}
    parts = [table.assign(test=label) for label, table in found.items()]
    tests[name] = pd.concat(parts, ignore_index=True)
figure, places = figures.places(tests)
for (axis,), name, table in places:
    spreads.floors(axis, table, title=name)
floors = tables.stacked(tests)
figures.keep(made, "04_floors", figure, floors, unit="latent", n=tables.latents(floors))

# %%
display.frame(scores.means(floors, seed=run.params.seed))

# %% [markdown]
# ### Best and worst

# %%
intervals = {name: site.score_intervals() for name, site in sites.items()}
extremes = {}
for name, site in sites.items():
    told = site.scores.merge(intervals[name], on="latent")
    told = told.assign(sentence=told["latent"].map(site.sentences))
    extremes[name] = scores.extremes(told, each=3)
display.frame(tables.stacked(extremes))

# %% [markdown]
# ### What a score cannot see
#
# Two latents may share a sentence and both score well; a sentence may fit nearly any text; a long
# one costs the simulator tokens at every window. Shares of latents with 95 % Wilson intervals.

# %%
traits = {name: scores.traits(site.explanations, intervals[name]) for name, site in sites.items()}
display.frame(scores.unseen(tables.stacked(traits)))

# %%
figure, places = figures.places(traits, each=2)
for (left, right), name, table in places:
    spreads.near_copies(left, table, alike=scores.ALIKE, title=name)
    spreads.over_general(right, table, title=f"{name}: too general on the left")
every = tables.stacked(traits)
figures.keep(made, "04_unseen", figure, every, unit="latent", n=len(every))

# %% [markdown]
# ### What they cost

# %%
costs = {}
for name, site in sites.items():
    stages = {"03_explanations": site.written_stage}
    stages |= {site.kind_stage(kind).name: site.kind_stage(kind) for kind in site.score_kinds}
    facts = {stage: made_of.manifest["facts"] for stage, made_of in stages.items()}
    told = tables.llm_costs(facts, what="latent", first="stage")
    costs[name] = told.assign(stage=told["stage"].str.partition(".")[0])
display.frame(tables.stacked(costs))

# %% [markdown]
# ## Result

# %%
said = "; ".join(
    f"{name}: detection AUROC {tables.counted(table['auroc'], seed=run.params.seed)}"
    for name, table in detection.items()
)
run.headline("04_scores", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Few windows a latent: a single latent's score is uncertain by ±.2 and more,
# and fewer than ten activating ones are its stronger firings only (`score.deciles`). Balanced
# accuracy at ½ punishes a judge that says "yes" too readily even if it ranks well: compare F1 with
# AUROC, or set `score.threshold: prior`. The judge wrote the sentences: it may understand its own
# words better than a reader would.
#
# Next: [05 · Simulation](05_simulation.ipynb).
