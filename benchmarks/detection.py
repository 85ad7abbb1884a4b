"""Why is detection at chance? The same sentences and windows, asked in several ways.

    python benchmarks/detection.py params/embedded.yaml early --latents 24

Reads the run's newest sentences of the site (nothing is explained again) and judges each latent's
score windows: five a prompt or one, special tokens raw or as words, with and without the word list,
by another latent's sentence, and by fuzzing. One table on stdout; no stage is written.
"""

import argparse
import contextlib
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from rewrite_utils import stats
from rewrite_utils.explain.floor import derangement
from rewrite_utils.llm import opening, prompts
from rewrite_utils.runs.run import open_run
from rewrite_utils.score import scores as score
from rewrite_utils.score import trials
from rewrite_utils.score.detection import Asked, judged
from rewrite_utils.site import SiteStages


def newest(site: SiteStages) -> pd.DataFrame:
    """The sentences that were written last, whatever code wrote them."""
    stages = Path(site.run.folder, "stages").glob(f"03_explanations.{site.name}-*")
    files = [folder / "explanations.parquet" for folder in stages if folder.is_dir()]
    table = pd.read_parquet(max(files, key=lambda file: file.stat().st_mtime))
    return table.dropna(subset=["sentence"])


def drawn(site: SiteStages, latents: list[int], *, fuzz: bool) -> list[trials.Trial]:
    """The windows of every latent, shuffled as the stage shuffles them."""
    found, cache, asked = [], site.cache("score"), site.params.score
    for latent in latents:
        rng = np.random.default_rng([site.params.seed, latent])
        if fuzz:
            more = asked.model_copy(update={"fuzzing": asked.activating})
            one = trials.fuzzing(cache, latent, more, rng, site.quoted, threshold=0.2)
        else:
            one = trials.detection(cache, latent, asked, rng, site.quoted)
        found.append(one.shuffled(rng.permutation(len(one.active))))
    return found


def table_of(latents: list[int], found: list[trials.Trial], said: list) -> pd.DataFrame:
    """Judgements in the form of the stage."""
    parts = [
        pd.DataFrame({"latent": latent, "active": trial.active, "probability": probability})
        for latent, trial, probability in zip(latents, found, said, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def line(name: str, judgements: pd.DataFrame, seconds: float) -> dict[str, object]:
    """What one way of asking gave, intervals over latents."""
    half, prior = (score.scores(judgements, threshold=t) for t in ("half", "prior"))
    auroc = stats.bootstrap(half["auroc"].dropna().to_numpy(), unit="latent", seed=0)
    return {
        "asked": name,
        "AUROC": f"{auroc.value:.3f} [{auroc.low:.3f}, {auroc.high:.3f}] n = {auroc.n}",
        "AUPRC": f"{half['auprc'].mean():.3f}",
        "F1 at 1/2": f"{half['f1'].mean():.2f}",
        "F1 at prior": f"{prior['f1'].mean():.2f}",
        "yes at 1/2": f"{(judgements['probability'] > 0.5).mean():.0%}",
        "seconds a latent": f"{seconds / judgements['latent'].nunique():.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params")
    parser.add_argument("site")
    parser.add_argument("--latents", type=int, default=24)
    given = parser.parse_args()
    site = SiteStages(open_run(given.params), given.site)
    told = newest(site).head(given.latents)
    latents = told["latent"].astype(int).tolist()
    whole, bare = told["sentence"].tolist(), told["explanation"].tolist()
    other = [whole[place] for place in derangement(len(whole), site.params.seed)]
    ways = {
        "five a prompt, special tokens raw": (whole, 5, "detect", True),
        "five a prompt": (whole, 5, "detect", False),
        "one a prompt": (whole, 1, "detect", False),
        "one a prompt, no word list": (bare, 1, "detect", False),
        "one a prompt, the word list alone": (told["tokens"].tolist(), 1, "detect", False),
        "one a prompt, another's sentence (floor)": (other, 1, "detect", False),
        "fuzzing, one a prompt": (whole, 1, "fuzz", False),
    }
    llm, rows = opening.engine(site.params.explainer), []
    for name, (sentences, per_prompt, task, raw) in ways.items():
        quoting = patch.object(prompts, "harmless", lambda _, text: text)
        with (
            quoting if raw else contextlib.nullcontext(),
            patch.object(site, "quoted", site.texts) if raw else contextlib.nullcontext(),
        ):
            found = drawn(site, latents, fuzz=task == "fuzz")
            asked = [Asked(s, trial.texts) for s, trial in zip(sentences, found, strict=True)]
            before = llm.usage
            said = judged(llm, asked, task=task, per_prompt=per_prompt)
        seconds = llm.usage.since(before).seconds
        rows.append(line(name, table_of(latents, found, said), seconds))
        print(pd.DataFrame(rows).to_string(index=False), flush=True)
    llm.close()


if __name__ == "__main__":
    main()
