"""Reading tables, describing their columns, and the counted way to standardised units."""

import gzip
import json

import narwhals as nw
import numpy as np
import pandas as pd
import pytest
import torch

from bijectory.errors import CheckpointError, ConfigError, DataError, DomainError, NonFiniteError
from bijectory.tables import (
    Column,
    DataWarning,
    Schema,
    Split,
    check_columns,
    infer_schema,
    preprocess,
    read_table,
    split_rows,
    to_frame,
    to_matrix,
)
from bijectory.tables.prepare import weighted_quantile

RNG = np.random.default_rng(0)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names", "first"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("a;b\n1;2\n3;4\n", ["a", "b"], [1, 2]),
        ("a\tb\n1\t2\n", ["a", "b"], [1, 2]),
        ("a|b\n1|2\n", ["a", "b"], [1, 2]),
        ("1.5,2\n3,4\n", ["x0", "x1"], [1.5, 2]),
        ("a;b\n1,5;2\n3,25;4\n", ["a", "b"], [1.5, 2]),
        ("a\n1\n2\n", ["a"], [1]),
        ('"a, x",b\n1,2\n', ["a, x", "b"], [1, 2]),
        (" a , b \n1, 2\n", ["a", "b"], [1, 2]),
        ("a,b\r\n1,2\r\n", ["a", "b"], [1, 2]),
        ("\ufeffa,b\n1,2\n", ["a", "b"], [1, 2]),
    ],
)
def test_csv_dialects(tmp_path, text, names, first):
    frame = read_table(write(tmp_path / "t.csv", text))
    assert list(frame.columns) == names
    assert to_matrix(frame)[0].tolist() == first


def test_other_formats_agree_with_csv(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(RNG.normal(size=(20, 3)), columns=["x0", "x1", "x2"])
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", frame.to_numpy())
    np.savez(tmp_path / "t.npz", only=frame.to_numpy())
    np.savez(tmp_path / "columns.npz", **{name: frame[name].to_numpy() for name in frame})
    write(tmp_path / "t16.csv", frame.to_csv(index=False), "utf-16")
    for name in ("t.csv.gz", "t.parquet", "t.npy", "t.npz", "columns.npz", "t16.csv"):
        pd.testing.assert_frame_equal(read_table(tmp_path / name), frame)


def test_saved_row_numbers_are_left_out(tmp_path):
    pd.DataFrame({"a": [1.5, 2.5], "b": [3.0, 4.0]}).to_csv(tmp_path / "t.csv")
    with pytest.warns(DataWarning, match="counts the rows"):
        assert list(read_table(tmp_path / "t.csv").columns) == ["a", "b"]


BAD = {
    "missing": (None, "there is no file", "current folder"),
    "zero bytes": (b"", "is empty", "write a header"),
    "blank": (b"\n \n", "is empty", "write a header"),
    "header only": (b"a,b\n", "no rows", "add at least two"),
    "binary": (bytes(range(256)), "binary file", "expected CSV"),
    "latin1": (b"a,b\n1,2\n" + "ä,2\n".encode("latin1"), "not UTF-8", "iconv -f latin1"),
    "ragged": (b"a,b\n1,2\n1,2,3\n", "not a regular table", "2 fields"),
    "repeated names": (b"a,b,a\n1,2,3\n", "repeat: 'a'", "rename"),
    "cut gzip": (gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:30], "damaged gzip", "again"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_path_and_remedy(tmp_path, case):
    content, what, remedy = BAD[case]
    path = tmp_path / "data.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as info:
        read_table(path)
    message = str(info.value)
    assert str(path) in message
    assert what in message
    assert remedy in message


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".npz"])
def test_junk_in_binary_formats(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(b"junk" * 9)
    with pytest.raises(DataError, match="not a readable"):
        read_table(path)


def test_pickled_arrays_are_not_opened(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable"):
        read_table(tmp_path / "o.npy")


def test_folders_and_misspelt_names(tmp_path):
    write(tmp_path / "power.csv", "a\n1\n")
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"did you mean .*power\.csv"):
        read_table(tmp_path / "pwoer.csv")
    with pytest.raises(DataError, match="does not exist either"):
        read_table(tmp_path / "no" / "power.csv")
    np.save(tmp_path / "v.npy", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match="one array"):
        read_table(tmp_path / "v.npy")


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_of_every_kind():
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    for other in (frame, nw.from_native(frame), {"a": [1, 2], "b": [0.5, 1.5]}):
        assert to_matrix(to_frame(other)).tolist() == [[1, 0.5], [2, 1.5]]
    assert list(to_frame(np.zeros((2, 2))).columns) == ["x0", "x1"]
    assert list(to_frame(pd.DataFrame(np.zeros((2, 2)))).columns) == ["0", "1"]
    polars = pytest.importorskip("polars")
    assert to_matrix(to_frame(polars.from_pandas(frame))).tolist() == [[1, 0.5], [2, 1.5]]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["Bern", "Basel"], "column 'c' is text (row 0: 'Bern'); drop it (--drop c) or encode it"),
        (["1.5", "many"], "row 1: 'many'"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "dates or times"),
        ([1j, 2j], "complex"),
    ],
)
def test_columns_without_numbers_are_named(column, words):
    with pytest.raises(DataError) as info:
        to_matrix(pd.DataFrame({"a": [1, 2], "c": column}))
    assert words in str(info.value)


