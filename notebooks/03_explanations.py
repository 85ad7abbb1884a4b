# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Explanations
#
# **What does each latent respond to, in one sentence?**
#
# An LLM sees windows from all rank deciles of a latent's activation, the active tokens marked,
# and writes one sentence. From here on the encoder is not used.

# %% [markdown]
# **Expect.** The paper's explainer is Llama-3.1-70B with 40 windows a latent. Ours has 1.5B
# parameters and sees fewer: its sentences are coarse, so they carry their evidence, the latent's
# strongest tokens, in brackets.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
params_file: str = "params/embedded-full.yaml"  # what every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)

# %% [markdown]
# ## By hand
#
# The latent of notebook 02, from its numbers to its sentence. An LLM reads text, so all that it is
# to know has to become text first.

# %%
import numpy as np

from rewrite_utils.explain.asking import wording
from rewrite_utils.llm.prompts import turns

site = next(iter(sites.values()))
asked, cache, source = run.params.explain, site.cache("explain"), site.evidence_source
latent = min(site.sentences, key=lambda one: abs(cache.rate[one] - cache.rate.mean()))  # typical
rows, ends = source.chosen(latent).firing  # its windows, drawn from the deciles of their peaks
print(f"latent {latent}: {len(rows)} windows of {asked.window_tokens} tokens")

# %% [markdown]
# **Where it fires is shown with marks, how strongly with numbers.** A token is marked above a set
# share of its window's peak; its strength is given in tenths of the latent's maximum. The strongest
# of the windows:

# %%
fired = cache.of(latent)
here = fired.rows == rows[0]
along = np.zeros(cache.tokens.shape[1])
along[fired.positions[here]] = fired.values[here]
window = slice(ends[0] - asked.window_tokens + 1, ends[0] + 1)
pairs = list(zip(site.quoted(cache.tokens[rows[0], window]), along[window], strict=True))
cut, tenth = asked.threshold * along[window].max(), cache.maximum[latent] / 10
shown = "".join(f"«{text}»" if value > cut else text for text, value in pairs)
marks = [f"{t.strip() or repr(t)}: {round(v / tenth)}" for t, v in pairs if v > cut]
print(shown.replace("\n", "⏎").strip(), "; ".join(marks), sep="\n")

# %% [markdown]
# **The evidence is all windows, one under another.** Above them stand the tokens with the highest
# mean activation, found by counting: a small explainer needs the hint.

# %%
question = source.questions([latent])[latent]
print(question.text)

# %% [markdown]
# **The prompt is a conversation whose answer has already begun.** Instructions, worked examples
# (here the last of them), the evidence; then the first word of the answer, so that the reply has a
# form that can be cut.

# %%
conversation = [
    (turn.role, turn.text.replace("{windows}", question.text))
    for turn in turns(wording(asked), asked.options)
]
for role, text in (conversation[0], *conversation[-4:]):
    print(f"── {role}\n{text}")

# %% [markdown]
# **The reply is kept as it came.** It is read from the stage's table: no LLM is asked here.

# %%
said = site.explanations.set_index("latent").loc[latent]
print(conversation[-1][1] + said["reply"])

# %% [markdown]
# **The sentence is what stands behind the marker.** A reply without a marker is a failure: the LLM
# is asked again, and in the end the latent goes without, for a reply that was not understood must
# never pass for a sentence. `explain.evidence` puts tokens in brackets behind it.

# %%
first_line, _, rest = said["reply"].partition("\n")
explanation = rest.partition("EXPLANATION:")[2].strip().split("\n")[0].strip().rstrip(".")
brackets = {"none": "", "pieces": first_line.strip(), "tokens": question.tokens}[asked.evidence]
sentence = f"{explanation} ({brackets})" if brackets else explanation
sentence

# %% [markdown]
# **The stored sentence is this one**, and the lines made above are in the package's evidence.
# (Sentences that were curated, or read from a delphi run, were not cut from a reply.)

# %%
assert all(part in question.text for part in (shown.replace("\n", "⏎").strip(), "; ".join(marks)))
assert question.tokens == said["tokens"] or asked.delphi
assert sentence == said["sentence"] or asked.delphi or latent in site.curated

# %% [markdown]
# ## At scale

# %%
import pandas as pd

from rewrite_utils.explain import asking as explain
from rewrite_utils.llm import prompts
from rewrite_utils.report import display, tables

# %% [markdown]
# ### What the explainer is told
#
# The instructions, as they stand in `rewrite_utils/prompts/explain.txt` (with counterexamples or
# logits: `explain_more.txt`), then one latent's evidence.

# %%
asked = run.params.explain
print(prompts.turns(explain.wording(asked), asked.options)[0].text)

# %%
print(next(iter(sites.values())).shown())

# %% [markdown]
# ### The sentences

# %%
shown = {}
for name, site in sites.items():
    told, rate = site.explanations.head(12), site.cache("explain").rate
    none = "(no sentence: " + told["reply"].map(repr) + ")"
    fires = [f"{rate[latent]:.1%}" for latent in told["latent"]]
    sentences = told["sentence"].fillna(none)
    shown[name] = pd.DataFrame({"latent": told["latent"], "fires on": fires, "sentence": sentences})
display.frame(tables.stacked(shown))

# %% [markdown]
# ### What they cost, and how often none came

# %%
facts = {name: site.written_stage.manifest["facts"] for name, site in sites.items()}
display.frame(tables.llm_costs(facts, what="explanation"))

# %% [markdown]
# ## Result

# %%
every = pd.concat([site.explanations for site in sites.values()])
failed, texts = int(every["sentence"].isna().sum()), every["explanation"].dropna()
same = sum(
    int(site.explanations["explanation"].dropna().duplicated(keep=False).sum())
    for site in sites.values()
)
said = f"{len(every) - failed} sentences for {len(every)} latents, {failed} failures, "
said += f"{same} not unique"
run.headline("03_explanations", {"text": said})
display.said(said, head=True)

# %% [markdown]
# *What could be wrong.* Fewer than ten windows cannot come from all ten deciles: they are of the
# strongest, unless `explain.deciles` is `spread`. A sentence can be fluent and wrong: only the
# scores (04) and the rewrite (07) say whether it holds; [12](12_explanations.ipynb) compares
# sentences written with counterexamples, a second try, or the logits. The words in brackets are
# counted, not written by the LLM; `explain.evidence` turns them off.
#
# Next: [04 · Scores](04_scores.ipynb).
