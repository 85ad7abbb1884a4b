# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · The rewrite
#
# **Is the model better off with latents predicted from sentences than with the latents left
# out?**
#
# The true top-k latents are overwritten with predictions, decoded by the coder's own decoder, and
# put in place of the MLP's output at one position; the next-token loss there is compared with
# that of leaving the same latents out (at zero, at their mean). All arms see the same windows.

# %% [markdown]
# **Expect.** The paper: no better than ablation. Every sentence should also beat two rewrites
# that need no LLM: the token table (mean activation given the last token) and the word list (is
# the token among the latent's top eight?).

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import pandas as pd

from rewrite_utils import report
from rewrite_utils.report import paper_plots, plots
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)
plots.use_style()

# %% [markdown]
# ## At scale

# %% [markdown]
# ### Loss against the fraction rewritten (the paper's figure 3)
#
# As the paper draws it: the paper's calibration and ours, best scores first and random, between the
# coder and the ablations of the same latents; one panel a site. Shaded: 95 % bootstrap intervals
# over windows of the paired differences to the coder. Dashed: the paper's range on Pythia.

# %%
calibrators, headline = run.params.rewrite.calibrators, run.params.rewrite.headline
normalised = [name for name in calibrators if name.startswith("quantile")][:1]
report.paper_fractions(run, "07_paper_fractions", sites, sources=[*normalised, headline])

# %% [markdown]
# Without normalisation (the paper's appendix): the raw ratings times each latent's maximum. Dashed:
# the authors' own un-normalised predictions, their first 100 windows, on Pythia.

# %%
raw = [name for name in calibrators if name.startswith("raw")]
paper = paper_plots.PAPER_UNNORMALISED
report.paper_fractions(run, "07_unnormalised", sites, sources=raw, paper=paper)

# %% [markdown]
# ### The same for every source
#
# One panel an order; latents in random order are drawn anew for each window.

# %%
verdicts = {name: site.verdict for name, site in sites.items()}
places = [(site, order) for site in sites.values() for order in site.params.rewrite.orders]
figure, axes = plots.panels(len(places), width=5.2, height=3.8)
for axis, (site, order) in zip(axes, places, strict=True):
    plots.fraction_curves(
        axis,
        verdicts[site.name],
        order=order,
        described=len(site.simulated),
        title=report.panel_title(site, order),
    )
plots.shared_legend(figure)
fractions = report.stacked(verdicts)
report.keep(run, "07_fractions", figure, fractions, unit="window", n=report.windows(sites))

# %% [markdown]
# ### Which latents are worth predicting?
#
# Detection scores say how well a sentence is understood, not what its predictions are worth. *CE
# won*: with one latent alone replaced, all others true, its mean minus its prediction by the
# headline calibration, at calibrate windows held out of the fit; the order "most useful first"
# takes them by it. *At stake*: the same for a perfect prediction.

# %%
report.useful_latents(run, sites, each=4)

# %% [markdown]
# ### The verdict: against mean ablation of the same latents
#
# Every described latent replaced; differences are paired over windows. Left of zero is better
# than ablation.

# %%
final = report.final_arms(sites)
figure, axes = plots.panels(len(sites), width=5.8)
for axis, (name, site) in zip(axes, sites.items(), strict=True):
    plots.forest(
        axis,
        final[final["site"] == name],
        value="minus_mean",
        xlabel="CE − CE of mean ablation (nats)",
        title=f"{name}\n{report.power(site)}",
    )
report.keep(run, "07_verdict", figure, final, unit="window", n=report.windows(sites))

# %% [markdown]
# ### The same in numbers
#
# *Visible*: the smallest difference to mean ablation that this many windows can see (80 % power).
# *CE recovered*: of what lies between mean ablation and the coder, the share an arm wins back.

# %%
report.frame(report.verdict_table(final))

# %% [markdown]
# The paper's statistics of the same losses, under their names. v1 reports the median of |ΔCE|,
# which is biased upward: an arm that changes nothing on average still gets a positive one. v2
# reports the mean and its standard error over prompts with a base loss of 0.1 nat or more.

# %%
report.frame(report.paper_statistics(final))

# %% [markdown]
# As bars (v2's figure), with v2's statistic. Dashed: what the paper's coder costs, as a share of
# the base loss.

# %%
figure, axes = plots.panels(len(sites), width=6.2, height=4.2)
parts = [report.bars(site) for site in sites.values()]
for axis, site, part in zip(axes, sites.values(), parts, strict=True):
    title = f"{site.name} ({site.hookpoint.name}), n = {part['v2_windows'].max()} windows"
    paper_plots.bars(axis, part, paper=report.paper_cost(site), title=title)
plots.shared_legend(figure)
report.keep(run, "07_bars", figure, pd.concat(parts), unit="window", n=report.windows(sites))

# %% [markdown]
# ### As good as which training checkpoint?
#
# The paper calls its coder as good as a Pythia after 25 % of its training. Where the subject has
# checkpoints, each arm's loss is looked up on its own training curve, on the same windows.

# %%
report.checkpoints(run, sites)

# %% [markdown]
# ## Result

# %%
report.headline(run, "07_rewrite", report.rewrite_headline(run, sites))

# %% [markdown]
# *What could be wrong.* The interval covers the draw of windows, not of coders, sentences or
# seeds. Where the smallest visible effect is larger than the range, "no difference" means "not
# seen".
#
# Next: [08 · Sensitivity and specificity](08_sensitivity_specificity.ipynb).
