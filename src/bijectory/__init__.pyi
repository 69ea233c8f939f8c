from . import apps as apps
from . import bijections as bijections
from . import densities as densities
from . import errors as errors
from . import interop as interop
from . import io as io
from . import nets as nets
from . import objectives as objectives
from . import ops as ops
from . import recipes as recipes
from . import report as report
from . import spec as spec
from . import tables as tables
from . import testing as testing
from . import training as training
from . import transforms as transforms
from .apps import (
    VAE as VAE,
)
from .apps import (
    Comparison as Comparison,
)
from .apps import (
    ConditionalFlow as ConditionalFlow,
)
from .apps import (
    Detector as Detector,
)
from .apps import (
    Distillation as Distillation,
)
from .apps import (
    Evidence as Evidence,
)
from .apps import (
    FlowDensity as FlowDensity,
)
from .apps import (
    FlowOutlier as FlowOutlier,
)
from .apps import (
    ImageFit as ImageFit,
)
from .apps import (
    ImageFlow as ImageFlow,
)
from .apps import (
    ImportanceWeights as ImportanceWeights,
)
from .apps import (
    Joint as Joint,
)
from .apps import (
    NeuralPosterior as NeuralPosterior,
)
from .apps import (
    Parameter as Parameter,
)
from .apps import (
    Prior as Prior,
)
from .apps import (
    TableFit as TableFit,
)
from .apps import (
    TableFlow as TableFlow,
)
from .apps import (
    VaeModel as VaeModel,
)
from .apps import (
    VariationalPosterior as VariationalPosterior,
)
from .apps import (
    amortized_posterior as amortized_posterior,
)
from .apps import (
    compare as compare,
)
from .apps import (
    compare_models as compare_models,
)
from .apps import (
    distill as distill,
)
from .apps import (
    distill_table as distill_table,
)
from .apps import (
    evidence as evidence,
)
from .apps import (
    fit_images as fit_images,
)
from .apps import (
    fit_npe as fit_npe,
)
from .apps import (
    fit_posterior as fit_posterior,
)
from .apps import (
    fit_table as fit_table,
)
from .apps import (
    fit_vae as fit_vae,
)
from .apps import (
    psis as psis,
)
from .apps import (
    read_images as read_images,
)
from .apps import (
    recalibrate as recalibrate,
)
from .apps import (
    simulate as simulate,
)
from .apps import (
    variational_config as variational_config,
)
from .bijections import (
    Affine as Affine,
)
from .bijections import (
    Arcsinh as Arcsinh,
)
from .bijections import (
    Bernstein as Bernstein,
)
from .bijections import (
    Bijection as Bijection,
)
from .bijections import (
    CubicSpline as CubicSpline,
)
from .bijections import (
    Exp as Exp,
)
from .bijections import (
    Gaussianization as Gaussianization,
)
from .bijections import (
    Inverted as Inverted,
)
from .bijections import (
    LeakyReLU as LeakyReLU,
)
from .bijections import (
    LinearRational as LinearRational,
)
from .bijections import (
    LinearSpline as LinearSpline,
)
from .bijections import (
    Log as Log,
)
from .bijections import (
    Logit as Logit,
)
from .bijections import (
    MixtureCdf as MixtureCdf,
)
from .bijections import (
    Power as Power,
)
from .bijections import (
    PowerTails as PowerTails,
)
from .bijections import (
    QuadraticSpline as QuadraticSpline,
)
from .bijections import (
    RationalQuadratic as RationalQuadratic,
)
from .bijections import (
    Shift as Shift,
)
from .bijections import (
    Sigmoid as Sigmoid,
)
from .bijections import (
    Sigmoidal as Sigmoidal,
)
from .bijections import (
    SinhArcsinh as SinhArcsinh,
)
from .bijections import (
    SoftClip as SoftClip,
)
from .bijections import (
    Softplus as Softplus,
)
from .bijections import (
    SumOfSquares as SumOfSquares,
)
from .bijections import (
    Tanh as Tanh,
)
from .bijections import (
    YeoJohnson as YeoJohnson,
)
from .densities import (
    Absolute as Absolute,
)
from .densities import (
    Audit as Audit,
)
from .densities import (
    Augmented as Augmented,
)
from .densities import (
    Banana as Banana,
)
from .densities import (
    BoxUniform as BoxUniform,
)
from .densities import (
    Checkerboard as Checkerboard,
)
from .densities import (
    Density as Density,
)
from .densities import (
    Dequantized as Dequantized,
)
from .densities import (
    DiagonalNormal as DiagonalNormal,
)
from .densities import (
    Encode as Encode,
)
from .densities import (
    Ensemble as Ensemble,
)
from .densities import (
    Flow as Flow,
)
from .densities import (
    FlowDistribution as FlowDistribution,
)
from .densities import (
    Funnel as Funnel,
)
from .densities import (
    GaussianGrid as GaussianGrid,
)
from .densities import (
    GaussianMixture as GaussianMixture,
)
from .densities import (
    GaussianRing as GaussianRing,
)
from .densities import (
    MaxPool as MaxPool,
)
from .densities import (
    Mixture as Mixture,
)
from .densities import (
    ParetoTailed as ParetoTailed,
)
from .densities import (
    Resampled as Resampled,
)
from .densities import (
    RezendeMohamed as RezendeMohamed,
)
from .densities import (
    Rings as Rings,
)
from .densities import (
    Slice as Slice,
)
from .densities import (
    StandardNormal as StandardNormal,
)
from .densities import (
    StudentT as StudentT,
)
from .densities import (
    Target as Target,
)
from .densities import (
    TruncatedNormal as TruncatedNormal,
)
from .densities import (
    TwoMoons as TwoMoons,
)
from .densities import (
    UniformSphere as UniformSphere,
)
from .densities import (
    VonMises as VonMises,
)
from .densities import (
    VonMisesFisher as VonMisesFisher,
)
from .densities import (
    bits_per_dim as bits_per_dim,
)
from .densities import (
    denoise as denoise,
)
from .densities import (
    guided_sample as guided_sample,
)
from .densities import (
    sde_sample as sde_sample,
)
from .io import load as load
from .io import load_metadata as load_metadata
from .io import save as save
from .objectives import (
    AlphaDivergence as AlphaDivergence,
)
from .objectives import (
    Batch as Batch,
)
from .objectives import (
    BinarizedData as BinarizedData,
)
from .objectives import (
    ConditionalOptimalTransport as ConditionalOptimalTransport,
)
from .objectives import (
    ContextDropout as ContextDropout,
)
from .objectives import (
    FlowMatching as FlowMatching,
)
from .objectives import (
    Interpolant as Interpolant,
)
from .objectives import (
    NegativeElbo as NegativeElbo,
)
from .objectives import (
    NoisyData as NoisyData,
)
from .objectives import (
    OptimalTransport as OptimalTransport,
)
from .objectives import (
    Paired as Paired,
)
from .objectives import (
    RegularizedLikelihood as RegularizedLikelihood,
)
from .objectives import (
    ReverseKL as ReverseKL,
)
from .objectives import (
    SchrodingerBridge as SchrodingerBridge,
)
from .objectives import (
    ScoreMatching as ScoreMatching,
)
from .objectives import (
    TransportRegularized as TransportRegularized,
)
from .objectives import (
    dequantized_nll as dequantized_nll,
)
from .objectives import (
    nll as nll,
)
from .objectives import (
    reflow as reflow,
)
from .objectives import (
    straightness as straightness,
)
from .recipes import (
    bernstein as bernstein,
)
from .recipes import (
    bnaf as bnaf,
)
from .recipes import (
    cfm as cfm,
)
from .recipes import (
    cnf as cnf,
)
from .recipes import (
    cnf_image as cnf_image,
)
from .recipes import (
    ffjord as ffjord,
)
from .recipes import (
    ffjord_image as ffjord_image,
)
from .recipes import (
    flowpp as flowpp,
)
from .recipes import (
    flowpp_image as flowpp_image,
)
from .recipes import (
    gaussianization as gaussianization,
)
from .recipes import (
    gin as gin,
)
from .recipes import (
    glow as glow,
)
from .recipes import (
    hybrid as hybrid,
)
from .recipes import (
    iaf as iaf,
)
from .recipes import (
    idensenet as idensenet,
)
from .recipes import (
    jet as jet,
)
from .recipes import (
    maf as maf,
)
from .recipes import (
    manifold_flow as manifold_flow,
)
from .recipes import (
    naf as naf,
)
from .recipes import (
    ncsf as ncsf,
)
from .recipes import (
    nice as nice,
)
from .recipes import (
    nsf as nsf,
)
from .recipes import (
    nsf_ar as nsf_ar,
)
from .recipes import (
    otflow as otflow,
)
from .recipes import (
    pixel_noise as pixel_noise,
)
from .recipes import (
    planar as planar,
)
from .recipes import (
    radial as radial,
)
from .recipes import (
    real_nvp as real_nvp,
)
from .recipes import (
    real_nvp_image as real_nvp_image,
)
from .recipes import (
    residual as residual,
)
from .recipes import (
    residual_image as residual_image,
)
from .recipes import (
    rfm_sphere as rfm_sphere,
)
from .recipes import (
    rfm_torus as rfm_torus,
)
from .recipes import (
    rnode as rnode,
)
from .recipes import (
    score_sde as score_sde,
)
from .recipes import (
    sos as sos,
)
from .recipes import (
    sylvester as sylvester,
)
from .recipes import (
    tarflow as tarflow,
)
from .recipes import (
    tarflow_image as tarflow_image,
)
from .recipes import (
    ttf as ttf,
)
from .recipes import (
    umnn as umnn,
)
from .spec import register as register
from .tables import DataWarning as DataWarning
from .tables import Schema as Schema
from .tables import read_table as read_table
from .training import (
    Anneal as Anneal,
)
from .training import (
    Callback as Callback,
)
from .training import (
    Data as Data,
)
from .training import (
    FitConfig as FitConfig,
)
from .training import (
    FitResult as FitResult,
)
from .training import (
    fit as fit,
)
from .training import (
    fit_ensemble as fit_ensemble,
)
from .transforms import (
    LU as LU,
)
from .transforms import (
    QR as QR,
)
from .transforms import (
    ActNorm as ActNorm,
)
from .transforms import (
    Autoregressive as Autoregressive,
)
from .transforms import (
    BlockAutoregressive as BlockAutoregressive,
)
from .transforms import (
    Causal as Causal,
)
from .transforms import (
    Chain as Chain,
)
from .transforms import (
    Continuous as Continuous,
)
from .transforms import (
    Conv1x1 as Conv1x1,
)
from .transforms import (
    Coupling as Coupling,
)
from .transforms import (
    Elementwise as Elementwise,
)
from .transforms import (
    Haar as Haar,
)
from .transforms import (
    Householder as Householder,
)
from .transforms import (
    ImageCoupling as ImageCoupling,
)
from .transforms import (
    Inverse as Inverse,
)
from .transforms import (
    MatrixExp as MatrixExp,
)
from .transforms import (
    MonotoneIntegral as MonotoneIntegral,
)
from .transforms import (
    Multiscale as Multiscale,
)
from .transforms import (
    Ordered as Ordered,
)
from .transforms import (
    Partition as Partition,
)
from .transforms import (
    Patchify as Patchify,
)
from .transforms import (
    Permutation as Permutation,
)
from .transforms import (
    PhaseShift as PhaseShift,
)
from .transforms import (
    Planar as Planar,
)
from .transforms import (
    Radial as Radial,
)
from .transforms import (
    Regression as Regression,
)
from .transforms import (
    Reshape as Reshape,
)
from .transforms import (
    Residual as Residual,
)
from .transforms import (
    Reversible as Reversible,
)
from .transforms import (
    Rotation as Rotation,
)
from .transforms import (
    Squeeze as Squeeze,
)
from .transforms import (
    Standardize as Standardize,
)
from .transforms import (
    Stochastic as Stochastic,
)
from .transforms import (
    Sylvester as Sylvester,
)
from .transforms import (
    Transform as Transform,
)
from .transforms import (
    Whiten as Whiten,
)
from .transforms import (
    estimate_with_error as estimate_with_error,
)
from .transforms import (
    forward_with_costs as forward_with_costs,
)
from .transforms import (
    random_permutation as random_permutation,
)
from .transforms import (
    reversal as reversal,
)

__version__: str
__all__: list[str]
