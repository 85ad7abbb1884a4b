# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Simulation
#
# **From the sentence and the text alone: how strongly does the latent fire on the last token?**
#
# One prompt is one latent and one 32-token window. The probabilities of the digits 0–9 at a
# forced answer position give E = Σ p(d)·d from one forward pass; nothing is sampled, nothing
# parsed.

# %% [markdown]
# **Expect.** The paper's simulator (Llama-3.1-8B) calls far too many latents active: specificity
# about 80 %.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils import report
from rewrite_utils.report import plots, simulator_plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## By hand
#
# The same latent and one window, the first of the evaluate windows in which it fires, so that there
# is something to find. The simulator's answer is read from the stage's arrays: no LLM is asked
# here.

# %%
import matplotlib.pyplot as plt
import numpy as np

from rewrite_utils.llm.prompts import filled, turns
from rewrite_utils.simulate import Window, wording

site = next(iter(sites.values()))
asked, ratings = run.params.simulate, site.ratings("evaluate")
rate = site.cache("explain").rate
latent = min(site.sentences, key=lambda one: abs(rate[one] - rate.mean()))  # a typical one
column = site.simulated.index(latent)
true = site.true("evaluate")[:, column]
window = int((true > 0).argmax())  # the first in which it fires
row, end = (int(part[window]) for part in site.simulated_windows("evaluate"))

# %% [markdown]
# **The simulator sees a stretch of text whose last token is marked.** It sees no model, no coder
# and no activation: of the latent, the sentence is all that is left.

# %%
ids = site.cache("evaluate").tokens[row, end - asked.window_tokens + 1 : end + 1]
*before, last = site.quoted(ids)
marked = "".join(before) + f"«{last}»"
token = last.strip() or repr(last)  # once more, alone: a small simulator needs that
print(f"row {row}, position {end}, latent {latent}: {token!r}")

# %% [markdown]
# **The prompt stops where a digit has to follow.** So one forward pass answers it: take the logits
# at the last place, and of them the ten digits': `p = logits[digit_ids].softmax(-1)`.

# %%
values = {"pad": "", "window": marked, "token": token, "explanation": site.descriptions[latent]}
system, *examples, question, answer = turns(wording(asked))
for turn in (system, *examples[:2], question, answer):
    print(f"── {turn.role}\n{filled(turn.text, **values)}")

# %% [markdown]
# **The rating is a mean, not a choice.** E = Σ p(d)·d / Σ p(d) keeps what the likeliest digit
# throws away, how sure the simulator is. E / 9 of the latent's maximum is the activation that the
# paper reads from it, before any calibration.

# %%
p = ratings.digits[window, column].astype(float)
E = (p * np.arange(10)).sum() / p.sum()
predicted = E / 9 * site.cache("calibrate").maximum[latent]

figure, axis = plt.subplots(figsize=(4.2, 2.2))
axis.bar(range(10), p, color="#6a3d9a")
axis.axvline(E, color="#222222", linestyle="--")
axis.set(title=f"E = {E:.2f}: {predicted:.1f} predicted, {true[window]:.1f} true")
axis.set(xlabel="digit", ylabel="probability", xticks=range(10))
plt.show()

# %% [markdown]
# **The stored rating is this E.** Probabilities and E are both stored as float16, which has 11
# binary digits: they agree to 0.01. (A simulator that gives E alone has nothing to compare.)

# %%
assert marked == Window.of(site.quoted(ids)).text
assert np.isnan(p).all() or abs(E - ratings.expected[window, column]) < 0.01

# %% [markdown]
# ## At scale

# %% [markdown]
# ### One prediction
#
# The windows are shared by all latents and come first; the sentence comes last, so that each
# prediction costs only the sentence's own tokens.

# %%
report.one_prediction(next(iter(sites.values())))

# %% [markdown]
# ### Ratings where the latent fires and where it is silent

# %%
figure, axes = plots.panels(len(sites))
tables = {}
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    tables[name] = plots.rating_histogram(
        axis, site.ratings("calibrate").expected, site.true("calibrate"), title=name
    )
report.keep(
    run,
    "05_ratings",
    figure,
    report.stacked(tables),
    unit="(window, latent)",
    n=sum(s.true("calibrate").size for s in sites.values()),
)

# %% [markdown]
# ### How well ratings tell active from silent

# %%
report.frame(report.rating_quality(sites))

# %% [markdown]
# ### What screening would save
#
# Firing is rare, so most pairs are hopeless. A cheap first pass that sees only sentence and text
# ranks them; here the ratings of *all* pairs show what would be left if only the most plausible
# share went to the LLM. `simulate.screen` turns it on.

# %%
curves = report.screening(sites)
figure, axes = plots.panels(len(sites))
for axis, (name, table) in zip(axes, curves.groupby("site", sort=False), strict=True):
    simulator_plots.screening(axis, table, statistic="AUROC", title=name)
report.keep(run, "05_screening", figure, curves, unit="window", n=int(curves["windows"].max()))

# %% [markdown]
# ### Other ways to ask
#
# Firing rate, score or contrast tokens shown; the other two layouts; all positions of a window in
# one pass. Same pairs, paired differences. `studies.simulators` names the ways; each asks the LLM.
# *Levelled*: window and sentence means taken away, as the headline's calibration does.

# %%
report.simulator_study(run, sites)

# %% [markdown]
# ### What it costs

# %%
report.frame(
    report.llm_costs(
        {name: site.simulation_stage for name, site in sites.items()}, what="prediction"
    )
)

# %% [markdown]
# ## Result

# %%
report.headline(run, "05_simulation", report.simulation_headline(sites))

# %% [markdown]
# *What could be wrong.* AUROC is a poor target: a source with a few pure positives can have a low
# AUROC and be worth much in the rewrite. The simulator was not tuned on this task.
#
# Next: [06 · Calibration](06_calibration.ipynb).
