"""Parameters: misspelt names and impossible values are one clear error; speed is not hashed."""

from pathlib import Path

import pytest
import yaml

from rewrite_utils.params import (
    LLM,
    ROOT,
    Explain,
    ParameterError,
    Params,
    Score,
    Section,
    Subject,
    load,
    names,
    parse,
)

SITES = {"early": {"hookpoint": "layers.0.mlp", "latents": 16, "k": 2}}
RAW = {"name": "test", "sites": SITES}
YAMLS = sorted((ROOT / "params").rglob("*.yaml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(RAW))
    return path


@pytest.mark.parametrize(
    ("wrong", "named", "meant"),
    [
        ({"sede": 1}, "'sede'", "'seed'"),
        ({"corpus": {"row_token": 64}}, "'corpus.row_token'", "'corpus.row_tokens'"),
        ({"simulator": {"modle": "x"}}, "'simulator.modle'", "'simulator.model'"),
        ({"sites": {"a": {"hookpoint": "layers.0", "latent": 4}}}, "'sites.a.latent'", "latents'"),
        (
            {"sites": SITES | {"b": {"hookpoint": "layers.0", "lattents": 4}}},
            "'sites.b.lattents'",
            "'sites.b.latents'",
        ),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest_one(wrong, named, meant):
    with pytest.raises(ParameterError) as error:
        parse(RAW | wrong)
    assert f"no parameter {named}" in str(error.value)
    assert "did you mean" in str(error.value) and meant in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sites": {"a": {"hookpoint": "layers.0", "latents": 4, "k": 5}}}, "k = 5 is more than"),
        (
            {"sites": {"a": {"hookpoint": "layers.0", "latents": 4, "described": 9}}},
            "described = 9 is more than the 4",
        ),
        ({"corpus": {"train": 0.9}}, "add up to 1.2000, not 1"),
        ({"corpus": {"row_tokens": 10}}, "corpus.row_tokens = 10"),
        ({"simulate": {"last_position": 127}}, "33 … 127 do not fit a row of 128"),
        ({"simulate": {"first_position": 20}}, "a window of 32 tokens cannot end at position 20"),
        ({"rewrite": {"headline": "raw"}}, "'raw' is not in rewrite.calibrators"),
        ({"rewrite": {"orders": ["best"]}}, "rewrite.orders.0 = 'best'"),
        ({"explain": {"window_tokens": 128}}, "explain.window_tokens = 128"),
        ({"score": {"window_tokens": 128}}, "tokens with BOS: at most 127"),
        ({"explain": {"temperature": -1}}, "explain.temperature = -1"),
        ({"subject": {"dtype": "float8"}}, "subject.dtype = 'float8'"),
        ({"seed": "many"}, "seed = 'many'"),
        ({"simulate": {"screen": 0}}, "simulate.screen = 0: Input should be greater than 0"),
        ({"simulate": {"screen": 1.5}}, "simulate.screen = 1.5"),
        (
            {"simulate": {"mode": "all"}, "simulator": {"engine": "vllm"}},
            "the engine 'vllm' cannot: use transformers or auto",
        ),
        (
            {"simulate": {"mode": "all"}, "simulator": {"engine": "ray", "worker_engine": "vllm"}},
            "the engine 'vllm' cannot",
        ),
        (
            {"sites": {"a": {"hookpoint": "layers.0.mlp", "bias_convention": "pre-2025-02"}}},
            "is for coders that are loaded",
        ),
        (
            {"sites": {"a": {"hookpoint": "layers.0.mlp", "normalize_decoder": True}}},
            "normalize_decoder = true is for SAEs",
        ),
        (
            {
                "sites": {
                    "a": {"hookpoint": "layers.0", "normalize_decoder": True, "optimizer": "signum"}
                }
            },
            "trained with adam",
        ),
        ({"subject": {"checkpoints": ["step8", "step4"]}}, "step8, step4 must end with"),
        ({"subject": {"checkpoints": ["main", "step4"]}}, "must end with their training step"),
        ({"subject": {"checkpoints": ["step4"]}}, "one checkpoint makes no training curve"),
        ({"name": "../../elsewhere"}, "name = '../../elsewhere': the run's folder is runs/<name>"),
        ({"name": ""}, "name = ''"),
        ({"sites": {}}, "a run needs one site or more"),
        ({"sites": {"a/b": SITES["early"]}}, "files of the site 'a/b' carry its name"),
        ({"seed": -1}, "seed = -1: Input should be greater than or equal to 0"),
        ({"sites": {"a": {"hookpoint": "layers.0", "lr": float("inf")}}}, "sites.a.lr = inf"),
        ({"rewrite": {"fractions": []}}, "rewrite.fractions"),
        ({"rewrite": {"fractions": [2]}}, "rewrite.fractions.0 = 2"),
        ({"studies": {"sizes": []}}, "studies.sizes"),
        ({"corpus": {"sources": []}}, "corpus.sources"),
    ],
)
def test_an_impossible_value_is_refused_with_its_reason(wrong, says):
    with pytest.raises(ParameterError) as error:
        parse(RAW | wrong)
    assert says in str(error.value)


@pytest.mark.parametrize("where", ["subject", "explainer", "simulator"])
def test_mistake_float16_which_overflows_is_not_offered(where):
    with pytest.raises(ParameterError, match=f"{where}.dtype = 'float16'.*'bfloat16'"):
        parse(RAW | {where: {"dtype": "float16"}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"name: caf\xe9\n", "test.yaml is not UTF-8 text"),
        (b"name: a\nname: b\n", "'name' stands twice in one place"),
        (
            b"name: a\nsites:\n  e: {hookpoint: layers.0}\n  e: {hookpoint: layers.1}\n",
            "'e' stands",
        ),
    ],
)
def test_a_file_that_is_no_clear_text_is_refused_by_name(file, text, says):
    file.write_bytes(text)
    with pytest.raises(ParameterError, match=says) as error:
        load(file)
    assert "test.yaml" in str(error.value)


def test_aliases_and_merged_names_are_no_repetition(file):
    file.write_text(
        "name: a\nsites:\n  e: &e {hookpoint: layers.0, k: 2}\n  f: {<<: *e, k: 3}\n  g: *e\n"
    )
    changed = load(file, {"sites.e.k": 5}).sites
    assert [changed[name].k for name in "efg"] == [5, 3, 2]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("corpus:\nsites: {e: {hookpoint: layers.0}}", "corpus.max_rows"),
        ("sites: {e: }", "sites.e.k"),
        ("subject: pythia\nsites: {e: {hookpoint: layers.0}}", "subject.model"),
        ("sites: {1: {hookpoint: layers.0}}", "seed"),
    ],
)
def test_an_override_of_what_is_no_group_is_one_clear_error(file, text, name):
    file.write_text(f"name: test\n{text}\n")
    with pytest.raises(ParameterError, match=r"no group of named|should be a valid string"):
        load(file, {name: 3})


