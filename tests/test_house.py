"""The house rules that no linter knows: arrow of imports, public surface, file length, purity of import, documents."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import bijectory as bj
from laws import cases
from scripts_loader import load_script

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "bijectory"
SOURCES = sorted(PACKAGE.rglob("*.py"))
RANK = {  # the arrow of the design: a room imports rooms of smaller rank, and itself
    "errors": 0,
    "ops": 1,
    "bijections": 2,
    "nets": 2,
    "transforms": 3,
    "densities": 4,
    "recipes": 5,
    "spec": 5,
    "spec_torch": 5,
    "objectives": 6,
    "io": 6,
    "storage": 6,
    "testing": 6,
    "training": 7,
    "tables": 7,
    "apps": 8,
    "interop": 9,
    "report": 9,
    "serve": 9,
    "cli": 10,
    "__main__": 11,
}
HEAVY = ("pandas", "matplotlib", "typer", "sklearn", "scipy", "jinja2", "pyarrow")


docs = load_script("docs")


def relative(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(tree):
    """Rooms of the package that a module imports, anywhere in it; the package itself counts as ``bijectory``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [node.module]
            if node.module == "bijectory":
                modules = [f"bijectory.{a.name}" if a.name in RANK else "bijectory" for a in node.names]
        else:
            continue
        for module in modules:
            parts = module.split(".")
            if parts[0] == "bijectory":
                yield parts[1] if len(parts) > 1 else "bijectory"


def violations(room, source):
    for other in imported_rooms(ast.parse(source)):
        if other == "bijectory":
            if RANK[room] < RANK["apps"]:
                yield f"{room} imports the public surface"
        elif other != room and RANK[other] >= RANK[room]:
            yield f"{room} imports {other}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p != PACKAGE / "__init__.py"], ids=relative)
def test_imports_follow_the_arrow(path):
    assert list(violations(room_of(path), path.read_text())) == []


def test_the_arrow_test_sees_a_violation():
    assert list(violations("ops", "def f():\n    from bijectory.densities import Flow")) == ["ops imports densities"]
    assert list(violations("nets", "import bijectory.bijections.affine")) == ["nets imports bijections"]
    assert list(violations("training", "import bijectory as bj")) == ["training imports the public surface"]
    assert list(violations("transforms", "from bijectory.ops import shape")) == []


@pytest.mark.parametrize("path", SOURCES + sorted((ROOT / "tests").rglob("*.py")), ids=relative)
def test_files_are_short(path):
    limit = 400 if path in SOURCES else 600  # catalogues of cases and names may be longer than code
    assert len(path.read_text().splitlines()) <= limit


def test_public_surface_is_written_by_hand_and_true():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    found = [(a.name, a.asname, n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    assert all(name == shown for name, shown, _ in found), (
        "only names that are imported `as` themselves are re-exported"
    )
    assert {name for name, _, module in found if module is None} == set(bj._ROOMS)
    lines = {name: f"bijectory.{module}" for name, _, module in found if module is not None}
    assert sorted(lines) == sorted(bj.__all__)
    for name, module in lines.items():
        assert name in importlib.import_module(module).__all__, f"{module} does not re-export {name}"
        assert getattr(bj, name) is getattr(importlib.import_module(module), name), f"two rooms export {name}"


def test_rooms_are_reachable_from_the_package():
    assert {room_of(p) for p in SOURCES} - {"__init__", "__main__", "cli"} <= set(bj._ROOMS)


PUBLIC = [  # name, value of every public function and class of every room
    pytest.param(name, getattr(module, name), id=f"{module.__name__}.{name}")
    for module in docs.rooms()
    for name in docs.public_names(module)
    if callable(getattr(module, name)) and not inspect.isabstract(getattr(module, name))
]


@pytest.mark.parametrize(("name", "value"), PUBLIC)
def test_public_names_are_documented(name, value):
    assert value.__doc__, "a docstring whose first line says what it is"
    if name in bj.__all__:
        assert ">>>" in inspect.getdoc(value), "an example in the docstring"


@pytest.fixture(scope="session")
def words_of_tests():
    here = pathlib.Path(__file__)
    texts = (p.read_text() for p in (ROOT / "tests").rglob("*.py") if p != here)
    return set(re.findall(r"\w+", "\n".join(texts)))


@pytest.mark.parametrize(("name", "value"), PUBLIC)
def test_public_names_are_tested(name, value, words_of_tests):
    assert name in words_of_tests or ">>>" in (inspect.getdoc(value) or ""), "no test names it and it has no doctest"


LAWFUL = {bj.Bijection: cases.BIJECTIONS, bj.Transform: cases.TRANSFORMS, bj.Density: cases.DENSITIES}


@pytest.mark.parametrize("name", [*bj.__all__, *sorted(docs.RECIPES)])
def test_layers_densities_and_recipes_have_a_law_case(name):
    value = getattr(bj, name)
    if name in docs.RECIPES:
        found = cases.RECIPES
    elif isinstance(value, type) and not inspect.isabstract(value):
        found = next((c for base, c in LAWFUL.items() if issubclass(value, base)), None)
    else:
        found = None
    if found is not None and name != "Flow":  # the recipes are the cases of Flow
        assert name in {c.name.split("-")[0] for c in found}
    if isinstance(value, type) and issubclass(value, bj.Bijection) and value is not bj.Bijection:
        assert dataclasses.is_dataclass(value)
        assert value.__dataclass_params__.frozen


def test_generated_documents_are_current():
    for path, text in docs.generated().items():
        assert path.read_text() == text, f"{path.name}: run `make docs`"


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == bj.__version__
    assert f"version: {bj.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_files_name_no_machine_and_no_package_index():
    secret = re.compile(
        r"(?<![\w.}])/(work|tmp|root|home)/|\b(pypi\.org|pythonhosted|download\.pytorch|anaconda\.org)", re.I
    )
    tops = ("src", "tests", "scripts", "docs", "benchmarks", "examples", ".ci")
    files = [p for top in tops for p in (ROOT / top).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix != ".lock"]
    for path in files:
        kind = path.suffix in {".py", ".md", ".toml", ".txt", ".cff"} or path.name in {"Makefile", "run"}
        if kind and path != pathlib.Path(__file__):
            found = secret.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} contains {found.group()!r}"


# -- purity of import, each in its own interpreter ---------------------------------------------------------------------

STATE = """
import sys, torch
def state():
    from torch.distributions import Distribution
    return (torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.is_anomaly_enabled(), Distribution._validate_args, torch.get_rng_state().sum().item(),
            torch.backends.mkldnn.enabled, torch.distributions.kl._KL_REGISTRY.__len__())
before, modules = state(), set(sys.modules)
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def light_names():
    return [
        n
        for n in bj.__all__
        if getattr(bj, n).__module__.split(".")[1] not in {"tables", "apps", "report", "interop", "serve"}
    ]


def test_import_alone_loads_nothing():
    out = run("import sys; import bijectory; print(*sys.modules)")
    assert not {"torch", "numpy", *HEAVY} & set(out)
    assert [m for m in out if m.startswith("bijectory")] == ["bijectory"]


def test_import_changes_nothing_and_loads_nothing_heavy():
    names = light_names()
    code = f"{STATE}\nimport bijectory\nfor n in {names}: getattr(bijectory, n)\nassert state() == before\n"
    out = run(code + "print(*set(sys.modules) - modules)")
    assert not set(HEAVY) & set(out)
    foreign = {m.split(".")[0] for m in out} - sys.stdlib_module_names - {"bijectory"}
    assert len(foreign) < 40, f"a budget on what an import costs, counted in packages: {sorted(foreign)}"
