"""``bijectory compare`` as a user types it."""

import json

import pandas as pd

from cli.support import QUICK, banana
from cli.test_refusals import refused


def test_two_runs_and_one_verdict(cli, run_folder, conditional, table, tmp_path):
    other = tmp_path / "other"
    words = [w if w != "1" else "2" for w in QUICK]  # another seed: another split
    assert cli("fit", table, "--out", other, "--bounded", "c=0:1", "--json", "-q", *words).code == 0
    refused(cli("compare", run_folder, other, table), 3, "of 300 rows", "used to fit A", "--seen drop")
    (banana(80) + 0.001).assign(c=lambda t: t["c"].clip(0, 1)).to_csv(tmp_path / "new.csv", index=False)
    answer = cli("compare", run_folder, other, tmp_path / "new.csv")
    assert answer.code == 0, answer.err
    assert "A: " in answer.out
    assert "80 rows" in answer.out
    assert "preferred" in answer.out or "no difference" in answer.out
    found = json.loads(cli("compare", run_folder, other, tmp_path / "new.csv", "--json").out)
    assert found["rows"] == 80
    assert found["verdict"]
    refused(cli("compare", run_folder, conditional, tmp_path / "new.csv"), 3, "different columns")
    refused(cli("compare", run_folder, other, table, "--seen", "no"), 2, "'drop'")
    refused(cli("compare", run_folder, tmp_path, table), 4, "config.json")
    pd.DataFrame({"a": [1.0]}).to_csv(tmp_path / "short.csv", index=False)
    refused(cli("compare", run_folder, other, tmp_path / "short.csv"), 3, "'b'")
