import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import nist
import numpy as np
import optax
import optimistix
import pytest

import fitkit as fk

X = np.linspace(-1, 2, 30)


def residuals(params, args):
    """Two nearly parallel columns in units a million apart, and an `idle` parameter."""
    model = params["star"]["flux"] * 1e-3 + params["slope"][0] * 1e3 * (1 + 0.01 * X)
    return model + params["slope"][1] - 3.0 + 0 * params["idle"]


def loss(params, args=None):
    return 0.5 * jnp.sum(residuals(params, args) ** 2)


PARAMS = {
    "star": {"flux": jnp.array(500.0)},
    "slope": jnp.array([2e-3, 0.1]),
    "idle": jnp.array(7.0),
}
CONSTRAINED = {path: leaf for path, leaf in PARAMS.items() if path != "idle"}


def flat(params):
    return jax.flatten_util.ravel_pytree(params)[0]


def without_offset(params, args):
    """Of full rank: the data tell flux and slope apart."""
    model = params["star"]["flux"] * 1e-3 + params["slope"][0] * 1e3 * (1 + 0.01 * X)
    return model + params["slope"][1] * X**2 - 3.0


@pytest.mark.parametrize("transform", [lambda f: f, eqx.filter_jit])
@pytest.mark.parametrize("source", ["fisher", "array"])
def test_there_and_back(source, transform):
    fisher = fk.fisher_matrix(without_offset, CONSTRAINED)
    projection = fk.EigenProjection(
        CONSTRAINED, fisher if source == "fisher" else fk.eigen_projection(fmat=fisher.matrix)
    )
    moved = {"star": {"flux": jnp.array(507.0)}, "slope": jnp.array([2.5e-3, -0.3])}
    latent = transform(projection.to_latent)(moved)
    back = transform(projection.from_latent)(latent)
    assert jax.tree.structure(back) == jax.tree.structure(moved)
    # Condition number 1e6 (of the matrix: 1e12) costs six digits (twelve from the formed matrix).
    np.testing.assert_allclose(flat(back), flat(moved), rtol=1e-9 if source == "fisher" else 1e-4)
    # The latent metric is the Fisher metric: a distance in standard errors.
    step = flat(moved) - flat(CONSTRAINED)
    rtol = 1e-9 if source == "fisher" else 1e-3
    np.testing.assert_allclose(latent @ latent, step @ fisher.matrix @ step, rtol=rtol)
    np.testing.assert_allclose(projection.inverse @ projection.matrix, np.eye(3), atol=rtol)


def test_cut_directions_stay_where_they_are():
    fisher = fk.fisher_matrix(residuals, PARAMS)
    assert fisher.rank == 2
    projection = fk.EigenProjection(PARAMS, fisher)
    assert projection.matrix.shape == (4, 4)
    moved = {**PARAMS, "idle": jnp.array(9.0), "star": {"flux": jnp.array(510.0)}}
    back = projection.from_latent(projection.to_latent(moved))
    assert back["idle"] == 7.0
    np.testing.assert_allclose(residuals(back, None), residuals(moved, None), atol=1e-10)


def test_a_latent_loss_is_round():
    fisher = fk.fisher_matrix(without_offset, CONSTRAINED)
    projection = fk.EigenProjection(CONSTRAINED, fisher)

    def loss(params, args):
        return 0.5 * jnp.sum(without_offset(params, args) ** 2)

    latent_loss = projection.reparametrise(loss)
    hessian = jax.jit(jax.hessian(latent_loss))(jnp.zeros(3))
    np.testing.assert_allclose(hessian, np.eye(3), atol=1e-8)
    solution = optimistix.minimise(
        latent_loss, optimistix.BFGS(rtol=1e-8, atol=1e-8), jnp.zeros(3), args=None
    )
    best = projection.from_latent(solution.value)
    exact = np.linalg.lstsq(
        np.stack([1e3 + 10 * X, X**2, 1e-3 + 0 * X], axis=1), np.full(X.size, 3.0)
    )[0]
    np.testing.assert_allclose(without_offset(best, None), 0, atol=1e-6)
    np.testing.assert_allclose(flat(best)[1], exact[1], atol=1e-6)


