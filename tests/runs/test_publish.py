"""A finished run is packed, and opens elsewhere without anything being made again."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from report_cases import coder_table, found_of
from stage_cases import World, finish

from rewrite_utils.explorer import Shelf
from rewrite_utils.report import claims, verdicts
from rewrite_utils.runs import packed, publish
from rewrite_utils.runs.publish import PublishError
from rewrite_utils.runs.run import DamagedStageWarning, Run
from rewrite_utils.site import open_sites

ONE = pytest.mark.parametrize("architecture", ["neox"], indirect=True, scope="session")
pytestmark = [pytest.mark.usefixtures("architecture"), ONE]
READ: dict[str, pd.DataFrame] = {}
"""What the run itself says, to compare with."""


def read_everything(run: Run) -> dict:
    """What notebooks 06 to 10 ask of a run."""
    sites = open_sites(run)
    for site in sites.values():
        for study in ("specificity", "fewer", "shrink"):
            assert len(getattr(site, study))
        shelf = Shelf(site)
        assert len(shelf.reading(shelf.latents[0]).alone)
    site = sites["mlp"]
    return {
        "claims": claims.table([found_of(site)]),
        "bars": verdicts.bars(site.verdict, list(site.estimates)),
        "coders": coder_table(sites),
    }


@pytest.fixture(scope="module")
def finished_world(world) -> World:
    """The run with the records that the series leaves."""
    finish(world.sites)
    READ.update(read_everything(world.run))
    stages = sorted({f"{event['stage']}-{event['hash']}" for event in world.run.journal})
    for number in publish.NEEDED:
        record = {"made_from": "", "stages": stages, "figures": []}
        file = world.run.folder / "executed" / f"{number}_x.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(record))
    world.run.headline("07_rewrite", {"text": "what was found"})
    return world


@pytest.fixture(scope="module")
def published(finished_world, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("runs-published") / "tiny"
    publish.publish(finished_world.run, target)
    return target


def opened(world: World, folder: Path, published: Path) -> Run:
    folder.mkdir()
    return Run(world.run.params, folder, published)


def test_everything_opens_elsewhere_and_nothing_is_made(finished_world, published, tmp_path):
    run = opened(finished_world, tmp_path / "fresh", published)
    asked = len(finished_world.llm.texts)
    found = read_everything(run)
    assert not [event for event in run.journal if event["made"]]
    assert len(finished_world.llm.texts) == asked
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, READ[name])
    assert run.headlines["07_rewrite"] == {"text": "what was found"}


def test_what_is_published_counts_as_finished(finished_world, published, tmp_path):
    site = open_sites(opened(finished_world, tmp_path / "fresh", published))["mlp"]
    assert site.is_simulated


def test_another_parameter_is_made_and_not_taken_from_there(finished_world, published, tmp_path):
    changed = finished_world.again(tmp_path, rewrite__fractions=[1.0])
    run = Run(changed.params, tmp_path, published)
    site = open_sites(run)["mlp"]
    assert len(site.losses)
    assert {event["stage"] for event in run.journal if event["made"]} == {"07_rewrite.mlp"}


def test_a_pack_that_is_not_what_the_manifest_says_is_made_anew(
    finished_world, published, tmp_path
):
    copy = tmp_path / "published"
    shutil.copytree(published, copy)
    [file] = copy.glob("04_scores.mlp-*")
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    run = opened(finished_world, tmp_path / "fresh", copy)
    with pytest.warns(DamagedStageWarning, match=r"04_scores.mlp.* is not what .*manifest.json"):
        scores = open_sites(run)["mlp"].scores
    assert scores.equals(finished_world.sites["mlp"].scores)
    made = {event["stage"] for event in run.journal if event["made"]}
    assert made == {"04_scores.mlp"}


def test_the_tables_are_of_every_pair_and_every_sentence(finished_world, published):
    for name, site in finished_world.sites.items():
        told = pd.read_parquet(published / f"{name}.predictions.parquet")
        assert len(told) == (9 + 5) * len(site.simulated)
        unseen = told[told["split"] == "evaluate"]
        headline = site.estimates[site.params.rewrite.headline].values
        assert unseen["predicted"].to_numpy() == pytest.approx(headline.ravel(), rel=1e-5)
        assert unseen["true"].tolist() == site.true("evaluate").ravel().tolist()
        sentences = pd.read_parquet(published / f"{name}.explanations.parquet")
        assert len(sentences) == 5 and {"sentence", "f1", "auroc"} <= set(sentences.columns)


def test_packing_it_again_gives_the_same_bytes(finished_world, published, tmp_path):
    again = publish.publish(finished_world.run, tmp_path / "again")
    assert again["files"] == packed.listing(published)["files"]
    assert {file.name for file in published.iterdir()} == {*again["files"], packed.LISTING}


def test_what_is_too_large_is_not_published_and_the_largest_files_are_named(
    finished_world, tmp_path
):
    with pytest.raises(PublishError, match=r"more than 0.001 MB \(the largest: .*lower corpus"):
        publish.publish(finished_world.run, tmp_path / "small", limit_mb=0.001)
    assert not (tmp_path / "small").exists()


def test_an_unfinished_run_is_an_error_that_says_what_to_run(finished_world, tmp_path):
    run = finished_world.again(tmp_path)
    with pytest.raises(PublishError, match=r"not executed notebook 06, 07.*rewrite_utils.series"):
        publish.finished(run)


def test_notebooks_of_other_code_are_left_out_and_missed(finished_world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished_world.run.folder, folder)
    run = Run(finished_world.run.params, folder)
    older = {"made_from": "older", "stages": ["01_gone-0"], "figures": []}
    (folder / "executed" / "03_x.json").write_text(json.dumps(older))
    assert "01_gone-0" not in {stage.name for stage in publish.finished(run)}
    (folder / "executed" / "07_x.json").write_text(json.dumps(older))
    with pytest.raises(PublishError, match=r"not executed notebook 07, or not with the code"):
        publish.finished(run)


def test_a_damaged_stage_is_not_published(finished_world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished_world.run.folder, folder)
    [stage] = (folder / "stages").glob("05_simulation.mlp-*/")
    file = next(path for path in stage.rglob("*") if path.is_file() and "manifest" not in path.name)
    file.unlink()
    with pytest.raises(PublishError, match=r"is missing: run the series again"):
        publish.finished(Run(finished_world.run.params, folder))
