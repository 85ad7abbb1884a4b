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
# One window, in plain TransformerLens: the whole experiment is a hook function of three lines. It
# is the window of notebook 05, the first in which the same typical latent fires; what is measured
# is how well the model still expects the token that follows the marked one.

# %%
import matplotlib.pyplot as plt
import torch

site = next(iter(sites.values()))
model, coder, at = site.subject.bridge, site.coder.requires_grad_(False), site.hookpoint
described = site.simulated  # the latents that have a sentence
rate = site.cache("explain").rate
latent = min(described, key=lambda one: abs(rate[one] - rate.mean()))  # a typical one
window = int((site.true("evaluate")[:, described.index(latent)] > 0).argmax())
row, end = (int(part[window]) for part in site.simulated_windows("evaluate"))
tokens = torch.from_numpy(site.cache("evaluate").tokens[[row]]).to(site.subject.device)
texts = site.texts(tokens[0].cpu().numpy())
print("".join(texts[max(1, end - 31) : end]) + f"«{texts[end]}» → {texts[end + 1]!r}")

# %% [markdown]
# **First the model as it is.** One pass with a cache gives what the layer reads (x) and writes (y)
# at the marked token, and what the model expects next.

# %%
logits, cache = model.run_with_cache(tokens, names_filter=[at.input_hook, at.output_hook])
x, y = cache[at.input_hook][0, end].float(), cache[at.output_hook][0, end].float()


def loss(logits):
    """−log p(next token), in nats."""
    return -logits[0, end].float().log_softmax(-1)[tokens[0, end + 1]].item()


print(f"the model itself: {loss(logits):.4f} nat")

# %% [markdown]
# **The splice.** The hook is handed the layer's output, writes another vector at one position and
# passes it on; the layers above never learn of it. *Prediction: the layer's own output, written
# back, changes nothing.*


# %%
def spliced(vector):
    """The same loss with ``vector`` in place of the layer's output at the marked token."""

    def splice(output, hook):
        output[0, end] = vector
        return output

    return loss(model.run_with_hooks(tokens, fwd_hooks=[(at.output_hook, splice)]))


print(f"its own output written back: {spliced(y):.4f} nat")

# %% [markdown]
# **The coder stands between the vector and the sentences.** x becomes latents (ReLU, top k), and
# latents become a vector again: a constant, one direction a latent and, if there is one, the skip,
# which reads the true x whatever the latents are.

# %%
read = x - coder.b_dec if coder.config.shifts_input else x
said = coder.W_enc @ read + coder.b_enc  # [latent]
bar = coder.threshold if coder.k is None else said.topk(coder.k).values[-1]
truth = torch.relu(said) * (said >= bar)


def decoded(z):
    """What stands in place of the layer's output if its latents were z."""
    vector = z @ coder.W_dec + coder.b_dec
    return vector if coder.W_skip is None else vector + coder.W_skip @ x


# %% [markdown]
# **Four answers to one question: how strongly does each latent fire here?** The truth, from the
# encoder; what a reader of the sentences says, calibrated as in 06, without the encoder; the mean,
# whatever the text, which is the ablation that the sentences have to beat; and nothing, zero. Only
# latents that have a sentence are overwritten.

# %%
sources = {"the sentences": run.params.rewrite.headline, "the mean": "mean", "nothing": "zero"}
answers = {"the truth": truth}
for name, source in sources.items():
    z = truth.clone()
    z[described] = torch.from_numpy(site.estimates[source].values[window]).to(z)
    if source.endswith("+topk") and coder.k:  # the paper's last step: keep the k largest
        kept = z.topk(coder.k)
        z = torch.zeros_like(z).scatter(0, kept.indices, kept.values)
    answers[name] = z
print({name: round(z[latent].item(), 2) for name, z in answers.items()}, f"for latent {latent}")

# %% [markdown]
# **The experiment.** *Prediction: the truth is best and nothing is worst; where the sentences come
# in is the paper's question.* One window may well say otherwise; the verdict below is over all of
# them.