def test_a_missing_parameter_is_named():
    with pytest.raises(ParameterError, match=r"'sites.early.hookpoint' is missing"):
        parse({"name": "test", "sites": {"early": {}}})
    with pytest.raises(ParameterError, match="'name' is missing"):
        parse({"sites": SITES})


def test_parameters_cannot_be_changed_afterwards():
    params = parse(RAW)
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        params.sites["early"].k = 1


def test_content_leaves_out_what_only_decides_the_speed():
    slow = LLM(engine="transformers", threads=1, memory_gb=1.0)
    fast = LLM(engine="vllm", threads=2, memory_gb=4.0)
    assert slow != fast and slow.content() == fast.content()
    assert set(LLM.model_fields) - set(slow.content()) == LLM.UNHASHED | LLM.LATER


@pytest.mark.parametrize(
    ("field", "other"), [("model", "other"), ("dtype", "float32"), ("context", 4096)]
)
def test_content_keeps_what_decides_the_result(field, other):
    assert LLM().content() != LLM(**{field: other}).content()


def test_checkpoints_are_read_beside_the_subject_and_change_none_of_its_stages():
    subject = Subject(checkpoints=("step0", "step64", "step143000"))
    assert subject.steps == (0, 64, 143_000)
    assert subject.content() == Subject().content()


def test_every_name_left_out_of_the_hash_is_a_field():
    for section in Section.__subclasses__():
        assert set(section.model_fields) >= section.UNHASHED | section.LATER | section.BEFORE.keys()


def test_text_is_drawn_by_the_runs_name_and_seed_unless_the_file_says_by_the_seed():
    one, other = (parse(RAW | {"name": name}) for name in ("one", "other"))
    assert len({one.draws, other.draws, parse(RAW | {"name": "one", "seed": 9}).draws}) == 3
    assert one.corpus.content()["draw"] == "name"
    old = parse(RAW | {"corpus": {"draw": "seed"}})
    assert old.draws == old.seed and "draw" not in old.corpus.content()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_run_with_committed_figures_says_how_its_text_was_drawn(path):
    """Its rows and hashes must not follow a default that changes."""
    params = load(path)
    committed = (ROOT / params.figures).is_dir() and params.figures.startswith("figures")
    assert not committed or "draw" in params.corpus.model_fields_set


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_file_in_params_loads_under_its_own_name(path):
    assert load(path).name == path.stem


