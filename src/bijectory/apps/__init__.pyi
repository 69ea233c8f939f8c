from .anomaly import (
    Detector as Detector,
)
from .anomaly import (
    Explanation as Explanation,
)
from .anomaly import (
    benjamini_hochberg as benjamini_hochberg,
)
from .anomaly import (
    code_length as code_length,
)
from .anomaly import (
    conformal_p_values as conformal_p_values,
)
from .anomaly import (
    perturb_pixels as perturb_pixels,
)
from .anomaly import (
    perturb_rows as perturb_rows,
)
from .calibration import Calibration as Calibration
from .calibration import calibration_of as calibration_of
from .calibration import crps_of_draws as crps_of_draws
from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .distillation import Distillation as Distillation
from .distillation import distill as distill
from .distillation import distill_table as distill_table
from .estimator import FlowDensity as FlowDensity
from .estimator import FlowOutlier as FlowOutlier
from .images import (
    ImageFit as ImageFit,
)
from .images import (
    ImageFlow as ImageFlow,
)
from .images import (
    Images as Images,
)
from .images import (
    ImageSchema as ImageSchema,
)
from .images import (
    fit_images as fit_images,
)
from .images import (
    image_config as image_config,
)
from .images import (
    load_images as load_images,
)
from .images import (
    read_images as read_images,
)
from .importance import (
    Estimate as Estimate,
)
from .importance import (
    ImportanceWarning as ImportanceWarning,
)
from .importance import (
    ImportanceWeights as ImportanceWeights,
)
from .importance import (
    pareto_fit as pareto_fit,
)
from .importance import (
    psis as psis,
)
from .kind import run_kind as run_kind
from .latents import (
    RoundTrip as RoundTrip,
)
from .latents import (
    counterfactual as counterfactual,
)
from .latents import (
    interpolate as interpolate,
)
from .latents import (
    latent_path as latent_path,
)
from .latents import (
    mean_direction as mean_direction,
)
from .latents import (
    round_trip as round_trip,
)
from .latents import (
    shift as shift,
)
from .model_evidence import (
    Evidence as Evidence,
)
from .model_evidence import (
    EvidenceEstimate as EvidenceEstimate,
)
from .model_evidence import (
    EvidenceStudy as EvidenceStudy,
)
from .model_evidence import (
    EvidenceWarning as EvidenceWarning,
)
from .model_evidence import (
    ModelComparison as ModelComparison,
)
from .model_evidence import (
    annealed_evidence as annealed_evidence,
)
from .model_evidence import (
    bridge_evidence as bridge_evidence,
)
from .model_evidence import (
    compare_models as compare_models,
)
from .model_evidence import (
    evidence as evidence,
)
from .model_evidence import (
    harmonic_evidence as harmonic_evidence,
)
from .model_evidence import (
    importance_evidence as importance_evidence,
)
from .model_evidence import (
    study_evidence as study_evidence,
)
from .model_evidence import (
    write_evidence as write_evidence,
)
from .posterior import (
    CalibrationTest as CalibrationTest,
)
from .posterior import (
    CredibleRegion as CredibleRegion,
)
from .posterior import (
    LocalTest as LocalTest,
)
from .posterior import (
    NeuralPosterior as NeuralPosterior,
)
from .posterior import (
    PosteriorFit as PosteriorFit,
)
from .posterior import (
    Prior as Prior,
)
from .posterior import (
    SampledPosterior as SampledPosterior,
)
from .posterior import (
    Simulations as Simulations,
)
from .posterior import (
    Study as Study,
)
from .posterior import (
    box_uniform as box_uniform,
)
from .posterior import (
    coverage as coverage,
)
from .posterior import (
    fit_nle as fit_nle,
)
from .posterior import (
    fit_npe as fit_npe,
)
from .posterior import (
    fit_nre as fit_nre,
)
from .posterior import (
    fit_sequentially as fit_sequentially,
)
from .posterior import (
    load_simulations as load_simulations,
)
from .posterior import (
    local_c2st as local_c2st,
)
from .posterior import (
    pad_sets as pad_sets,
)
from .posterior import (
    posterior_config as posterior_config,
)
from .posterior import (
    predictive_p as predictive_p,
)
from .posterior import (
    rank as rank,
)
from .posterior import (
    recalibrate as recalibrate,
)
from .posterior import (
    save_simulations as save_simulations,
)
from .posterior import (
    sbc as sbc,
)
from .posterior import (
    simulate as simulate,
)
from .posterior import (
    study as study,
)
from .posterior import (
    tarp as tarp,
)
from .posterior import (
    uniformity as uniformity,
)
from .predictive import Predictive as Predictive
from .query import Marginal as Marginal
from .query import Query as Query
from .query import conditional as conditional
from .ratio import (
    DensityRatio as DensityRatio,
)
from .ratio import (
    FlowRatio as FlowRatio,
)
from .ratio import (
    RatioWeights as RatioWeights,
)
from .ratio import (
    TableDifference as TableDifference,
)
from .ratio import (
    calibrate_ratio as calibrate_ratio,
)
from .ratio import (
    check_ratio as check_ratio,
)
from .ratio import (
    compare_tables as compare_tables,
)
from .ratio import (
    fit_ratio as fit_ratio,
)
from .ratio import (
    ratio_weights as ratio_weights,
)
from .ratio import (
    two_sample_test as two_sample_test,
)
from .regression import ConditionalFlow as ConditionalFlow
from .scoring import FileScores as FileScores
from .scoring import score_file as score_file
from .solvers import (
    SolverCheck as SolverCheck,
)
from .solvers import (
    check_solver as check_solver,
)
from .solvers import (
    solved_layers as solved_layers,
)
from .solvers import (
    tune_solver as tune_solver,
)
from .solvers import (
    with_solver as with_solver,
)
from .table_flow import TableFlow as TableFlow
from .tabular import TableFit as TableFit
from .tabular import fit_table as fit_table
from .tabular import load_rows as load_rows
from .tabular import table_config as table_config
from .tuned_run import tune_run as tune_run
from .vae import (
    VAE as VAE,
)
from .vae import (
    ActiveUnits as ActiveUnits,
)
from .vae import (
    BernoulliPixels as BernoulliPixels,
)
from .vae import (
    CategoricalLevels as CategoricalLevels,
)
from .vae import (
    Elbo as Elbo,
)
from .vae import (
    ElboHistory as ElboHistory,
)
from .vae import (
    GaussianValues as GaussianValues,
)
from .vae import (
    Likelihood as Likelihood,
)
from .vae import (
    LogisticLevels as LogisticLevels,
)
from .vae import (
    LogLikelihood as LogLikelihood,
)
from .vae import (
    VaeFit as VaeFit,
)
from .vae import (
    VaeModel as VaeModel,
)
from .vae import (
    VaeSchema as VaeSchema,
)
from .vae import (
    amortized_posterior as amortized_posterior,
)
from .vae import (
    build_vae as build_vae,
)
from .vae import (
    fit_vae as fit_vae,
)
from .vae import (
    load_parts as load_parts,
)
from .vae import (
    vae_config as vae_config,
)
from .variational import (
    Chains as Chains,
)
from .variational import (
    Diagnostics as Diagnostics,
)
from .variational import (
    Joint as Joint,
)
from .variational import (
    Mode as Mode,
)
from .variational import (
    Parameter as Parameter,
)
from .variational import (
    Parameters as Parameters,
)
from .variational import (
    VariationalPosterior as VariationalPosterior,
)
from .variational import (
    ess as ess,
)
from .variational import (
    fit_posterior as fit_posterior,
)
from .variational import (
    infer as infer,
)
from .variational import (
    read_model as read_model,
)
from .variational import (
    rhat as rhat,
)
from .variational import (
    variational_config as variational_config,
)
from .variational import (
    write_run as write_run,
)