# %%
losses = {name: spliced(decoded(z)) for name, z in answers.items()}

figure, axis = plt.subplots(figsize=(5.6, 1.9))
bars = axis.barh(list(losses), losses.values(), color=["#222222", "#6a3d9a", "#666666", "#bbbbbb"])
axis.bar_label(bars, fmt="%.2f", padding=3)
axis.axvline(loss(logits), color="#222222", linestyle="--", linewidth=0.8)
axis.invert_yaxis()
axis.set(xlabel="loss of the next token (nat; left is better; dashed: the model itself)")
plt.show()
print("best first:", ", ".join(sorted(losses, key=losses.get)))

# %% [markdown]
# **These are the stored losses of this window**, to 1e-4 nat. The package takes a shorter way (the
# row once, then for each arm the patched token alone, through the layers above, with the keys and
# values of its past), so the last digits of float32 differ.

# %%
here = site.losses.query("window == @window and order == 'all'").set_index("source")
stored = {"the truth": "coder"} | sources
assert all(abs(losses[name] - here.loc[source, "loss"]) < 1e-4 for name, source in stored.items())
assert abs(loss(logits) - here["base_loss"].iloc[0]) < 1e-4
assert abs(spliced(y) - loss(logits)) < 1e-4

# %% [markdown]
# ## At scale

# %%
import pandas as pd

from rewrite_utils.report import curves, display, figures, forests, levers, tables, verdicts
from rewrite_utils.rewrite.studies import averaged

made = figures.Provenance.of(run.params, run.opened)

# %% [markdown]
# ### Loss against the fraction rewritten (the paper's figure 3)
#
# As the paper draws it: the paper's calibration and ours, best scores first and random, between the
# coder and the ablations of the same latents; one panel a site. Shaded: 95 % bootstrap intervals
# over windows of the paired differences to the coder. Dashed: the paper's range on Pythia.

# %%
calibrators, headline = run.params.rewrite.calibrators, run.params.rewrite.headline
verdict = {name: site.verdict for name, site in sites.items()}
described = {name: len(site.simulated) for name, site in sites.items()}
windows = {name: site.settings.evaluate_windows for name, site in sites.items()}
titles = {
    name: f"{name} ({site.hookpoint.name}), n = {windows[name]} windows"
    for name, site in sites.items()
}
n = sum(windows.values())

# %%
normalised = [name for name in calibrators if name.startswith("quantile")][:1]
sources = [*normalised, headline]
figure, places = figures.places(verdict, width=5.4, height=4.0)
for (axis,), name, table in places:
    settings = {"described": described[name], "title": titles[name]}
    curves.fractions(axis, table, sources=sources, **settings)
figures.shared_legend(figure, columns=2)
every = tables.stacked(verdict)
kept = every[every["source"].isin(["coder", "zero", "mean", *sources])]
figures.keep(made, "07_paper_fractions", figure, kept, unit="window", n=n)

# %% [markdown]
# Without normalisation (the paper's appendix): the raw ratings times each latent's maximum. Dashed:
# the authors' own un-normalised predictions, their first 100 windows, on Pythia.

# %%
raw = [name for name in calibrators if name.startswith("raw")]
paper = curves.PAPER_UNNORMALISED
if raw:
    figure, places = figures.places(verdict, width=5.4, height=4.0)
    for (axis,), name, table in places:
        settings = {"described": described[name], "title": titles[name]}
        curves.fractions(axis, table, sources=raw, paper=paper, **settings)
    figures.shared_legend(figure, columns=2)
    kept = every[every["source"].isin(["coder", "zero", "mean", *raw])]
    figures.keep(made, "07_unnormalised", figure, kept, unit="window", n=n)

# %% [markdown]
# ### The same for every source
#
# One panel an order; latents in random order are drawn anew for each window.

# %%
orders = run.params.rewrite.orders
figure, places = figures.places(verdict, each=len(orders), width=5.2, height=3.8)
for panels, name, table in places:
    for axis, order in zip(panels, orders, strict=True):
        title = f"{name} ({sites[name].hookpoint.name}), {curves.ORDERS[order][0]}"
        title += f", n = {windows[name]}"
        settings = {"described": described[name], "title": title}
        curves.fractions(axis, table, orders=[order], **settings)
