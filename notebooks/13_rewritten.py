# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · The rewritten model
#
# **Can a whole layer be read from descriptions, and does the model still speak?**
#
# The paper asks an LLM about every (latent, window): one pass a pair. A *reader* looks at each
# description once and at each text once; a prediction is then a comparison. So *every* latent of a
# wide coder can be replaced, at *every* token.

# %% [markdown]
# **Expect.** At the first layer a latent goes by the token: a list of words should nearly be the
# latent, and a table over the vocabulary made from those lists nearly the layer. At the last layer
# the output goes by what comes next: words that a latent raises should say more than words that it
# fires on. A sentence alone should say least.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/readers.yaml"  # its sites that name a reader are read
overrides: dict = {}  # single parameters by dotted name, e.g. {"readers.words": 16}

# %%
from rewrite_utils.report import display, figures, readers, tables
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import continuations, losses_together, read_sites

run = open_run(params_file, overrides)
sites = read_sites(run)
made = figures.Provenance.of(run.params, run.opened)
figures.use_style()

# %% [markdown]
# ## By hand
#
# One latent of the first layer that is read, and what can be said about it. *Level a* is an LLM's
# sentence, *b* adds the words that it named, *c* adds words counted from activations with their
# strengths, *d* what the latent raises and lowers. Only a and b are an LLM's words; c and d are
# counted, and no figure calls them a sentence.

# %%
import numpy as np

site = next(iter(sites.values()))
latent = next(iter(site.level_texts["a"]))  # one that an LLM described
for level, texts in site.level_texts.items():
    print(f"({level}) {texts[latent]}\n")

# %% [markdown]
# **The simplest reader** asks one thing: is the token one of the listed words? Its answer is a
# strength in words, so one number a strength makes it an activation: the mean, on calibrate rows,
# of the tokens that are listed so. *Prediction: most tokens are not listed, and there it is
# silent.*

# %%
from rewrite_utils.explain.described import parse


def words(tokens):
    """The text of every token, BOS left out."""
    kinds, at = np.unique(tokens[:, 1:], return_inverse=True)
    return np.array([site.texts(kinds[[i]])[0] for i in range(len(kinds))], object)[at.ravel()]


def true(split, latent):
    """The latent's activation at the same tokens."""
    cache = site.cache(split)
    found, (rows, positions, values) = np.zeros(cache.tokens.shape), cache.of(latent)
    found[rows, positions] = values
    return found[:, 1:].ravel()


# %%
seen = words(site.cache("calibrate").tokens)  # what the strengths are learnt on


# %%
def by_list(latent, asked):
    """What its list says of these words, and what each strength is worth."""
    listed = {word.text: word.strength for word in parse(site.level_texts["c"][latent]).words}
    strength = np.array([listed.get(word, "not listed") for word in seen])
    fired = true("calibrate", latent)
    worth = {one: float(fired[strength == one].mean()) for one in set(strength.tolist())}
    return np.array([worth.get(listed.get(word, "not listed"), 0.0) for word in asked]), worth


# %%
said, worth = by_list(latent, words(site.cache("evaluate").tokens))
here = true("evaluate", latent)
unexplained = ((here - said) ** 2).sum() / ((here - here.mean()) ** 2).sum()
print({strength: round(mean, 3) for strength, mean in worth.items()})
print(f"R² of this latent by its list alone, on text nothing was fitted on: {1 - unexplained:.2f}")

# %% [markdown]
# **The splice, at every position.** As in 07, but nothing of the layer is left: every latent gets a
# number at every token, the decoder turns the numbers into what the layer writes, and no encoder
# runs. First the mean of each latent, which is the ablation, then what the lists say. *Prediction:
# lists of words, read by the simplest reader there is, undo most of the damage.*

# %%
import torch

title, rows = next(iter(site.reader_rows.items()))
tokens = torch.from_numpy(rows[[0]]).long()
coder, model, at = site.coder.requires_grad_(False), site.subject.bridge, site.hookpoint
places = torch.from_numpy(~np.isin(rows[0], site.corpus.masked))
places[0] = False  # the BOS


def loss(hooks):
    """Mean of −log p(next token) over the row, in nats."""
    with torch.no_grad():
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, :-1].float()
    kept = places[:-1] & places[1:]
    return -logits.log_softmax(-1)[kept, tokens[0, 1:][kept]].mean().item()


