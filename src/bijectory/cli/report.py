"""``bijectory report``: the HTML report of a run."""

from bijectory.cli.words import Run


def report(run: Run) -> None:
    """Write report.html into a run folder and print its path."""
    from bijectory.report import write_report

    print(write_report(run))
