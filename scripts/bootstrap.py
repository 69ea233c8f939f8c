"""Make ``.venv`` ready for work: a virtual environment with torch, the project (editable) and its development tools.

Standard library only. Run it as often as you like: a stamp over everything the environment depends on makes the second
run a matter of milliseconds. Torch is taken from the Python that runs this file when that one has a new enough torch,
else the pinned CPU build is installed; a CUDA build (gigabytes) is never fetched unless ``BIJECTORY_CUDA=1`` asks for it.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "bijectory-stamp"
PINS = VENV / "constraints.txt"  # constraints.txt with the torch that is really used
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)
OFFLINE = re.compile(
    r"NewConnectionError|ConnectTimeout|ConnectionError|name resolution|getaddrinfo|unreachable|ProxyError", re.I
)


class SetupError(Exception):
    """A reason to stop, told to the user in one line."""


def main():
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(f"Python {found} is too old, 3.11 or newer is needed; name one: make setup PYTHON=python3.12")
    digest = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == digest and PYTHON.exists():
        return
    torch = installed_torch()
    create_venv()
    share(torch)
    pin(torch)
    if torch is None and venv_torch() is None:
        say("installing torch (CPU build)")
        refuse_cuda()
        pip("install", "torch")
    say("installing bijectory and its development tools")
    pip("install", "--editable", f"{ROOT}[dev]")
    STAMP.write_text(digest)
    say(f"ready: {PYTHON.relative_to(ROOT)}")


def fingerprint():
    """Digest of everything that decides what the environment contains."""
    h = hashlib.sha256(f"{ROOT}\n{os.path.realpath(sys.executable)}\n{sys.version}".encode())
    for path in (ROOT / "pyproject.toml", ROOT / "constraints.txt", pathlib.Path(__file__)):
        h.update(path.read_bytes())
    return h.hexdigest()


def installed_torch():
    """``(version, site-packages folder)`` of the running Python's torch if it is new enough, else None."""
    if importlib.util.find_spec("torch") is None:
        return None
    probe = "import torch, pathlib; print(torch.__version__); print(pathlib.Path(torch.__file__).parents[1])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    if done.returncode:
        return None
    version, folder = done.stdout.splitlines()[-2:]
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < OLDEST_TORCH or VENV in pathlib.Path(folder).parents:
        return None
    return version, folder


def venv_torch():
    """Version of the torch that the environment already has, None if there is none."""
    probe = "import importlib.metadata as m; print(m.version('torch'))"
    done = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True)
    return done.stdout.strip() or None


def create_venv():
    if PYTHON.exists() and not subprocess.run([str(PYTHON), "-m", "pip", "--version"], capture_output=True).returncode:
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python has no venv module; install it (Debian, Ubuntu: apt install python3-venv) and try again"
        )
    say(f"creating .venv with Python {sys.version.split()[0]}")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"cannot create {VENV}: {last_line(done.stdout + done.stderr)}")


def share(torch):
    """Let the environment see the packages that came with an installed torch (after its own)."""
    done = subprocess.run(
        [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    link = pathlib.Path(done.stdout.strip()) / "bijectory_shared.pth"
    if torch is None:
        link.unlink(missing_ok=True)
        return
    version, folder = torch
    say(f"using the installed torch {version}")
    link.write_text(folder + "\n")


def pin(torch):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    if torch is not None:
        lines = [line for line in lines if not line.startswith("torch==")] + [f"torch=={torch[0]}"]
    PINS.write_text("\n".join(lines) + "\n")


def refuse_cuda():
    """Look at the torch that pip would choose, and stop if it is a CUDA build."""
    if os.environ.get("BIJECTORY_CUDA") == "1" or not sys.platform.startswith("linux"):
        return
    report = json.loads(pip("install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", "torch"))
    metadata = report["install"][0]["metadata"]
    needs = metadata.get("requires_dist", [])
    if any(re.match(r"(nvidia|cuda)", need) for need in needs):
        raise SetupError(
            f"pip would fetch the CUDA build of torch {metadata['version']} (gigabytes); make a CPU build visible to pip "
            "(PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS, see PyTorch's install page) or accept it with BIJECTORY_CUDA=1"
        )


def pip(command, *args):
    """Run pip in the environment under the constraints; its output, or a ``SetupError`` with the reason."""
    call = [str(PYTHON), "-m", "pip", command, "--quiet", "--retries", "2", "--constraint", str(PINS), *args]
    env = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONNOUSERSITE="1")
    done = subprocess.run(call, capture_output=True, text=True, env=env)
    if done.returncode:
        if OFFLINE.search(done.stderr):
            raise SetupError(
                "no package index can be reached; connect to the network (or set PIP_FIND_LINKS) and try again"
            )
        raise SetupError(f"pip failed: {last_line(done.stderr)}")
    return done.stdout


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1]


def say(text):
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"bootstrap: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