def test_the_full_run_asks_as_the_main_job_does():
    """Another coder, narrow enough for an LLM pass a pair; the same seed, wording and headline, but
    for what the full run pins as it was made."""
    main, full = load("embedded"), load("embedded-full")
    explain = main.explain.model_copy(update={"deciles": "strongest", "quotes": "same"})
    assert main.seed == full.seed and main.subject.model == full.subject.model
    assert main.rewrite.headline == full.rewrite.headline and explain == full.explain


@pytest.mark.parametrize("stem", ["pythia-160m", "smollm2-135m"])
def test_every_number_of_the_papers_settings_has_a_source(stem):
    lines = (ROOT / "params" / f"{stem}.yaml").read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if ": " in line.split("#")[0].strip() + " "]
    set_ones = [line for line in values if line.split("#")[0].split(":", 1)[1].strip()]
    unsaid = [
        line
        for line in set_ones
        if not any(mark in line for mark in ("(v1", "(v2", "(known", "(inferred", "(ours"))
        and not line.startswith("name:")
    ]
    assert len(set_ones) > 40 and unsaid == []


def test_overrides_by_dotted_name(file):
    given = {"sites.early.k": 4, "corpus.max_rows": 7, "simulator.dtype": "float32", "seed": 3}
    params = load(file, given)
    assert (params.sites["early"].k, params.corpus.max_rows) == (4, 7)
    assert (params.simulator.dtype, params.seed) == ("float32", 3)
    assert load(file).sites["early"].k == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sites.early.kk", "sites.early.k"),
        ("sites.late.k", "sites.early.k"),
        ("corpus.maxrows", "corpus.max_rows"),
        ("sede", "seed"),
        ("corpus", None),
    ],
)
def test_a_misspelt_override_is_refused(file, name, meant):
    with pytest.raises(ParameterError, match=f"no parameter '{name}'") as error:
        load(file, {name: 1})
    assert meant is None or f"did you mean '{meant}'" in str(error.value)


def test_an_override_with_an_impossible_value_is_refused(file):
    with pytest.raises(ParameterError, match="k = 99 is more than the coder's 16 latents"):
        load(file, {"sites.early.k": 99})


def test_a_file_that_is_not_there_names_those_that_are():
    with pytest.raises(ParameterError, match=r"no parameter file 'pithia'; .*pythia-160m"):
        load("pithia")


def test_a_bare_name_means_the_file_in_params():
    assert load("pythia-160m") == load(ROOT / "params" / "pythia-160m.yaml")


@pytest.mark.parametrize(("text", "says"), [("a: [", "not readable YAML"), ("- 1", "holds a list")])
def test_a_file_that_holds_no_parameters_is_refused(tmp_path, text, says):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ParameterError, match=says):
        load(tmp_path / "bad.yaml")


def test_every_parameter_is_explained():
    listed = list(names())
    assert [name for name, _, text in listed if not text.strip()] == []
    assert {"seed", "corpus.row_tokens", "sites.<site>.hookpoint"} <= {name for name, *_ in listed}


def test_defaults_are_valid():
    params = parse(RAW)
    assert isinstance(params, Params)
    assert params.rated_positions == (33, 126)


def test_a_kind_of_explanation_is_its_switches_and_keeps_the_run_s_own_numbers():
    own = Explain(logits=7, windows=9, contrast="decoder", curated="a", delphi="b")
    plain = own.of_kind("plain")
    assert (plain.contrast, plain.logits, plain.refine, plain.curated) == ("none", 0, 0, "")
    assert plain.windows == 9 and plain.delphi == ""
    both = own.of_kind("embedding+refined+logits")
    assert (both.contrast, both.logits, both.refine) == ("embedding", 7, 6)


def test_options_that_are_off_are_not_hashed_and_scores_of_their_own_never():
    assert Explain(contrast="none", counterexamples=5).content() == Explain().content()
    assert {"contrast", "logits", "refine", "delphi"}.isdisjoint(Explain().content())
    assert Explain(contrast="embedding").content()["contrast"] == "embedding"
    assert Explain(refine=6).content() == Explain().content()  # 03_refined hashes it
    for section in (Explain, Score):
        assert "deciles" not in section(deciles="strongest").content()
        assert section().content()["deciles"] == "spread"
    assert Score(hard=3, fuzzing=2, threshold="prior").content() == Score().content()
    assert Score().reading() == {} and Score(threshold="prior").reading() == {"threshold": "prior"}