def test_columns_that_are_numbers_in_disguise():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [True, False], "c": ["1.5", "2"]})
    assert np.array_equal(to_matrix(frame), [[1, 1, 1.5], [np.nan, 0, 2]], equal_nan=True)


def test_bad_frames():
    with pytest.raises(DataError, match="repeat"):
        to_frame(pd.DataFrame(np.zeros((2, 2)), columns=["a", "a"]))
    with pytest.raises(DataError, match="different lengths"):
        to_frame({"a": [1, 2], "b": [1, 2, 3]})
    with pytest.raises(DataError, match="shape"):
        to_frame(np.zeros(3))
    with pytest.raises(DataError, match="got int"):
        to_frame(3)
    with pytest.raises(DataError, match="did you mean 'height'"):
        check_columns(pd.DataFrame({"height": [1]}), ["heigth"])


# -- schema ------------------------------------------------------------------------------------------------------------


def table(n=400):
    rng = np.random.default_rng(1)
    a = rng.normal(size=n)
    return {
        "a": a,
        "b": rng.random(n),
        "p": rng.lognormal(size=n),
        "h": rng.standard_cauchy(n),
        "k": rng.integers(0, 5, n).astype(float),
        "const": np.full(n, 2.0),
        "twin": a.copy(),
    }


def infer(columns, **kwargs):
    return infer_schema(list(columns), np.stack(list(columns.values()), axis=1), **kwargs)


def test_schema_finds_what_spoils_a_density():
    schema = infer(table(), bounded={"b": (0, 1)}, positive=["p"])
    kinds = ["numeric", "bounded", "positive", "heavy", "numeric", "constant", "numeric"]
    assert [c.kind for c in schema.columns] == kinds
    text = "\n".join(schema.notes)
    assert "'const' is constant (2)" in text
    assert "'k' takes 5 different integer values in 400 rows" in text
    assert "heavy tails or outliers in 'h'" in text
    assert "(a, twin) are identical; density is singular" in text
    assert len(schema.notes) == 4


def test_clean_table_has_no_notes():
    values = np.random.default_rng(3).normal(size=(500, 3))
    assert infer_schema(["a", "b", "c"], values).notes == ()


def test_collinear_and_point_mass_notes():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 500))
    assert "(a, b, s) are collinear (rank 2 of 3)" in infer({"a": a, "b": b, "s": a + b}).notes[0]
    assert "(a, m) are linear functions" in infer({"a": a, "m": 3 - 2 * a}).notes[0]
    assert "'r' is 0 in 50% of the rows" in infer({"a": a, "r": np.where(np.arange(500) % 2, np.abs(b), 0)}).notes[0]
    edge = np.where(np.arange(500) % 10, rng.random(500), 1.0)
    assert "exactly on a bound in 10.0%" in infer({"a": a, "e": edge}, bounded={"e": (0, 1)}).notes[0]