figures.shared_legend(figure)
figures.keep(made, "07_fractions", figure, every, unit="window", n=n)

# %% [markdown]
# ### Turn it: source, order, fraction
#
# Any source of the first site, in any order, at any share of its described latents: what it costs,
# against the coder and against leaving the same latents out.

# %%
first, table = next(iter(verdict.items()))
shown = table[table["count"] > 0]
shares = sorted((shown["count"] / described[first]).unique())
choices = {
    "source": [name for name in shown["source"].unique() if name not in ("zero", "mean")],
    "order": list(orders),
    "fraction": [f"{share:.0%}" for share in shares],
}
counts = dict(zip(choices["fraction"], sorted(shown["count"].unique()), strict=True))


def drawn_cost(source: str, order: str, fraction: str) -> display.Html:
    n_latents = int(counts[fraction])
    return levers.cost(shown, source, order, n_latents, described=described[first])


start = {"source": headline, "order": orders[0], "fraction": choices["fraction"][-1]}
levers.Levers(drawn_cost, choices, start)

# %% [markdown]
# ### Which latents are worth predicting?
#
# Detection scores say how well a sentence is understood, not what its predictions are worth. *CE
# won*: with one latent alone replaced, all others true, its mean minus its prediction by the
# headline calibration, at calibrate windows held out of the fit; the order "most useful first"
# takes them by it. *At stake*: the same for a perfect prediction.

# %%
useful = {}
for name, site in sites.items() if "useful" in orders else ():
    told = site.usefulness.set_index("latent")
    share = pd.Series(site.energy / site.energy.sum()).reindex(told.index)
    f1 = site.scores.set_index("latent")["f1"].reindex(told.index)
    sentences = pd.Series(site.sentences).reindex(told.index)
    useful[name] = told.assign(f1=f1, share=share, sentence=sentences).reset_index()
NONE = "Not measured: rewrite.orders does not name useful (params/embedded-full.yaml does)."

# %%
ends = {name: verdicts.ends(told, each=4) for name, told in useful.items()}
said = "; ".join(
    f"{name}: {verdicts.agreement(told, seed=run.params.seed)}" for name, told in useful.items()
)
display.frame(tables.stacked(ends)) + display.said(said) if useful else display.said(NONE)

# %% [markdown]
# ### The verdict: against mean ablation of the same latents
#
# Every described latent replaced; differences are paired over windows. Left of zero is better
# than ablation.

# %%
final = verdicts.final(verdict)
figure, places = figures.places(verdict, width=5.8)
for (axis,), name, table in places:
    power = verdicts.power(table, headline, of=sites[name].coder.config.num_latents)
    told = {"value": "minus_mean", "xlabel": curves.COST, "title": f"{name}\n{power}"}
    forests.forest(axis, final[final["site"] == name], **told)
figures.keep(made, "07_verdict", figure, final, unit="window", n=n)

# %% [markdown]
# ### The same in numbers
#
# *Visible*: the smallest difference to mean ablation that this many windows can see (80 % power).
# *CE recovered*: of what lies between mean ablation and the coder, the share an arm wins back.
# *FVU of the output* is at these windows' last tokens, with only described latents replaced; the
# coder's own in 01 and 09 is at eight positions of 32 rows, so the two differ for one coder.

# %%
display.frame(verdicts.shown(final))

# %% [markdown]
# ### Two floors: other latents' sentences
#
# The floor above is built in: its curve is refitted to other latents' sentences, learns that they
# say nothing, and becomes mean ablation. Read through the curve of the *real* sentences they show
# what sentences cost that are believed and are about something else. Both are averaged over
# `studies.floors` derangements.

