"""A solver of optimistix as an optax transformation: one update is one of its steps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from fitkit._fisher import real_residuals
from fitkit._input import converted, explained, shortened
from fitkit._optimisers.diagnostics import Diagnostics, Verdict
from fitkit._paths import common_dtype, ravel
from fitkit._sharding import on_automatic_axes

# A step that is not accepted is at most halved. After so many, float64 (53 bits) does not know it
# from none: no step lowers the loss.
IDLE = 64


class OptimistixState(NamedTuple):
    """State of `from_optimistix`.

    Attributes
    ----------
    memory
        What the solver has to remember between steps: leaves of its own state.
    left
        Parameters where it left them; NaN before the first step.
    idle
        How many steps in a row have moved nothing.
    diagnostics
        The verdict.
    """

    memory: list[Array]
    left: PyTree
    idle: Int[Array, ""]
    diagnostics: Diagnostics


def from_optimistix(
    solver: Any, options: Mapping[str, Any] | None = None
) -> optax.GradientTransformationExtraArgs:
    """Make a solver of optimistix an optimiser, to be run, watched and steered in a `Fit`.

    Every update is one step of the solver, and its own tolerances end the run: *converged* where
    it terminates, *failed* where it reports an error or a number is not finite, *stalled* where
    64 steps in a row have moved nothing (of `optimistix.NelderMead`, 64 for every element).

    Parameters
    ----------
    solver
        For residuals `optimistix.LevenbergMarquardt`, `IndirectLevenbergMarquardt`, `Dogleg`,
        `GaussNewton` or another `AbstractGaussNewton`; for residuals or a loss `optimistix.BFGS`,
        `NonlinearCG`, `NelderMead` or another `AbstractMinimiser`.
    options
        What optimistix calls so: ``{"jac": "bwd"}`` for residuals without forward mode.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Its ``update`` takes ``residuals=``, as `gauss_newton` does, or ``value_fn=``, as
        `optax.lbfgs` does.

    Raises
    ------
    ImportError
        If optimistix, which fitkit does not require, is not installed.
    TypeError
        If `solver` is none of the above; and from ``update`` where what it needs is missing.

    Notes
    -----
    What depends on the parameters alone is computed again instead of remembered: a step of least
    squares takes two Jacobians where optimistix takes one.

    Where the parameters are not where the solver has left them, because they were set by hand or a
    bound or a learning rate other than 1 cut its step short, it begins anew from there.

    Examples
    --------
    >>> import fitkit as fk, jax.numpy as jnp
    >>> import optimistix as optx
    >>> x = jnp.linspace(0.0, 2.0, 9)
    >>> y = 3 * jnp.exp(-1.5 * x)
    >>> fit = fk.Fit(
    ...     residuals=lambda params, args: params["height"] * jnp.exp(-params["rate"] * x) - y,
    ...     params={"height": 1.0, "rate": 1.0},
    ...     optimiser=fk.from_optimistix(optx.Dogleg(rtol=1e-4, atol=1e-4)),
    ... )
    >>> fit.run(progress=False)
    >>> print(fit.status, round(float(fit.params["rate"]), 3))
    converged 1.5
    """
    kind = _kind(solver)
    chosen = dict(options or {})

    def begin(function: Callable, params: PyTree) -> Any:
        out, aux = jax.eval_shape(function, params, None)
        return kind.solver.init(function, params, None, chosen, out, aux, frozenset())

    def step(function: Callable, params: PyTree, state: Any) -> tuple[PyTree, Any]:
        return kind.solver.step(function, params, None, chosen, state, frozenset())[:2]

    def init(params: PyTree) -> OptimistixState:
        params = converted(params, "from_optimistix", "params")
        if not jax.tree.leaves(params):
            raise ValueError("from_optimistix: params holds no numbers.")
        state = begin(kind.blank(params), params)
        left = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
        none = jnp.zeros((), jnp.int32)
        return OptimistixState(_arrays(kind.kept(state)), left, none, Diagnostics(none))

    def advance(
        given: Callable, params: PyTree, frozen: PyTree, state: OptimistixState
    ) -> tuple[PyTree, OptimistixState]:
        # As optimistix does, so that the model is traced once.
        function: Any = eqx.filter_closure_convert(given, params, None)
        start = kind.prepared(lambda at: step(function, params, at)[1], begin(function, params))
        afresh = ~_all(jax.tree.map(lambda a, b: a == b, params, state.left))
        memory = [
            jnp.where(afresh, new.astype(old.dtype), old)
            for new, old in zip(_arrays(kind.kept(start)), state.memory, strict=True)
        ]
        there, after = step(function, params, _recalled(kind.kept, start, memory))
        done, result = kind.solver.terminate(function, there, None, chosen, after, frozenset())
        updates = jax.tree.map(
            lambda new, here, held: jnp.where(held, 0, new - here).astype(here.dtype),
            there,
            params,
            frozen,
        )
        # A failure leaves the parameters as they were.
        finite = _all(jax.tree.map(jnp.isfinite, updates))
        updates = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), updates)
        still = _all(jax.tree.map(lambda leaf: leaf == 0, updates))
        idle = jnp.where(still, state.idle + 1, 0)
        stalled = idle >= IDLE * kind.patience(params)
        verdict = jnp.where(stalled, Verdict.STALLED, Verdict.RUNNING)
        verdict = jnp.where(done, Verdict.CONVERGED, verdict)
        verdict = jnp.where(finite & (result == kind.successful), verdict, Verdict.FAILED)
        left = optax.apply_updates(params, updates)
        new = OptimistixState(_arrays(kind.kept(after)), left, idle, Diagnostics(verdict))
        return updates, jax.tree.map(lambda new, old: new.astype(old.dtype), new, state)

    def update(
        grads: Any,
        state: OptimistixState,
        params: PyTree | None = None,
        *,
        residuals: Callable[[PyTree], PyTree] | None = None,
        value_fn: Callable[[PyTree], Array] | None = None,
        frozen: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, OptimistixState]:
        del grads, extra
        told = residuals if kind.wants == "residuals" else value_fn
        if params is None or told is None:
            raise TypeError(
                f"from_optimistix: update of {type(solver).__name__} needs the parameters and "
                f"`{kind.wants}`: update(grads, state, params, {kind.wants}=function). (In Fit: a "
                "solver of least squares needs residuals= in place of loss=, and no function as a "
                "prior; a minimiser such as optimistix.BFGS takes either.)"
            )
        params = converted(params, "from_optimistix", "params")
        if frozen is None:
            frozen = jax.tree.map(lambda leaf: jnp.zeros((), bool), params)
        function = kind.function(told, params, frozen)
        return jax.lax.cond(
            state.diagnostics.verdict == Verdict.RUNNING,
            lambda: advance(function, params, frozen, state),
            lambda: (jax.tree.map(jnp.zeros_like, params), state),
        )

    return optax.GradientTransformationExtraArgs(
        init,  # pyright: ignore[reportArgumentType]
        on_automatic_axes(update),
    )


class _Anchored(NamedTuple):
    """Residuals, and beside them how far frozen elements have moved.

    So no column of the Jacobian is zero, which a QR decomposition does not survive.
    """

    residuals: PyTree
    moves: PyTree


class _LeastSquares(NamedTuple):
    """Least squares: the next trial and its size are kept, and the rest follows from the point.

    Its fields and methods are those of `_Minimiser`.
    """

    solver: Any
    successful: Any
    wants: str = "residuals"

    def patience(self, params: PyTree) -> int:
        del params
        return 1

    def function(self, told: Callable, params: PyTree, frozen: PyTree) -> Callable:
        def function(there: PyTree, _: None) -> tuple[_Anchored, None]:
            with explained("from_optimistix", "residuals", None):
                values = told(there)
            moves = jax.tree.map(lambda f, a, b: jnp.where(f, a - b, 0), frozen, there, params)
            return _Anchored(real_residuals(values, "from_optimistix"), moves), None

        return function

    def blank(self, params: PyTree) -> Callable:
        return lambda there, _: (_Anchored(there, there), None)

    def prepared(self, step: Callable, start: Any) -> Any:
        # The first step of any such solver accepts the point where it starts.
        return step(start)

    def kept(self, state: Any) -> Any:
        return state.y_eval, state.search_state


class _Minimiser(NamedTuple):
    """A minimiser: all of its state is kept, whose shapes are those of the parameters.

    Attributes
    ----------
    solver, successful
        The solver; the result of a step without an error.
    simplex
        Whether it replaces its points one by one, so that few steps move the best.
    wants
        What ``update`` must be told.
    """

    solver: Any
    successful: Any
    simplex: bool
    wants: str = "value_fn"

    def patience(self, params: PyTree) -> int:
        """How many times `IDLE` steps without a move it may take."""
        return ravel(params)[0].size if self.simplex else 1

    def function(self, told: Callable, params: PyTree, frozen: PyTree) -> Callable:
        """Make a function as optimistix takes it."""
        del frozen
        dtype = common_dtype(*jax.tree.leaves(params))
        return lambda there, _: (told(there).astype(dtype), None)

    def blank(self, params: PyTree) -> Callable:
        """Make one that stands for it, to learn the shapes of what is kept."""
        return lambda there, _: (jnp.zeros((), common_dtype(*jax.tree.leaves(params))), None)

    def prepared(self, step: Callable, start: Any) -> Any:
        """Bring a first state to where what is kept can be put in."""
        del step
        return start

    def kept(self, state: Any) -> Any:
        """Choose what of a state is remembered."""
        return state


def _kind(solver: Any) -> "_LeastSquares | _Minimiser":
    try:
        import optimistix
    except ImportError as error:
        raise ImportError(
            "from_optimistix needs optimistix, which is not installed: pip install "
            "'fitkit[optimistix]'. Without it, fitkit.gauss_newton() fits residuals."
        ) from error
    successful = optimistix.RESULTS.successful
    if isinstance(solver, optimistix.AbstractGaussNewton):
        own = solver.norm

        def norm(tree: PyTree) -> Array:
            return own(tree.residuals if isinstance(tree, _Anchored) else tree)

        return _LeastSquares(eqx.tree_at(lambda one: one.norm, solver, norm), successful)
    if isinstance(solver, optimistix.AbstractMinimiser):
        return _Minimiser(solver, successful, isinstance(solver, optimistix.NelderMead))
    hint = f"Call it: {solver.__name__}(rtol=1e-8, atol=1e-8)." if isinstance(solver, type) else ""
    raise TypeError(
        f"from_optimistix: the solver is {shortened(solver)}, must be a solver of optimistix for "
        "least squares (LevenbergMarquardt, GaussNewton, Dogleg, …) or a minimiser (BFGS, "
        f"NonlinearCG, NelderMead, …). {hint}".rstrip()
    )


def _arrays(tree: PyTree) -> list[Array]:
    # Some are constants of NumPy.
    return [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def _recalled(kept: Callable, state: Any, memory: list[Array]) -> Any:
    """Put back into a state what was kept of it."""
    leaves, structure = jax.tree.flatten(kept(state))
    new = iter(memory)
    filled = [next(new) if eqx.is_array(leaf) else leaf for leaf in leaves]
    # The state of a search may be None.
    return eqx.tree_at(
        kept, state, jax.tree.unflatten(structure, filled), is_leaf=lambda node: node is None
    )


def _all(tree: PyTree) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(leaf) for leaf in jax.tree.leaves(tree)]))
