"""One self-contained HTML file that says whether a fitted density can be trusted, and shows why."""

from bijectory.report.anomaly_run import write_anomaly_report
from bijectory.report.content import Content, scores, verdicts
from bijectory.report.evidence_run import write_evidence_report
from bijectory.report.image_content import ImageContent
from bijectory.report.image_run import read_image_run
from bijectory.report.ratio_run import ratio_verdicts, write_ratio
from bijectory.report.run import read_run, write_report
from bijectory.report.sbi_run import write_sbi_report

__all__ = [
    "Content",
    "ImageContent",
    "ratio_verdicts",
    "read_image_run",
    "read_run",
    "scores",
    "verdicts",
    "write_anomaly_report",
    "write_evidence_report",
    "write_ratio",
    "write_report",
    "write_sbi_report",
]
