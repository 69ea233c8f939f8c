import pytest

from bijectory.testing import COSTLY_TRANSFORM_LAWS, TRANSFORM_LAWS
from laws.cases import TRANSFORMS
from laws.matrix import matrix


@pytest.mark.parametrize(("case", "context", "dtype", "law"), matrix(TRANSFORMS, TRANSFORM_LAWS, COSTLY_TRANSFORM_LAWS))
def test_law(case, context, dtype, law):
    law(case.subject(context, dtype))
