"""The blocks of docs/borders.md run, each in an interpreter of its own, where its libraries are installed."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "borders.md").read_text(), re.S)


def libraries(block):
    nodes = list(ast.walk(ast.parse(block)))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
    return {n.partition(".")[0] for n in names} | ({"xarray", "h5netcdf"} if "save_netcdf" in block else set())


def test_there_are_blocks():
    assert {"dynesty", "emcee", "pyro", "sbi", "arviz"} <= set.union(*map(libraries, BLOCKS))


@pytest.mark.slow  # 60 s on one thread, half of them for imports
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number, tmp_path):
    missing = [n for n in libraries(BLOCKS[number]) if importlib.util.find_spec(n) is None]
    if missing:
        pytest.skip(f"{missing} are not installed")
    path = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", path + BLOCKS[number]], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