def test_discrete_given_columns_are_fine():
    columns = {k: v for k, v in table().items() if k in ("a", "k")}
    assert infer(columns, given=["k"]).notes == ()
    assert infer(columns, dequantize=["k"]).notes == ()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"given": ["z"]}, DataError, "no column"),
        ({"given": "a"}, ConfigError, "list of column names"),
        ({"bounded": {"b": (0, 0.5)}}, DomainError, "column 'b' is"),
        ({"bounded": {"b": (1, 0)}}, ConfigError, "low < high"),
        ({"bounded": {"b": 1}}, ConfigError, "a pair"),
        ({"positive": ["a"]}, DomainError, "declared range (0, inf)"),
        ({"positive": ["p"], "heavy": ["p"]}, ConfigError, "both positive and heavy"),
        ({"constant": "raise"}, DataError, "column 'const' is constant"),
        ({"dequantize": {"k": -1.0}}, ConfigError, "step"),
    ],
)
def test_contradictory_declarations(kwargs, error, words):
    with pytest.raises(error) as info:
        infer(table(), **kwargs)
    assert words in str(info.value)


def test_nan_is_named_by_row_and_column():
    columns = table()
    columns["b"][7] = np.nan
    with pytest.raises(NonFiniteError) as info:
        infer(columns)
    for words in ("Input X contains NaN.", "1 of 400 rows", "row 7, column 'b' = nan", "missing='drop'"):
        assert words in str(info.value)


def test_schema_round_trip_and_refusals(tmp_path):
    schema = infer(table(), bounded={"b": (0, 1)}, positive=["p"], given=["a"], dequantize=["k"])
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    stored = json.loads((tmp_path / "schema.json").read_text())
    for change, words in (
        ({"version": 2}, "upgrade"),
        ({"rows": "many"}, "rows"),
        ({"extra": 1}, "extra"),
        ({"columns": [{"name": "a", "scale": -1.0}]}, "positive"),
        ({"columns": [{"name": "a", "kind": "bounded", "low": 0.0}]}, "has no high"),
    ):
        (tmp_path / "bad.json").write_text(json.dumps({**stored, **change}))
        with pytest.raises(CheckpointError, match=words):
            Schema.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(CheckpointError, match="not a JSON"):
        Schema.load(tmp_path / "bad.json")
    with pytest.raises(CheckpointError, match="run folder"):
        Schema.load(tmp_path / "none.json")


def test_columns_are_matched_by_name():
    schema = infer({k: v for k, v in table().items() if k in ("a", "b", "const")}, given=["b"])
    frame = pd.DataFrame({"extra": ["x", "y"], "b": [0.1, 0.2], "const": [2.0, 3.0], "a": [5.0, 6.0]})
    rows = schema.encode(frame)
    assert rows.x.tolist() == [[5.0], [6.0]]
    assert rows.c.tolist() == [[0.1], [0.2]]
    assert rows.known.tolist() == [0.0, -np.inf]
    assert schema.encode(frame[["a", "b", "const"]].to_numpy()).x.tolist() == rows.x.tolist()
    with pytest.raises(DataError, match="no column 'const'"):
        schema.encode(frame.drop(columns="const"))
    with pytest.raises(DataError, match="the array has 2 columns, expected 3"):
        schema.encode(np.zeros((2, 2)))


# -- preprocessing -----------------------------------------------------------------------------------------------------

COLUMNS = [
    Column(name="a", loc=3.0, scale=2.0),
    Column(name="b", kind="bounded", low=-1.0, high=3.0, centre=-1.0, spread=4.0, loc=0.3, scale=1.5),
    Column(name="p", kind="positive", low=10.0, centre=10.0, loc=0.1, scale=0.7),
    Column(name="h", kind="heavy", centre=1.0, spread=0.5, loc=0.2, scale=3.0),
]


