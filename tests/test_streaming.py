"""Tables in parts: what streams equals what is read, scored, drawn and written whole, in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bijectory as bj
from bijectory.apps import FileScores, TableFlow, score_file
from bijectory.errors import ConfigError, DataError, DomainError, NonFiniteError
from bijectory.ops.native import compiler, native
from bijectory.tables import Column, Schema, read_parts, read_table, write_parts

ROWS = 23


def whole(rows=ROWS, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 3))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "n": np.arange(rows) % 5})


def model(given=False):
    columns = (Column(name="a"), Column(name="b", step=0.5, low=-10, high=10), Column(name="n", role="target"))
    if given:
        columns = (*columns[:2], Column(name="n", role="given"))
    flow = bj.nsf(2 if given else 3, context=int(given), layers=2, hidden=(16,))
    bj.testing.randomize(flow, seed=1, scale=0.3)
    return TableFlow(flow.double(), Schema(columns=columns, rows=100))


def files(folder):
    frame = whole()
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.csv.gz", index=False)
    frame.to_csv(folder / "index.csv")
    frame.to_csv(folder / "semicolon.csv", index=False, sep=";", decimal=",")
    frame.to_csv(folder / "bare.csv", index=False, header=False)
    frame.to_parquet(folder / "t.parquet", row_group_size=4)
    frame.set_index("n").to_parquet(folder / "index.parquet")
    np.save(folder / "t.npy", frame.to_numpy())
    np.save(folder / "f.npy", np.asfortranarray(frame.to_numpy(dtype=np.float32)))
    np.savez(folder / "t.npz", frame.to_numpy())
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore:.*counts the rows")
def test_parts_are_the_table(tmp_path):
    for path in files(tmp_path):
        parts = list(read_parts(path, rows=5))
        expected = read_table(path).reset_index(drop=True)
        number = {"t.npz": 1, "t.parquet": 6}.get(path.name, 5)  # a part of a Parquet file ends with its group of rows
        assert len(parts) == number, path.name
        assert [p.index[0] for p in parts] == np.cumsum([0, *map(len, parts)])[:-1].tolist()
        pd.testing.assert_frame_equal(pd.concat(parts), expected, check_index_type=False)
    assert len(list(read_parts(tmp_path / "t.npy", part_bytes=3 * 8 * 10))) == 3


def test_row_numbers_are_announced_once(tmp_path):
    whole().to_csv(tmp_path / "t.csv")
    with pytest.warns(bj.DataWarning, match="counts the rows") as seen:
        parts = list(read_parts(tmp_path / "t.csv", rows=5))
    assert len(seen) == 1
    assert [list(p.columns) for p in parts] == [["a", "b", "n"]] * 5


def test_parts_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        next(read_parts(tmp_path / "t.npy"))
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 10 + "1,2,3\n")
    with pytest.raises(DataError, match="not a regular table"):
        list(read_parts(tmp_path / "t.csv", rows=4))
    np.save(tmp_path / "t.npy", np.empty((0, 3)))
    with pytest.raises(DataError, match="no rows"):
        list(read_parts(tmp_path / "t.npy"))
    np.save(tmp_path / "v.npy", np.zeros(3))
    with pytest.raises(DataError, match="expected one array"):
        list(read_parts(tmp_path / "v.npy"))
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_parts(tmp_path / "t.parquet"))
    with pytest.raises(ConfigError, match="positive"):
        list(read_parts(tmp_path / "t.npy", rows=0))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_written_in_parts_is_written_whole(tmp_path, suffix):
    frame, out = whole(), tmp_path / f"out{suffix}"
    assert write_parts((frame.iloc[i : i + 5] for i in range(0, ROWS, 5)), out) == ROWS
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]
    pd.testing.assert_frame_equal(read_table(out), frame)


def test_a_column_may_become_floating(tmp_path):
    parts = [
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"a": [3]}),
        pd.DataFrame({"a": [0.5]}),
        pd.DataFrame({"a": [7]}),
    ]
    write_parts(parts, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["a"].tolist() == [1, 2, 3, 0.5, 7]
    with pytest.raises(DataError, match="another type"):
        write_parts([*parts[:1], pd.DataFrame({"a": ["x"]})], tmp_path / "u.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet"]


def test_an_error_leaves_the_old_file(tmp_path, capsys):
    out = tmp_path / "t.csv"
    out.write_text("old")

    def cut_short():
        yield whole()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_parts(cut_short(), out)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
    assert out.read_text() == "old"
    write_parts([whole(2), whole(1)], None)
    assert capsys.readouterr().out.count("\n") == 4


def test_scored_in_parts_is_scored_whole(tmp_path):
    flow, frame = model(), whole()
    expected = flow.score_samples(frame)
    for path in files(tmp_path):
        if path.suffix in (".npy", ".npz") or path.stem in ("bare", "index"):  # other columns
            continue
        found = score_file(flow, path, tmp_path / "scored.parquet", part_bytes=3 * 8 * 5)
        scored = read_table(tmp_path / "scored.parquet")
        np.testing.assert_allclose(scored["log_prob"], expected, rtol=1e-9)
        assert sorted(scored.columns) == ["a", "b", "log_prob", "n"]
        assert found.rows == ROWS
        assert found.lowest_row == expected.argmin()
        assert found.mean_log_prob == pytest.approx(expected.mean())
        assert found.bits_per_dimension == pytest.approx(-expected.mean() / 3 / np.log(2))
        (tmp_path / "scored.parquet").unlink()


def test_rows_without_an_answer_are_left_out_of_the_mean(tmp_path):
    flow, frame = model(), whole()
    frame.loc[[3, 11], "a"] = np.nan
    frame.loc[17, "b"] = 99.0  # outside its bounds
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(NonFiniteError, match="row 3,"):
        score_file(flow, tmp_path / "t.parquet", write=False)
    found = score_file(flow, tmp_path / "t.parquet", write=False, nonfinite="propagate", part_bytes=3 * 8 * 5)
    assert isinstance(found, FileScores)
    assert (found.lowest_row, found.mean_log_prob) == (17, -np.inf)
    frame.loc[[3, 11], "a"] = 0.0
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DomainError, match="in row 17 "):
        score_file(flow, tmp_path / "t.parquet", write=False, part_bytes=3 * 8 * 5)
    assert not np.isfinite(flow.score_samples(frame, nonfinite="propagate")).all()


def test_drawn_in_parts_is_drawn_whole(monkeypatch):
    monkeypatch.setattr("bijectory.apps.table_flow.CHUNK_BYTES", 1 << 13)  # chunks of a few rows
    flow = model()
    parts = list(flow.sample_parts(ROWS, seed=3, part_bytes=3 * 8 * 5))
    assert len(parts) > 2
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), flow.sample(ROWS, seed=3))
    flow, given = model(given=True), pd.DataFrame({"n": [1.0, 2.0, 4.0]})
    parts = list(flow.sample_parts(7, given=given, seed=3, part_bytes=3 * 8 * 5))
    expected = flow.sample(7, given=given, seed=3)
    assert expected["n"].tolist() == [1.0] * 7 + [2.0] * 7 + [4.0] * 7
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected.reset_index(drop=True))
    assert [len(p) for p in flow.sample_parts(0, given=given)] == [0]


@pytest.mark.parametrize("given", [False, True])
def test_many_rows_are_scored_and_drawn_in_kernels(monkeypatch, given):
    plain, want = model(given), whole(400)
    asked = {"given": pd.DataFrame({"n": [0, 3]})} if given else {}
    scores, draws = plain.score_samples(want), plain.sample(50, seed=0, **asked)
    work = 400 * sum(p.numel() for p in plain.flow.parameters())
    with monkeypatch.context() as patch:
        patch.setattr("bijectory.apps.table_flow.COMPILE_WORK", work + 1)
        assert plain._engine(400) is plain.flow
        patch.setattr("bijectory.apps.table_flow.COMPILE_WORK", work)
        patch.setattr("bijectory.ops.native.compiler", lambda: None)
        np.testing.assert_allclose(plain.score_samples(want), scores, rtol=1e-12)  # without a compiler, plainly
    monkeypatch.setattr("bijectory.apps.table_flow.COMPILE_WORK", 0)
    if compiler():
        assert any(m._kernels is native for m in plain._engine(1).modules() if isinstance(m, bj.Chain))
        assert not any(m._kernels is native for m in plain.flow.modules() if isinstance(m, bj.Chain))
    np.testing.assert_allclose(plain.score_samples(want), scores, rtol=1e-10)
    parts = plain.score_parts(want.iloc[k : k + 90] for k in range(0, 400, 90))
    np.testing.assert_allclose(pd.concat(parts)["log_prob"], scores, rtol=1e-10)
    pd.testing.assert_frame_equal(plain.sample(50, seed=0, **asked), draws, rtol=1e-9)


PROGRAM = """
import sys, numpy as np, bijectory as bj
from bijectory.apps import TableFlow, score_file
from bijectory.tables import Column, Schema, write_parts
from pathlib import Path
folder, rows = Path(sys.argv[1]), int(sys.argv[2])
columns = tuple(Column(name=f"x{k}") for k in range(6))
model = TableFlow(bj.real_nvp(6, layers=2, hidden=(8,)).double(), Schema(columns=columns, rows=100))
score_file(model, folder / "t.npy", folder / "s.parquet")
write_parts(model.sample_parts(rows, seed=0), folder / "d.parquet")
score_file(model, folder / "d.parquet", write=False)
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow  # 25 s of CPU
@pytest.mark.skipif(
    sys.platform != "linux", reason="ru_maxrss of a child starts with what its parent held; /proc does not"
)
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """3 million rows of 6 numbers are 144 MB in a frame, and several times that where they are copied."""
    peaks = []
    for rows in (200_000, 3_000_000):
        file = np.lib.format.open_memmap(tmp_path / "t.npy", mode="w+", dtype=np.float64, shape=(rows, 6))
        for i in range(0, rows, 100_000):
            file[i : i + 100_000] = np.random.default_rng(i).normal(size=(100_000, 6))
        file.flush()
        out = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), str(rows)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": str(Path(bj.__file__).parents[1])},
        )
        peaks.append(int(out.stdout) * 1024)
    assert peaks[1] < peaks[0] + 150e6, peaks
