import pytest

from bijectory.testing import BIJECTION_LAWS, COSTLY_BIJECTION_LAWS
from laws.cases import BIJECTIONS
from laws.matrix import matrix


@pytest.mark.parametrize(("case", "context", "dtype", "law"), matrix(BIJECTIONS, BIJECTION_LAWS, COSTLY_BIJECTION_LAWS))
def test_law(case, context, dtype, law):
    law(case.subject(context, dtype))