def test_a_rectangular_projection_leaves_out_what_is_cut():
    fisher = fk.fisher_matrix(residuals, PARAMS)
    projection = fk.EigenProjection(PARAMS, fisher.projection[:, : fisher.rank])
    latent = jnp.array([0.5, -2.0])
    np.testing.assert_allclose(
        projection.to_latent(projection.from_latent(latent)), latent, rtol=1e-9
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inner", "steps"),
    [
        (optax.sgd(1.0), 1),
        (optax.lbfgs(), 4),
        (optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda n: -(0.98**n))), 800),
    ],
    ids=["sgd", "lbfgs", "adam"],
)
def test_any_optimiser_runs_in_the_eigenbasis(inner, steps):
    fisher = fk.fisher_matrix(residuals, PARAMS)
    optimiser = fk.eigen_projected(inner, fisher)

    @jax.jit
    def step(params, state):
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(
            grad, state, params, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, optimiser.init(PARAMS)
    for _ in range(steps):
        params, state = step(params, state)
    # The model can reach the data exactly. Newton's step on a linear problem lands to rounding.
    np.testing.assert_allclose(residuals(params, None), 0, atol=1e-5)
    assert params["idle"] == PARAMS["idle"]


@pytest.mark.parametrize("way", ["init", "tree_set"])
def test_refreshing_the_projection_does_not_retrace(way):
    problem = nist.problems["Misra1a"]
    traces = []

    def loss(params):
        traces.append(1)
        return 0.5 * jnp.sum(problem.residuals(params, problem.args) ** 2)

    params = {name: jnp.float64(value) for name, value in problem.starts[1].items()}

    def fisher():
        return fk.fisher_matrix(problem.residuals, params, problem.args)

    inner = optax.sgd(1.0)
    optimiser = fk.eigen_projected(inner, fisher())

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for _ in range(12):  # Gauss-Newton, by gradient descent in the basis of the moment
        params, state = step(params, state)
        if way == "init":
            state = fk.eigen_projected(inner, fisher()).init(params)
        else:
            state = optax.tree_utils.tree_set(
                state, projection=fk.EigenProjection(params, fisher())
            )
    assert len(traces) == 1
    assert problem.digits(params) > 6


@pytest.mark.slow
def test_residuals_and_further_arguments_reach_the_inner_optimiser():
    seen = {}

    def update(updates, state, params=None, **extra_args):
        assert params is not None
        residuals, value_fn = extra_args["residuals"], extra_args["value_fn"]
        jacobian = jax.jacobian(lambda z: residuals({"latent": z}))(params["latent"])
        value = value_fn(params, batch=extra_args["batch"])
        seen.update(at_home=residuals(params), jacobian=jacobian, value=value)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    fisher = fk.fisher_matrix(residuals, PARAMS)
    optimiser = fk.eigen_projected(inner, fisher)
    moved = {**PARAMS, "idle": jnp.array(9.0)}
    optimiser.update(
        jax.grad(loss)(moved),
        optimiser.init(PARAMS),
        moved,
        residuals=lambda p: residuals(p, None),
        value_fn=lambda p, batch: loss(p) * batch,
        batch=2.0,
    )
    np.testing.assert_allclose(seen["at_home"], residuals(moved, None), rtol=1e-12)
    assert seen["value"] == pytest.approx(2 * float(loss(moved)))
    # The latent Jacobian is orthonormal on what the data constrain, and zero on the rest.
    gram = np.asarray(seen["jacobian"].T @ seen["jacobian"])
    np.testing.assert_allclose(gram, np.diag([1.0, 1.0, 0.0, 0.0]), atol=1e-7)


def test_dtypes_are_those_of_the_parameters():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PARAMS)
    projection = fk.EigenProjection(params, fk.fisher_matrix(residuals, PARAMS))
    assert projection.matrix.dtype == projection.inverse.dtype == jnp.float32
    assert projection.from_latent(jnp.zeros(4, jnp.float32))["idle"].dtype == jnp.float32


def test_projections_of_other_parameters_are_refused():
    fisher = fk.fisher_matrix(residuals, PARAMS)
    with pytest.raises(ValueError, match=r"other parameters than the centre.*'idle'"):
        fk.EigenProjection(CONSTRAINED, fisher)
    with pytest.raises(ValueError, match=r"shape \(2, 2\), but the parameters have 4"):
        fk.EigenProjection(PARAMS, np.eye(2))
    optimiser = fk.eigen_projected(optax.sgd(1.0), fk.EigenProjection(PARAMS, fisher))
    with pytest.raises(ValueError, match=r"other parameters than the optimiser.*'idle'"):
        optimiser.init(CONSTRAINED)
    with pytest.raises(ValueError, match="update needs params"):
        optimiser.update(PARAMS, optimiser.init(PARAMS))
