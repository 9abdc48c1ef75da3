"""The NIST problems are read and modelled right: their certified numbers follow from the data."""

import nist
import numpy as np
import pytest


@pytest.mark.parametrize("name", nist.problems)
def test_the_certified_parameters_give_the_certified_residuals(name):
    problem = nist.problems[name]
    rss = float(np.sum(np.square(problem.residuals(problem.certified, problem.args))))
    # Printed to 11 digits. Parameters rounded to 11 digits move Lanczos2's sum of squares, 2e-11,
    # in its sixth digit, and are all there is of Lanczos1's, 1e-25.
    rel = 1e-5 if name == "Lanczos2" else 1e-9
    assert rss == pytest.approx(problem.rss, rel=rel, abs=1e-20 if name == "Lanczos1" else 0)
    assert problem.digits(problem.certified) == nist.CERTIFIED_DIGITS


def test_exchanged_terms_count_as_the_same_answer():
    problem = nist.problems["Gauss1"]
    b = problem.certified
    exchanged = dict(b, b3=b["b6"], b4=b["b7"], b5=-b["b8"], b6=b["b3"], b7=b["b4"], b8=b["b5"])
    assert problem.digits(exchanged) == nist.CERTIFIED_DIGITS
    assert problem.digits(dict(b, b1=b["b1"] * (1 + 1e-4))) == pytest.approx(4, abs=1e-6)
    assert problem.digits(dict(b, b1=float("nan"))) == 0
