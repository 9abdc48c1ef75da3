"""A line of advice for every family of failure."""

ADVICE = {
    "sqrt at 0": (
        "the slope of sqrt is infinite at 0: keep the argument away from 0, as in "
        "sqrt(x**2 + eps**2), or choose a safe argument with where before the sqrt"
    ),
    "sqrt of a negative number": (
        "keep the argument positive: fit its logarithm, clip it, or choose a safe argument with "
        "where before the sqrt"
    ),
    "log": (
        "the argument of the log reached 0 or less: fit the logarithm of the parameter instead, "
        "or keep it positive with softplus or a bound"
    ),
    "division by zero": (
        "the denominator is 0: start elsewhere, fit its logarithm, or choose a safe denominator "
        "with where before dividing"
    ),
    "where-trap": (
        "where hides the value but not its gradient (0 × inf is NaN): choose a safe argument "
        "first, as in x = where(ok, x, 1), then compute with it, then mask with where again"
    ),
    "overflow": (
        "the result is larger than the dtype can hold: work with logarithms (logsumexp, "
        "log-likelihoods), rescale the units, or use float64"
    ),
    "power": (
        "a fractional power of a negative number is NaN: keep the base positive by fitting its "
        "logarithm or with a bound"
    ),
    "power at 0": (
        "the slope of a power below 1 is infinite at 0: keep the base away from 0 by fitting its "
        "logarithm, or add a small constant"
    ),
    "domain": (
        "the argument lies on or beyond the edge of the function's domain: map the parameter into "
        "the open interval with tanh or sigmoid, or clip the argument just inside it"
    ),
    "arctan2 at the origin": (
        "the angle has no slope at the origin: start elsewhere, or fit the real and imaginary "
        "part instead of the angle"
    ),
    "degenerate eigenvalues": (
        "eigenvectors have no derivative where eigenvalues are equal: break the degeneracy with a "
        "small distinct diagonal, or use only functions of the eigenvalues"
    ),
    "singular matrix": (
        "the matrix is singular or not positive definite: add a small multiple of the identity, "
        "or constrain the parameters that make it so"
    ),
    "data": (
        "mask or repair this element of the data before the fit, and choose a safe value with "
        "where before computing with it"
    ),
    "input": "this input was not finite to begin with: repair it before calling",
    "learning rate": (
        "the parameters have run away: lower the learning rate, or limit the step, and resume "
        "from the last finite state"
    ),
    "without effect": (
        "the parameter has no effect on the loss, so its gradient is 0 and the optimiser divides "
        "by it: freeze the parameter, or give the optimiser its eps back"
    ),
    "index": "the index is out of bounds, where JAX fills in NaN: check it, or use mode='clip'",
    "infinities": "an infinity met another or a zero: find where it came from, and mask it there",
    "derivative": (
        "the derivative is infinite or undefined here: start elsewhere, or rewrite the expression "
        "so that it is smooth at this point"
    ),
    "other": "look at the operands above, and keep them where the operation is defined",
}
