"""A claim cannot outrun its data: numbers of the README stand in committed tables, pages are made.

figures/said.csv lists what the README says outside its table: the text, and where the number is.
"""

import re

import pandas as pd
import pytest

from rewrite_utils.params import ROOT
from rewrite_utils.report import __main__ as pages
from rewrite_utils.report import protocol

README = (ROOT / "README.md").read_text(encoding="utf-8")
SAID = pd.read_csv(ROOT / "figures" / "said.csv", keep_default_na=False)
FOUND = README.partition("## What was found")[2].partition("\n## ")[0]
PROSE = FOUND.partition(protocol.BEGIN)[0] + FOUND.partition(protocol.END)[2]
"""What was found, without the table that a command makes."""
CLAIM = re.compile(r"[+−]?\d*\.?\d+(?: %)? \[[^]()]+\]|[+−]\d*\.\d+ nat")
"""A value with its interval, or a signed one in nats."""


def numbers(text: str) -> list[float]:
    """All numbers of a text, per cent as shares."""
    found = [float(one.replace("−", "-")) for one in re.findall(r"[+−]?\d*\.?\d+", text)]
    return [one / 100 for one in found] if "%" in text else found


def flat(text: str) -> str:
    """Text without line breaks, zeros before the point or marks of bold."""
    return re.sub(r"(?<!\d)0\.", ".", re.sub(r"\s+", " ", text.replace("**", "")))


def test_every_number_with_an_interval_is_listed_with_its_source():
    said = flat(PROSE)
    told = [found[0] for found in CLAIM.finditer(said)]
    assert len(told) >= len(SAID)
    assert [one for one in told if one not in set(SAID["said"])] == []
    assert [one for one in SAID["said"] if one not in said] == []


@pytest.mark.parametrize("row", SAID.itertuples(), ids=lambda row: row.said)
def test_a_listed_number_stands_where_the_list_says(row):
    if not row.column:
        page = flat((ROOT / row.file).read_text(encoding="utf-8"))
        assert row.said in page
        return
    table = pd.read_csv(ROOT / row.file).query(row.row)
    assert len(table) == 1
    shown = table[[row.column, f"{row.column}_low", f"{row.column}_high"]].to_numpy()[0]
    told = numbers(row.said)
    assert told == pytest.approx(shown[: len(told)], abs=0.0051)


def test_every_page_is_what_the_command_makes_of_the_data():
    stale = [file.name for file, text in pages.made().items() if file.read_text("utf-8") != text]
    assert stale == [], "run python -m rewrite_utils.report"


def test_a_column_of_the_table_names_its_parameter_file_and_an_absent_arm_is_a_dash(monkeypatch):
    for column in protocol.COLUMNS:
        assert f"({column.params}): seed " in protocol.table() and (ROOT / column.params).is_file()
    other = protocol.Column("params/x.yaml", "figures/embedded/07_verdict.csv", "late")
    monkeypatch.setattr(protocol, "COLUMNS", (*protocol.COLUMNS, other))
    assert "windows (v2) | +0.43 [+0.08, +0.78] | – |" in protocol.table()


def test_a_page_without_marks_is_an_error_that_says_them():
    with pytest.raises(ValueError, match="put <!-- made by"):
        protocol.renewed("no table here")
