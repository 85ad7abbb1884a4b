"""delphi's files, both ways: names, fields, failures, and errors that say the fix."""

import json

import numpy as np
import pandas as pd
import pytest
from latent_cases import cache_of, drawn

from rewrite_utils.explain import delphi
from rewrite_utils.params import ParameterError

PLACE = "layers.6.mlp"


def a_run(folder):
    """Two latents of one hookpoint and one of another, as delphi writes them."""
    texts = {
        f"{PLACE}_latent3": "Words for water.\n",
        f"{PLACE}_latent12": "Explanation could not be parsed.",
        "layers.7_latent1": "other",
    }
    for name, text in texts.items():
        file = folder / "explanations" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(text))
    one = {"str_tokens": ["a"], "activations": [0.0], "distance": -1, "correct": True}
    judged = [
        one | {"activating": True, "prediction": 1, "probability": None},
        one | {"activating": False, "prediction": 0, "probability": 0.25},
        one | {"activating": False, "prediction": None, "probability": None},
    ]
    file = folder / "scores" / "detection" / f"{PLACE}_latent3.txt"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(judged))
    return folder


def test_explanations_of_one_hookpoint_by_latent_and_a_failure_is_no_sentence(tmp_path):
    table = delphi.read_explanations(a_run(tmp_path), PLACE)
    assert table["latent"].tolist() == [3, 12]
    assert table["sentence"].iloc[0] == "Words for water."
    assert table["sentence"].isna().tolist() == [False, True]
    assert table["reply"].iloc[1] == "Explanation could not be parsed."


def test_scores_take_the_probability_else_the_prediction_and_count_failures(tmp_path):
    found = delphi.read_scores(a_run(tmp_path), PLACE)
    assert found.failures == 1
    assert found.table["active"].tolist() == [True, False]
    assert found.table["probability"].tolist() == [1.0, 0.25]
    assert found.table["latent"].tolist() == [3, 3]


def test_an_unknown_hookpoint_names_those_there_are(tmp_path):
    with pytest.raises(ParameterError, match=r"it holds layers\.6\.mlp, layers\.7"):
        delphi.read_explanations(a_run(tmp_path), "layers.9")
    with pytest.raises(ParameterError, match="no latents"):
        delphi.read_scores(a_run(tmp_path / "b"), PLACE, kind="fuzzing")


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), ("[1]", "not one JSON string")])
def test_a_file_of_another_kind_is_an_error_that_names_it(tmp_path, text, said):
    a_run(tmp_path)
    (tmp_path / "explanations" / f"{PLACE}_latent3.txt").write_text(text)
    with pytest.raises(ParameterError, match=f"latent3.txt.*{said}"):
        delphi.read_explanations(tmp_path, PLACE)


def test_scores_without_their_fields_are_an_error(tmp_path):
    a_run(tmp_path)
    file = tmp_path / "scores" / "detection" / f"{PLACE}_latent3.txt"
    file.write_text('[{"text": "a"}]')
    with pytest.raises(ParameterError, match="fields activating, prediction"):
        delphi.read_scores(tmp_path, PLACE)


def test_a_sentence_beyond_the_coders_width_names_the_fix():
    with pytest.raises(ParameterError, match=r"latent 12, but the site's coder has 12 latents"):
        delphi.require_width([3, 12], 12, PLACE)
    delphi.require_width([3, 11], 12, PLACE)


def test_the_digest_is_of_the_files_read(tmp_path):
    a_run(tmp_path)
    before = delphi.digest(tmp_path, PLACE)
    (tmp_path / "explanations" / "layers.7_latent1.txt").write_text('"changed"')
    assert delphi.digest(tmp_path, PLACE) == before
    (tmp_path / "explanations" / f"{PLACE}_latent3.txt").write_text('"changed"')
    assert delphi.digest(tmp_path, PLACE) != before
    assert delphi.digest(tmp_path, PLACE, scores="detection") != before


def test_what_is_written_is_read_again(tmp_path):
    dense, tokens = drawn(2, rows=6, length=20)
    cache = cache_of(dense, tokens)
    told = pd.DataFrame({"latent": [2, 4], "sentence": ['a "b"\nc', None]})
    delphi.write_explanations(tmp_path, "layers/6", told)
    again = delphi.read_explanations(tmp_path, "layers/6")
    assert again["latent"].tolist() == [2] and again["sentence"].tolist() == ['a "b" c']
    judged = pd.DataFrame(
        {
            "latent": 4,
            "row": [0, 1, 2, 3],
            "end": [9, 10, 11, 12],
            "active": [True, True, True, False],
            "probability": [0.9, 0.4, 0.6, 0.2],
            "said": [True, False, True, False],
        }
    )
    given = {"cache": cache, "window": 5, "texts": lambda ids: [str(i) for i in ids]}
    delphi.write_scores(tmp_path, "layers/6", judged, **given)
    found = delphi.read_scores(tmp_path, "layers/6")
    assert found.failures == 0
    columns = ["latent", "active", "probability"]
    pd.testing.assert_frame_equal(found.table[columns], judged[columns], check_dtype=False)
    (file,) = (tmp_path / "scores" / "detection").iterdir()
    assert file.name == "layers--6_latent4.txt"
    rows = json.loads(file.read_text())
    fields = {"str_tokens", "activations", "distance", "activating", "prediction", "probability"}
    assert all(set(row) == fields | {"correct"} for row in rows)
    assert [row["prediction"] for row in rows] == [True, False, True, False]
    assert [row["correct"] for row in rows] == [True, False, True, True]
    peaks = [
        dense[r, e - 4 : e + 1, 4].max() for r, e in zip(judged["row"], judged["end"], strict=True)
    ]
    strongest = int(np.argmax(peaks[:3]))
    assert [row["distance"] for row in rows][strongest] == 1 and rows[3]["distance"] == -1
    np.testing.assert_allclose(max(rows[0]["activations"]), peaks[0], atol=1e-4)


@pytest.mark.parametrize("said", [None, -1])
def test_null_and_minus_one_are_failures_and_no_sentence_and_no_no(tmp_path, said):
    a_run(tmp_path)
    (tmp_path / "explanations" / f"{PLACE}_latent3.txt").write_text(json.dumps(said))
    assert delphi.read_explanations(tmp_path, PLACE)["sentence"].isna().all()
    file = tmp_path / "scores" / "detection" / f"{PLACE}_latent3.txt"
    judged = [{"activating": True, "prediction": said, "probability": p} for p in (None, 0.5)]
    file.write_text(json.dumps([*judged, {"activating": False, "prediction": False}]))
    found = delphi.read_scores(tmp_path, PLACE)
    assert found.failures == 2 and found.table["probability"].tolist() == [0.0]