# %%
_, cache = model.run_with_cache(tokens, names_filter=at.input_hook)
skip = 0 if coder.W_skip is None else cache[at.input_hook][0].float() @ coder.W_skip.T


def rewritten(latents):
    """The row's loss with these latents [pos, latent] at every position, in the layer's place."""

    def splice(output, hook):
        output[0, places] = (latents @ coder.W_dec + coder.b_dec + skip)[places].to(output)
        return output

    return loss([(at.output_hook, splice)])


# %%
means = torch.from_numpy(site.latent_means).float().expand(len(rows[0]), -1)
read, asked = means.clone(), words(rows[[0]])
for one in site.level_texts["c"]:
    read[1:, one] = torch.from_numpy(by_list(one, asked)[0]).float()
losses = {"model": loss([]), "lists": rewritten(read), "mean": rewritten(means)}
print({name: round(value, 3) for name, value in losses.items()})

# %%
stored = losses_together(sites).query("text == @title and row == 0").set_index("model")["loss"]
assert abs(losses["model"] - stored["model"]) < 1e-4, "not the model's stored loss"
assert abs(losses["mean"] - stored[f"mean, {site.name}"]) < 1e-3, "not the ablation's stored loss"

# %% [markdown]
# ## At scale
#
# **The reader at scale** also compares with words that are *not* listed, by how alike their
# vectors are, and learns on *other* latents what a likeness is worth (split by clusters of decoder
# direction: nothing like a latent has trained the reader that reads it). It never sees the coder.

# %% [markdown]
# ### Every position, each patched alone
#
# Zero: no better than the same latents at their mean. One: as good as the coder with its encoder.
# Right is better. A *token table* is counted from the coder's own activations on training rows and
# falls back to similar tokens: no description, and the bar at a layer that goes by the token.

# %%
verdicts = {name: site.layer_verdict for name, site in sites.items()}
whole = tables.stacked(verdicts)
figure, axes = figures.panels(len(sites), columns=1, width=7.4, height=4.4)
for axis, (name, verdict) in zip(axes, verdicts.items(), strict=True):
    place, most = sites[name].hookpoint.name, len(sites[name].read_latents)
    readers.forest(
        axis,
        verdict,
        value="of_range",
        xlabel="share of the range that is recovered; right is better (1: as the coder)",
        title=f"{name}: {place}, {most} latents",
    )
figures.shared_legend(figure)
figures.keep(made, "13_layers", figure, whole, unit="row", n=int(whole["rows"].max()))

# %%
shown = readers.shown(whole)
display.frame(shown[shown["text"] == title].drop(columns="text"))

# %% [markdown]
# *The same shares on texts of another kind.*

# %%
kinds = shown.pivot(index=["site", "source"], columns="text", values="of the range")
display.frame(kinds[whole["text"].unique()].reset_index())

# %% [markdown]
# *Against what.* Levels a and b stand for the latents that an LLM described, all others true, and
# are compared with the mean of the *same* latents; c and d replace every latent that fires.

# %% [markdown]
# ### Whole texts, every position at once, and several layers together
#
# The reader of single tokens is computed once for the vocabulary; then no encoder runs at all.

# %%
both = readers.together(
    losses_together(sites), seed=run.params.seed, resamples=run.params.readers.bootstrap
)
told = readers.together_shown(both)
display.frame(told[told["text"] == title].drop(columns="text"))

# %%
kinds = told.pivot(index="model", columns="text", values="perplexity").loc[told["model"].unique()]
display.frame(kinds[both["text"].unique()].reset_index(), digits=1)

# %% [markdown]
# ### The model speaks
#
# The likeliest continuation by the model, by its coder, by the rewrite, by mean ablation; and by
# the rewrite after two latents have exchanged their descriptions.

# %%
spoken = continuations(sites)
display.frame(spoken)

# %%
one, other = site.exchanged
level = site.reader.level
for latent in (one, other):
    print(f"latent {latent}: {site.level_texts[level][latent][:300]}\n")

# %% [markdown]
# ## Result

# %%
said = readers.headline(verdicts, {name: site.settings.reader for name, site in sites.items()})
run.headline("13_rewritten", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Counted words and raised words come from the coder itself: what levels c
# and d show is how far *lists in English* go, not what an LLM saw in the latent. Whole-layer
# numbers are of one coder a layer, one draw of training text. The rewritten model continues a
# prompt greedily; a likeliest continuation says little about the others.
