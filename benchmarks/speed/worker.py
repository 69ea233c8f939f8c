"""One contestant in its own process: reads commands as JSON lines, answers as JSON lines.

``setup`` builds a model and an operation, ``time`` runs it and answers with the CPU seconds of one call, ``memory`` with the
peak of resident memory over the calls. One thread each: dispatch, kernels and allocation are compared, not schedulers.
"""

import argparse
import gc
import importlib
import json
import os
import resource
import sys
import time
import warnings

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
                run()
                answer(parameters=model.parameters, error=error)
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
                answer(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        except LookupError as missing:
            answer(missing=str(missing))
        except Exception as failure:
            answer(failed=f"{type(failure).__name__}: {failure}"[:300])


if __name__ == "__main__":
    main()
