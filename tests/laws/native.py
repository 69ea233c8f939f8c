"""Cases of flows in native kernels, which are compiled for them as ``Flow.compiled`` does."""

import bijectory as bj
from bijectory.transforms.chain import use_native
from laws.case import FEATURES, GRAPHS, Case


def _native(flow: bj.Flow) -> bj.Flow:
    use_native(flow)
    return flow


# The same flows in native kernels, where there is a compiler: nothing else may change. Every run asks for values, gradients,
# shapes and draws; for graphs, which hold no kernel, and the mass, which follows from values, of one flow of splines alone.
_AS_PLAIN = (*GRAPHS, "integrates_to_one", "draws_follow_the_density")
NATIVE = [
    Case("real_nvp-native", lambda c: _native(bj.real_nvp(FEATURES, c, layers=4, hidden=(16,))), slow=_AS_PLAIN),
    Case("maf-native", lambda c: _native(bj.maf(FEATURES, c, layers=2, hidden=(16,))), slow=_AS_PLAIN),
    Case("iaf-native", lambda c: _native(bj.iaf(FEATURES, c, layers=2, hidden=(16,))), slow=_AS_PLAIN),
    Case("nsf-native", lambda c: _native(bj.nsf(FEATURES, c, layers=2, hidden=(8,), bins=4))),
    Case("nsf_ar-native", lambda c: _native(bj.nsf_ar(FEATURES, c, layers=2, hidden=(16,), bins=4)), slow=_AS_PLAIN),
    Case("planar-native", lambda c: _native(bj.planar(FEATURES, c, layers=3)), (0,), slow=_AS_PLAIN),
    Case(
        "planar-noise-native",
        lambda c: _native(bj.planar(2, c, layers=2, acts_on="noise")),
        (0,),
        features=2,
        slow=_AS_PLAIN,
    ),
    Case(
        "cnf-native",
        lambda c: _native(bj.cnf(2, c, hidden=(8, 8), method="dopri8", steps=1, frequencies=0)),
        features=2,
        weights=0.1,
        slow=_AS_PLAIN,
    ),
]
