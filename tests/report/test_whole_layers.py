"""How sources of a whole layer's rewrite are named."""

import pandas as pd

from rewrite_utils.report.readers import labels


def test_a_source_of_fewer_latents_says_how_many_and_each_site_has_its_own_most():
    table = pd.DataFrame(
        [
            ("first", "coder", "mean"),
            ("first", "a", "mean of 48"),
            ("first", "c:exact", "mean of 255"),
            ("last", "c", "mean of 252"),
            ("last", "d+context", "mean of 252"),
        ],
        columns=["site", "source", "against"],
    )
    assert labels(table).tolist() == [
        "coder",
        "a · an LLM's sentence, 48 latents",
        "c · only the same word",
        "c · counted words with strengths",
        "d · and what it raises and lowers + state of the LLM",
    ]
    alone = labels(table[table["site"] == "first"].drop(columns="site"))
    assert alone.tolist() == labels(table).tolist()[:3]
