"""What the notebooks show: tables, windows of latents, headline numbers, the paper's claims.

In: the stages of a run's sites. Out: pandas tables and HTML that render the same in JupyterLab, on
the repository's page and in an export. Computes no new results beyond statistics of the stages.
"""

from rewrite_utils.report.around import (
    best_factors,
    break_even,
    break_even_table,
    fewer_arms,
    oracle_arms,
    shrink_arms,
    smallest_visible,
    specificity_arms,
    specificity_line,
)
from rewrite_utils.report.at_once import layers_at_once
from rewrite_utils.report.calibrations import (
    ALTERNATIVES,
    before_and_after,
    choice,
    condition,
    condition_table,
    latent_losses,
    shown_ratings,
)
from rewrite_utils.report.checkpoints import checkpoints, equivalences
from rewrite_utils.report.claims import across, claims, report_headline, write
from rewrite_utils.report.coders import arms_shown, coder_table, coders_headline
from rewrite_utils.report.coders import committed as committed_coders
from rewrite_utils.report.coders import firing_rates as coder_firing_rates
from rewrite_utils.report.coders import shown as shown_coders
from rewrite_utils.report.headlines import (
    calibration_headline,
    coder_headline,
    explanation_headline,
    firing_headline,
    headline,
    headlines,
    rewrite_headline,
    score_headline,
    simulation_headline,
    specificity_headline,
)
from rewrite_utils.report.paper import (
    against_score,
    bars,
    figures,
    paper_cost,
    paper_fractions,
    score_tables,
    scored,
)
from rewrite_utils.report.show import (
    best_and_worst,
    frame,
    keep,
    latent_windows,
    one_prediction,
    predicted_windows,
    sentences,
    stacked,
    table,
)
from rewrite_utils.report.simulators import screening, simulator_study
from rewrite_utils.report.tables import (
    final_arms,
    llm_costs,
    panel_title,
    paper_statistics,
    power,
    rates,
    rates_by_source,
    rating_quality,
    sensitivity_specificity,
    stage_table,
    verdict_table,
    windows,
)
from rewrite_utils.report.useful import useful_latents

__all__ = [
    "ALTERNATIVES",
    "across",
    "against_score",
    "arms_shown",
    "bars",
    "before_and_after",
    "best_and_worst",
    "best_factors",
    "break_even",
    "break_even_table",
    "calibration_headline",
    "checkpoints",
    "choice",
    "claims",
    "coder_firing_rates",
    "coder_headline",
    "coder_table",
    "coders_headline",
    "committed_coders",
    "condition",
    "condition_table",
    "equivalences",
    "explanation_headline",
    "fewer_arms",
    "figures",
    "final_arms",
    "firing_headline",
    "frame",
    "headline",
    "headlines",
    "keep",
    "latent_losses",
    "latent_windows",
    "layers_at_once",
    "llm_costs",
    "one_prediction",
    "oracle_arms",
    "panel_title",
    "paper_cost",
    "paper_fractions",
    "paper_statistics",
    "power",
    "predicted_windows",
    "rates",
    "rates_by_source",
    "rating_quality",
    "report_headline",
    "rewrite_headline",
    "score_headline",
    "score_tables",
    "scored",
    "screening",
    "sensitivity_specificity",
    "sentences",
    "shown_coders",
    "shown_ratings",
    "shrink_arms",
    "simulation_headline",
    "simulator_study",
    "smallest_visible",
    "specificity_arms",
    "specificity_headline",
    "specificity_line",
    "stacked",
    "stage_table",
    "table",
    "useful_latents",
    "verdict_table",
    "windows",
    "write",
]
