"""What the bootstrap refuses, in one line each; that it works is shown by every run of ``make``."""

import json
import sys

import pytest

from scripts_loader import load_script


@pytest.fixture
def bootstrap(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("BIJECTORY_CUDA", raising=False)
    return load_script("bootstrap")


def offer(*needs):
    metadata = {"version": "2.13.0", "requires_dist": ["filelock", *needs]}
    return lambda *args: json.dumps({"install": [{"metadata": metadata}]})


def test_a_cuda_build_is_not_fetched_by_accident(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "pip", offer('nvidia-cudnn-cu12==9.10; platform_system == "Linux"'))
    with pytest.raises(bootstrap.SetupError, match="CUDA build"):
        bootstrap.refuse_cuda()
    monkeypatch.setenv("BIJECTORY_CUDA", "1")
    bootstrap.refuse_cuda()


def test_a_cpu_build_is_accepted(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "pip", offer("sympy>=1.13"))
    bootstrap.refuse_cuda()


def test_an_old_python_is_refused(bootstrap, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.9\.2 is too old"):
        bootstrap.main()


def test_an_unreachable_index_is_named_as_such(bootstrap, monkeypatch, tmp_path):
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho 'ConnectTimeoutError: NewConnectionError' >&2\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(bootstrap, "PYTHON", pip)
    with pytest.raises(bootstrap.SetupError, match="no package index can be reached"):
        bootstrap.pip("install", "torch")


def test_pins_follow_the_torch_that_is_shared(bootstrap, monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap, "PINS", tmp_path / "constraints.txt")
    bootstrap.pin(("2.9.1+cpu", "anywhere"))
    assert "torch==2.9.1+cpu" in bootstrap.PINS.read_text()
    assert "torch==2.13.0" not in bootstrap.PINS.read_text().splitlines()
    bootstrap.pin(None)
    assert "torch==2.13.0" in bootstrap.PINS.read_text().splitlines()
