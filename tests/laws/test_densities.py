import pytest

from bijectory.testing import COSTLY_DENSITY_LAWS, DENSITY_LAWS
from laws.cases import DENSITIES
from laws.matrix import matrix


@pytest.mark.parametrize(("case", "context", "dtype", "law"), matrix(DENSITIES, DENSITY_LAWS, COSTLY_DENSITY_LAWS))
def test_law(case, context, dtype, law):
    law(case.subject(context, dtype))
