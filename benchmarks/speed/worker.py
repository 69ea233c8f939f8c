"""One contestant in its own process: reads commands as JSON lines, answers as JSON lines.

``setup`` builds a model and an operation and runs it once (its CPU seconds are what compiling costs, where there is any),
``time`` runs it and answers with the CPU seconds of one call, ``memory`` with the growth of resident memory during a call.
One thread each: dispatch, kernels and allocation are compared, not schedulers.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import re
import resource
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def cpu() -> float:
    """CPU seconds of this process and of the compilers that it ran."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def peak(run) -> int | None:
    """Bytes by which resident memory grows at most during a call, above what is held before; None where it is not told."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed and the allocator kept would hide the growth
        reset.write_text("5")  # the high-water mark starts again from what is held now
        held = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
        run()
        return max(0, int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) - held) * 1024
    except (OSError, AttributeError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True, help="module of benchmarks.speed.contestants, or module:variant")
    library, _, variant = parser.parse_args().library.partition(":")
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print; the protocol stays clean
    warnings.simplefilter("ignore")
    if library not in ("flowjax", "distrax"):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
    module = importlib.import_module(f"benchmarks.speed.contestants.{library}")
    models: dict = {}
    run = None

    def answer(**values) -> None:
        out.write(json.dumps(values) + "\n")
        out.flush()

    answer(ready=library)
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            if ask["do"] == "setup":
                key = (ask["family"], ask["features"])
                if key not in models:
                    models.clear()
                    model = module.build(*key, variant)
                    models[key] = (model, model.error(key[1]))
                model, error = models[key]
                run = model.operation(ask["operation"], ask["batch"], key[1])
                start = cpu()
                run()
                answer(parameters=model.parameters, error=error, first=cpu() - start)
            elif ask["do"] == "time":
                gc.collect()
                gc.disable()
                start = time.process_time()
                for _ in range(ask["repeats"]):
                    run()
                seconds = (time.process_time() - start) / ask["repeats"]
                gc.enable()
                answer(seconds=seconds)
            elif ask["do"] == "memory":
                gc.collect()
                answer(peak=peak(run))
        except LookupError as missing:
            answer(missing=str(missing))
        except Exception as failure:
            answer(failed=f"{type(failure).__name__}: {failure}"[:300])


if __name__ == "__main__":
    main()
