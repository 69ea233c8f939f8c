"""The tables of a run: ratios to Bijectory, and what changed since an earlier run."""

KEY = ("family", "features", "batch", "operation")


def table(run: dict, *, title: bool = True) -> str:
    """One line a cell: milliseconds of the first contestant, and the time of the others as a multiple of it.

    Beside a ratio stands the spread (interquartile range over median) where it is above a tenth. The last columns hold the
    parameters and the largest error against float64 of all contestants, and the growth of memory: the first, and the others.
    """
    cells: dict[tuple, dict] = {}
    for r in run["rows"]:
        cells.setdefault(tuple(r[k] for k in KEY), {})[r["library"]] = r
    first, *others = dict.fromkeys(r["library"] for r in run["rows"])
    out = []
    if title:
        facts = ", ".join(f"{k} {run[k]}" for k in ("machine", "cores", "python", "load") if k in run)
        out += [f"{run.get('date', '')}: {facts}", ""]
    out += [f"| cell | {first}, ms | {' | '.join(others)} | parameters | error | memory, MB: {first}; others |"]
    out += [f"|---|---|{'---|' * len(others)}---|---|---|"]
    for key, by in cells.items():
        own_row = by.get(first, {})
        ours = own_row.get("seconds")
        times = [_ratio(by.get(n, {}), ours) for n in others]
        family, features, batch, operation = key
        name = f"{family} d={features} B={batch} {operation}"
        own = "failed" if ours is None else f"{ours * 1e3:.3g}{_spread(own_row)}"
        rows = list(by.values())
        counts = _span([r["parameters"] for r in rows if "parameters" in r], "{:,}")
        errors = [r["error"] for r in rows if r.get("error") is not None and r["error"] == r["error"]]
        peaks = [r["peak"] / 1e6 for n, r in by.items() if n != first and r.get("peak") is not None]
        memory = "–" if own_row.get("peak") is None else f"{own_row['peak'] / 1e6:.1f}; {_span(peaks, '{:.1f}')}"
        worst = f"{max(errors):.0e}" if errors else "–"
        out.append(f"| {name} | {own} | {' | '.join(times)} | {counts} | {worst} | {memory} |")
    return "\n".join(out) + "\n"


def _ratio(row: dict, ours: float | None) -> str:
    if "seconds" in row:
        return f"{row['seconds'] / ours:.2f}{_spread(row)}" if ours else f"{row['seconds'] * 1e3:.3g} ms"
    return "failed" if "failed" in row else "slow" if "skipped" in row else "–"


def _spread(row: dict) -> str:
    return f" ±{row['spread'] * 50:.0f} %" if row.get("spread", 0) > 0.1 else ""


def _span(values: list, form: str) -> str:
    """One number where all agree, else the smallest and the largest."""
    if not values:
        return "–"
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def comparison(old: dict, new: dict) -> str:
    """Cells of Bijectory's variants whose time over that of a peer changed by more than the spreads, or more than 5 %.

    The peer cancels the machine: the one that both runs have in most cells.
    """
    index = [{(r["library"], *(r[k] for k in KEY)): r for r in run["rows"] if "seconds" in r} for run in (old, new)]
    common = index[0].keys() & index[1].keys()
    counts: dict[str, int] = {}
    for name, *_ in common:
        if not name.startswith("bijectory"):
            counts[name] = counts.get(name, 0) + 1
    peer = max(counts, key=counts.__getitem__, default=None)
    out = [f"new over old time, in units of {peer or 'seconds'} ({old.get('date')} to {new.get('date')}):"]
    for key in sorted(common):
        if not key[0].startswith("bijectory"):
            continue
        rows, noise = [i[key] for i in index], 0.05
        ratio = rows[1]["seconds"] / rows[0]["seconds"]
        noise = max(noise, *(r["spread"] for r in rows))
        other = (peer, *key[1:])
        if other in common:
            ratio *= index[0][other]["seconds"] / index[1][other]["seconds"]
            noise = max(noise, *(i[other]["spread"] for i in index))
        if abs(ratio - 1) > noise:
            out.append(f"{ratio:6.2f}  {' '.join(map(str, key))}")
    return "\n".join(out if len(out) > 1 else [*out, "nothing beyond the noise"])
