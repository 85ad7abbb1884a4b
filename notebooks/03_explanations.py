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
params_file: str = "params/smoke.yaml"  # the configuration that every notebook of a run shares
overrides: dict = {}  # single parameters by dotted name, e.g. {"sites.early.k": 8}

# %%
import pandas as pd

from rewrite_utils.explain import asking as explain
from rewrite_utils.llm import prompts
from rewrite_utils.report import display, tables
from rewrite_utils.runs.run import open_run
from rewrite_utils.site import open_sites

run = open_run(params_file, overrides)
sites = open_sites(run)

# %% [markdown]
# ## At scale

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
