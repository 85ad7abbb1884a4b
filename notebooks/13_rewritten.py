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
latent = int(site.told[0])
for level, texts in site.level_texts.items():
    print(f"({level}) {texts[latent]}\n")

# %% [markdown]
# **The simplest reader** asks one thing: is the token one of the listed words? Its answer is a
# strength in words, so one number a strength makes it an activation: the mean, on calibrate rows,
# of the tokens that are listed so. *Prediction: most tokens are not listed, and there it is
# silent.*

# %%
from rewrite_utils.explain.described import parse

strength = {word.text: word.strength for word in parse(site.level_texts["c"][latent]).words}


def dense(split):
    """The latent's activation at every token [row, pos], and the tokens' texts."""
    cache = site.cache(split)
    found, (rows, positions, values) = np.zeros(cache.tokens.shape), cache.of(latent)
    found[rows, positions] = values
    kinds, at = np.unique(cache.tokens[:, 1:], return_inverse=True)
    names = np.array([site.texts(kinds[i : i + 1])[0] for i in range(len(kinds))], object)
    return found[:, 1:], names[at].reshape(found[:, 1:].shape)


true, words = dense("calibrate")
grade = np.vectorize(lambda word: strength.get(word, "not listed"))(words)
means = {name: true[grade == name].mean() for name in np.unique(grade)}
print({str(name): round(float(mean), 3) for name, mean in means.items()})

# %%
true, words = dense("evaluate")
said = np.vectorize(lambda word: means.get(strength.get(word, "not listed"), 0.0))(words)
unexplained = ((true - said) ** 2).sum() / ((true - true.mean()) ** 2).sum()
print(f"R² of this latent by its list alone, on text nothing was fitted on: {1 - unexplained:.2f}")

# %% [markdown]
# **The reader at scale** also compares with words that are *not* listed, by how alike their
# vectors are, and learns on *other* latents what a likeness is worth (split by clusters of decoder
# direction: nothing like a latent has trained the reader that reads it). It never sees the coder.

# %% [markdown]
# ## At scale

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
display.frame(readers.shown(whole))

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
display.frame(readers.together_shown(both))

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