def test_preprocess_against_autodiff():
    prep = preprocess(COLUMNS)
    x = torch.tensor([[4.0, 2.0, 11.0, -50.0], [0.0, -0.99, 10.001, 1e6]], dtype=torch.float64)
    z, ladj = prep(x)
    assert z.dtype == torch.float64
    for row in range(2):
        jacobian = torch.func.jacrev(lambda v: prep(v)[0])(x[row])
        assert torch.allclose(ladj[row], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-12)
    back, inverse_ladj = prep.inverse(z)
    assert torch.allclose(back, x, rtol=1e-9)
    assert torch.allclose(inverse_ladj, -ladj, atol=1e-7)


def test_standardised_columns_have_unit_moments():
    columns = table(5000)
    schema = infer({k: columns[k] for k in "abph"}, bounded={"b": (0, 1)}, positive=["p"])
    z, _ = preprocess(schema.targets)(torch.from_numpy(np.stack([columns[k] for k in "abph"], axis=1)))
    assert torch.allclose(z.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(z.std(0, correction=0), torch.ones(4, dtype=torch.float64), atol=1e-9)
    assert z.abs().max() < 12  # Cauchy outliers too


def test_large_offsets_keep_their_digits():
    x = 1.7e9 + 1e3 * np.random.default_rng(0).normal(size=2000)
    column = infer({"t": x}).columns[0]
    z = preprocess([column])(torch.from_numpy(x)[:, None])[0].float()[:, 0].double()
    exact = (x.astype(np.longdouble) - x.astype(np.longdouble).mean()) / x.astype(np.longdouble).std()
    assert np.abs(z.numpy() - exact.astype(float)).max() < 1e-6
    assert np.unique(z.numpy()).size == np.unique(x).size


def test_unresolvable_column_is_refused():
    with pytest.raises(DataError, match="cannot resolve"):
        infer({"t": 1e18 + 128.0 * np.array([0, 1] * 10)})


def test_weights_count_as_repetitions():
    x, w = RNG.normal(size=50) ** 3, RNG.integers(1, 4, 50).astype(float)
    weighted = infer({"a": x}, weight=w).columns[0]
    repeated = infer({"a": x.repeat(w.astype(int))}).columns[0]
    assert weighted.loc == pytest.approx(repeated.loc, rel=1e-12)
    assert weighted.scale == pytest.approx(repeated.scale, rel=1e-12)
    for q in (0.1, 0.25, 0.5, 0.9):
        assert weighted_quantile(x, q, w) == weighted_quantile(x.repeat(w.astype(int)), q)
    assert weighted_quantile(np.arange(10.0), 0.5) == np.median(np.arange(10.0))


# -- split -------------------------------------------------------------------------------------------------------------


def test_split_keeps_equal_rows_together_whatever_order_or_units():
    x = np.random.default_rng(0).normal(size=(200, 3))
    x = np.concatenate([x, x[:50]])
    part = split_rows(x, seed=3)
    sizes = [len(np.unique(x[rows], axis=0)) for rows in (part.train, part.validation, part.test)]
    assert sizes == [160, 20, 20]
    sets = [{row.tobytes() for row in x[rows]} for rows in (part.train, part.validation, part.test)]
    assert sum(map(len, sets)) == len(set().union(*sets)), "a row is in two parts"
    order = np.random.default_rng(1).permutation(len(x))
    moved = split_rows(x[order] * [2.0, 1e-3, 5.0] + 7.0, seed=3)
    assert sorted(order[moved.test]) == part.test.tolist()
    assert split_rows(x, seed=4).test.tolist() != part.test.tolist()


def test_split_of_few_rows_holds_less_out():
    x = np.random.default_rng(0).normal(size=(60, 2))
    assert isinstance(split_rows(x), Split)
    assert [len(p) for p in vars(split_rows(x)).values()] == [48, 6, 6]
    assert [len(p) for p in vars(split_rows(x[:40])).values()] == [36, 4, 0]
    assert [len(p) for p in vars(split_rows(x[:5])).values()] == [5, 0, 0]
