"""The store of figures, and the table of the page that is written from it."""

import contextlib
import datetime
import json
import os
import platform
from pathlib import Path

import torch
from benchmarks.reliability import ROOT
from benchmarks.reliability.register import ROWS, Answer

PAGE, STORE = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
BEGIN, END = "<!-- measured by make reliability -->", "<!-- end -->"


def record(number: int, answer: Answer) -> None:
    """Keep the figure of a row with its date and machine, and write the page again."""
    figure, ok, remark = answer
    results = json.loads(STORE.read_text()) if STORE.exists() else {}
    results[str(number)] = {
        "figure": figure,
        "ok": None if ok is None else bool(ok),
        "remark": remark,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    results = {key: results[key] for key in sorted(results, key=int)}
    STORE.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write()


def write() -> None:
    """The page, from what is stored."""
    results = json.loads(STORE.read_text())
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(results)}\n{END}{rest.split(END)[1]}")


def machine() -> str:
    """Processor, cores, versions."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, torch {torch.__version__}"


def table(results: dict[str, dict]) -> str:
    """The table, the machines, and what falls short."""
    lines = ["| # | what | target | best peer | ours | | measured |", "|---|---|---|---|---|---|---|"]
    short = []
    for number, row in sorted(ROWS.items()):
        found = results.get(str(number))
        if found is None:
            lines.append(cells(number, row.what, row.target, row.peer, "not measured yet", "–", ""))
            short.append(f"- **{number}, {row.what}**: not measured yet.")
            continue
        mark = {True: "met", False: "**short**", None: "–"}[found["ok"]]
        lines.append(cells(number, row.what, row.target, row.peer, found["figure"], mark, found["date"]))
        if not found["ok"]:
            short.append(f"- **{number}, {row.what}**: {found['figure']}. {found['remark']}".rstrip() + ".")
    remarks = [f"{n}: {r['remark']}" for n, r in results.items() if r["ok"] and r["remark"]]
    text = "\n".join(lines) + "\n\n" + machines(results) + "\n"
    text += "\n## Where we fall short\n\n" + ("\n".join(short) or "Nowhere in this table.") + "\n"
    return text + "\nRemarks by row: " + ("; ".join(remarks) or "none") + ".\n"


def machines(results: dict[str, dict]) -> str:
    """Where each row was measured; the commonest machine needs no list of rows."""
    where: dict[str, list[str]] = {}
    for number, found in results.items():
        where.setdefault(found["machine"], []).append(number)
    first, *others = sorted(where, key=lambda name: -len(where[name]))
    told = [f"Machine: {first}", *(f"Rows {', '.join(where[name])}: {name}" for name in others)]
    return ". ".join(told) + "."


def cells(*values: object) -> str:
    """A line of the table."""
    return "| " + " | ".join(str(v).replace("|", "\\|") for v in values) + " |"
