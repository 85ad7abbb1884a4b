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
# The sentence of the same latent, tried on windows of text that its author never saw. The judge's
# answers are read from the stage's table: no LLM is asked here.

# %%
import numpy as np

from rewrite_utils.llm.prompts import filled, turns
from rewrite_utils.score.detection import wording

site = next(iter(sites.values()))
asked, cache = run.params.score, site.cache("score")
rate = site.cache("explain").rate
latent = min(site.sentences, key=lambda one: abs(rate[one] - rate.mean()))  # a typical one
judged = site.judgements[site.judgements["latent"] == latent]
print(f"latent {latent}: {site.sentences[latent]!r}, {len(judged)} windows")

# %% [markdown]
# **The judge sees the text without marks.** It has to find for itself what the sentence speaks of.

# %%
excerpts = []
for row, end in zip(judged["row"], judged["end"], strict=True):
    texts = site.quoted(cache.tokens[row, end - asked.window_tokens + 1 : end + 1])
    excerpts.append("".join(texts).replace("\n", "⏎").strip())
excerpts[0]

# %% [markdown]
# **The question is a conversation that stops in front of one digit**, 1 for yes and 0 for no.

# %%
first = excerpts[: asked.per_prompt]
listed = "\n".join(f"{n}. {text}" for n, text in enumerate(first, 1))
values = {"pad": "", "explanation": site.sentences[latent]}
values["windows"] = first[0] if asked.per_prompt == 1 else listed
system, *examples, question, answer = turns(wording("detect", asked.per_prompt))
for turn in (system, *examples[:2], question, answer):
    print(f"── {turn.role}\n{filled(turn.text, **values)}")

# %% [markdown]
# **The answer is a probability.** One forward pass gives p(0) and p(1) at that place, and p(yes) =
# p(1) / (p(0) + p(1)): nothing is sampled. Beside it the truth, whether the latent fires anywhere
# in the window:

# %%
yes, active = judged["probability"].to_numpy(), judged["active"].to_numpy(bool)
for p, fires, text in list(zip(yes, active, excerpts, strict=True))[:6]:
    print(f"p(yes) = {p:.2f}  {'fires ' if fires else 'silent'}  {text}")

# %% [markdown]
# **AUROC counts pairs.** Take a window where the latent fires and one where it is silent: how often
# has the first the higher p(yes)? A tie counts half, and guessing gets ½. On ten windows, then on
# all:


# %%
def counted(active, yes):
    pairs = [(p, q) for p in yes[active] for q in yes[~active]]
    return sum((p > q) + (p == q) / 2 for p, q in pairs) / max(len(pairs), 1)


ten, auroc = counted(active[:10], yes[:10]), counted(active, yes)
print(f"ten windows: {ten:.2f}; all {len(yes)}: {auroc:.2f}")

# %% [markdown]
# **The stored truth and score are these.** A latent without windows of both kinds has no score.

# %%
fired = cache.of(latent)
ends = [end - fired.positions[fired.rows == row] for row, end in judged[["row", "end"]].to_numpy()]
inside = [((back >= 0) & (back < asked.window_tokens)).any() for back in ends]
assert np.array_equal(inside, active)
stored = site.scores.set_index("latent").loc[latent, "auroc"]
assert np.isnan(stored) or np.isclose(auroc, stored)

# %% [markdown]
# ## At scale

# %%
import pandas as pd

from rewrite_utils.report import display, figures, scores, spreads, tables
from rewrite_utils.score.stage import KINDS as SCORE_KINDS

made = figures.Provenance.of(run.params, run.opened)

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
