"""What the report of an anomaly run says, as plain data."""

import numpy as np
from scipy import stats

from bijectory.apps.anomaly import Evaluation, Findings, false_alarm_rate
from bijectory.report.content import Light, Verdict

DRIFT = 0.5  # share of small p-values beyond chance from which most rows, not a few, are strange


def anomaly_verdicts(found: Findings, rated: Evaluation | None) -> list[Verdict]:
    """The strip of lights: each has a value and the rule beside it."""
    lights = [_flagged(found), _held_out(found), _shift(found)]
    if rated is not None:
        lights += [_separation(rated), _alarms(found, rated)]
    return lights


def _flagged(found: Findings) -> Verdict:
    known = int((~np.isnan(found.p_value)).sum())
    count = int(found.flagged.sum())
    if found.control == "discoveries":
        light: Light = "warn" if count else "good"
        return Verdict(
            light, "rows flagged", f"{count} of {known}", f"at most {found.fpr:g} of them false; good if none"
        )
    p = float(stats.binom.sf(count - 1, known, found.fpr)) if known else 1.0
    light = "good" if p > 0.01 else "warn"
    value = f"{count} of {known}, {found.fpr * known:.1f} expected by chance"
    return Verdict(light, "rows flagged", value, "good if no more than chance would flag (binomial p > 0.01)")


def _held_out(found: Findings) -> Verdict:
    caution = found.caution()
    n = len(found.held_out)
    if found.control == "discoveries":
        value = f"{n} held-out rows, smallest p-value {1 / (n + 1):.2g}"
        return Verdict(
            "warn" if caution else "good", "held-out rows suffice", value, "good if one anomaly can be found"
        )
    mean, low, high = false_alarm_rate(n, found.fpr)
    value = f"{n} rows: false alarms {mean:.3g} on average, {low:.2g} to {high:.2g} for this set"
    rule = "good if the upper end (90 %) is at most twice the rate"
    return Verdict("warn" if caution else "good", "held-out rows suffice", value, rule)


def _shift(found: Findings) -> Verdict:
    """Whether the table as a whole has moved: the distance of the new scores from those held out."""
    known = found.score[~np.isnan(found.score)]
    rule = "good if KS p > 0.01 or distance < 0.1; else the rows as a whole are not like those held out"
    if len(known) < 2:
        return Verdict("good", "the rest is ordinary", "too few rows to say", rule)
    # Infinite scores are ranked, as all others are: only the order counts.
    result = stats.ks_2samp(
        np.nan_to_num(known, posinf=1e300), np.nan_to_num(found.held_out, posinf=1e300), method="asymp"
    )
    distance, p = float(result.statistic), float(result.pvalue)
    light: Light = "good" if p > 0.01 or distance < 0.1 else "warn" if distance < DRIFT else "bad"
    return Verdict(light, "the rest is ordinary", f"distance {distance:.3f}, p = {p:.2g}", rule)


def _separation(rated: Evaluation) -> Verdict:
    light: Light = "good" if rated.auroc > 0.9 else "warn" if rated.auroc > 0.6 else "bad"
    value = f"AUROC {rated.auroc:.4f} ± {rated.auroc_error:.4f}, {rated.recall:.1%} found"
    return Verdict(light, "anomalies are told apart", value, "good if AUROC > 0.9, bad if at most 0.6")


def _alarms(found: Findings, rated: Evaluation) -> Verdict:
    ordinary = int((~rated.labels).sum())
    if found.control == "discoveries":
        value, allowed = rated.false_discoveries, found.fpr + 3 * np.sqrt(found.fpr / max(int(found.flagged.sum()), 1))
        text, rule = f"{value:.3f} of those flagged", f"good if at most {found.fpr:g} plus 3 s.e. ({allowed:.3f})"
    else:
        k, n = max(1, int(found.fpr * (len(found.held_out) + 1) + 1e-9)), len(found.held_out)
        allowed = float(stats.betabinom(ordinary, k, n + 1 - k).ppf(0.999)) / max(ordinary, 1)
        value, text = rated.false_alarms, f"{rated.false_alarms:.4f} of the ordinary rows"
        rule = f"good if at most {allowed:.4f}, what chance and so few held-out rows allow (99.9 %)"
    return Verdict("good" if value <= allowed else "bad", "false alarms as promised", text, rule)