# %%
asked = run.params.studies.floors
judged = {name: site.judged(averaged(site.floors)) for name, site in sites.items() if asked}
if judged:
    floors = verdicts.final(judged)
    figure, places = figures.places(judged, width=5.8, height=2.0)
    for (axis,), name, _ in places:
        title = f"{name}, {asked} derangements"
        told = {"value": "minus_mean", "xlabel": curves.COST, "title": title}
        forests.forest(axis, floors[floors["site"] == name], **told)
    figures.keep(made, "07_floors", figure, floors, unit="window", n=n)

# %%
NONE = "Not measured in this run: studies.floors is 0 (-p studies.floors 3 measures them, no LLM)."
display.frame(verdicts.shown(floors)) if judged else display.said(NONE)

# %% [markdown]
# The paper's statistics of the same losses, under their names. v1 reports the median of |ΔCE|,
# which is biased upward: an arm that changes nothing on average still gets a positive one. v2
# reports the mean and its standard error over prompts with a base loss of 0.1 nat or more.

# %%
display.frame(verdicts.paper_statistics(final))

# %% [markdown]
# As bars (v2's figure), with v2's statistic. Dashed: what the paper's coder costs, as a share of
# the base loss.

# %%
losses = {name: site.losses[site.losses["window"] < windows[name]] for name, site in sites.items()}
bars = {name: verdicts.bars(table, list(sites[name].estimates)) for name, table in verdict.items()}
figure, places = figures.places(bars, width=6.2, height=4.2)
for (axis,), name, table in places:
    paper = verdicts.paper_cost(losses[name], sites[name].hookpoint.kind)
    title = f"{name} ({sites[name].hookpoint.name}), n = {table['v2_windows'].max()} windows"
    forests.bars(axis, table, paper=paper, title=title)
figures.shared_legend(figure)
figures.keep(made, "07_bars", figure, tables.stacked(bars), unit="window", n=n)

# %% [markdown]
# ### As good as which training checkpoint?
#
# The paper calls its coder as good as a Pythia after 25 % of its training. Where the subject has
# checkpoints, each arm's loss is looked up on its own training curve, on the same windows.

# %%
steps = run.params.subject.steps
draws = {"seed": run.params.seed, "resamples": run.params.rewrite.bootstrap}
curve, arms = {}, {}
for name, site in sites.items() if run.params.subject.checkpoints else ():
    draws["rows"] = site.windows("evaluate").rows  # rows are resampled where some have several
    curve[name] = verdicts.curve(site.training_curve, steps, **draws)
    arms[name] = verdicts.equivalences(site.losses, site.training_curve, steps, **draws)
NONE = "No checkpoints: subject.checkpoints names none, so nothing is compared with training "
NONE += "(params/pythia-mini.yaml does)."

# %%
if arms:
    figure, places = figures.places(arms, each=2, width=6.0, height=4.0)
    for (left, right), name, table in places:
        site, final_step = sites[name], int(curve[name]["step"].max())
        n, of = len(site.training_curve), site.coder.config.num_latents
        title = f"{name} ({site.hookpoint.name}), n = {n} windows"
        curves.checkpoints(left, curve[name], table, title=title)
        title = f"{name}: {described[name]} of {of} latents replaced, 95 % over windows"
        forests.training_shares(right, table, final=final_step, title=title)
    every = pd.concat([tables.stacked(curve), tables.stacked(arms)], ignore_index=True)
    n = sum(len(site.training_curve) for site in sites.values())
    figures.keep(made, "07_checkpoints", figure, every, unit="window", n=n)

# %%
told = tables.stacked(arms) if arms else pd.DataFrame(columns=["source"])
told = told.assign(source=told["source"].map(figures.label))
columns = ["site", "source", "windows", "CE", "as good as"]
display.frame(told[columns]) if arms else display.said(NONE)

# %% [markdown]
# ## Result

# %%
said = verdicts.headline(verdict, headline)
run.headline("07_rewrite", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* The interval covers the draw of windows, not of coders, sentences or
# seeds. Where the smallest visible effect is larger than the range, "no difference" means "not
# seen".
#
# Next: [08 · Sensitivity and specificity](08_sensitivity_specificity.ipynb).
