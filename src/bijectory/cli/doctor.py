"""``bijectory doctor``: what is installed, and whether it works."""

import typer

from bijectory.cli.output import print_table, write_json
from bijectory.cli.words import Json


def doctor(*, json: Json = False) -> None:
    """Show versions, cores, compiler and extras, and run a self test of two seconds."""
    from bijectory.cli.diagnosis import facts, self_test

    found, tests = facts(), self_test()
    if json:
        write_json({"facts": found, "tests": [{"test": t.name, "ok": t.ok, "measured": t.measured} for t in tests]})
    else:
        print_table(["what", "found"], [[k, v] for k, v in found.items()])
        print()
        print_table(["", "self test", "measured"], [["ok" if t.ok else "FAILED", t.name, t.measured] for t in tests])
    if not all(t.ok for t in tests):
        raise typer.Exit(5)
