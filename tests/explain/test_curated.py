"""The file of sentences kept by hand: what is no such file is one error that names it."""

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from rewrite_utils.explain import curated
from rewrite_utils.params import ParameterError


def test_a_file_that_is_not_there_is_called_what_it_is(tmp_path):
    with pytest.raises(ParameterError, match=r"explain.curated: there is no file .*explorer"):
        curated.read(tmp_path / "no.parquet", site="a", coder="x")


@pytest.mark.parametrize("content", [b"PAR1", None])
def test_a_file_that_is_no_such_table_is_named_and_kept(tmp_path, content):
    file = tmp_path / "curated.parquet"
    pd.DataFrame({"other": [1]}).to_parquet(file) if content is None else file.write_bytes(content)
    before = file.read_bytes()
    with pytest.raises(ParameterError, match=f"{file} is not the explorer's table"):
        curated.read(file, site="a", coder="x")
    with pytest.raises(ParameterError, match=f"{file} is not the explorer's table"):
        curated.save(file, site="a", coder="x", latent=1, sentence="s", replaced="")
    assert file.read_bytes() == before


def test_two_that_save_at_once_lose_nothing(tmp_path):
    file = tmp_path / "curated.parquet"

    def save(latent: int) -> None:
        curated.save(file, site="a", coder="x", latent=latent, sentence=f"s{latent}", replaced="")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(16)))
    assert curated.read(file, site="a", coder="x") == {latent: f"s{latent}" for latent in range(16)}
