"""Small physical models that go non-finite in a known place, and some that only look as if.

Every model is ``loss(params, args)``. The line where the bad value is born is marked ``#! name``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax

MODELS: dict[str, "Model"] = {}


@dataclasses.dataclass(frozen=True)
class Model:
    """What a good report would say; `phase` is None where none is wanted."""

    loss: Callable
    params: Callable[[], Any]
    args: Callable[[], Any]
    phase: str | None
    operation: str = ""
    origin: str | None = None
    parameters: tuple[str, ...] | None = None
    iteration: int | None = None
    lane: Any = None
    family: str = ""

    @property
    def line(self) -> int:
        with open(__file__) as file:
            mark = f"#! {self.loss.__name__}"
            return next(k for k, line in enumerate(file, 1) if line.rstrip().endswith(mark))


def model(phase: str | None, params: Callable, args: Callable = lambda: None, **expected: Any):
    def register(loss: Callable) -> Callable:
        MODELS[loss.__name__] = Model(loss, params, args, phase, **expected)
        return loss

    return register


A = jnp.array


# Only the gradient goes bad.


@model(
    "gradient",
    lambda: {"orbit": {"ecc": A([0.2, 1.0])}, "period": A(2.0)},
    operation="derivative of sqrt at 0",
    origin="orbit.ecc[1]",
    parameters=("orbit.ecc",),
    family="sqrt at 0",
)
def semi_minor_axis(params, args):
    shape = 1.0 - params["orbit"]["ecc"] ** 2
    minor = jnp.sqrt(shape)  #! semi_minor_axis
    return params["period"] * jnp.sum(minor)


@model(
    "gradient",
    lambda: {"lens": {"centre": A([0.0, 0.0])}, "strength": A(1.5)},
    lambda: {"xy": A([[1.0, 0.5], [0.0, 0.0], [2.0, 1.0]])},
    operation="derivative of sqrt at 0",
    origin="lens.centre",
    family="sqrt at 0",
)
def deflection(params, args):
    offset = args["xy"] - params["lens"]["centre"][None, :]
    distance = jnp.linalg.norm(offset, axis=1)  #! deflection
    return params["strength"] * jnp.sum(distance)


@model(
    "gradient",
    lambda: {"ring": {"radius": A(1.0)}, "height": A(2.0)},
    lambda: {"r": A([0.5, 1.5, 3.0])},
    family="where-trap",
    origin="ring.radius",
    parameters=("ring.radius",),
)
def ring_edge(params, args):
    inside = args["r"] - params["ring"]["radius"]
    edge = inside**1.5  #! ring_edge
    profile = jnp.where(inside > 0, edge, 0.0)
    return params["height"] * jnp.sum(profile)


@model(
    "gradient",
    lambda: {"wave": {"kx": A(0.0), "ky": A(0.0)}},
    operation="derivative of arctan2",
    origin="wave.ky",
)
def wave_direction(params, args):
    angle = jnp.arctan2(params["wave"]["ky"], params["wave"]["kx"])  #! wave_direction
    return jnp.cos(angle - 0.3)


@model(
    "gradient",
    lambda: {"layers": {"depth": A([1.0, 2.0, 0.0])}},
    operation="derivative of power at 0",
    origin="layers.depth[2]",
    iteration=2,
)
def compaction(params, args):
    def layer(total, depth):
        thickness = depth**0.7  #! compaction
        return total + thickness, None

    return lax.scan(layer, 0.0, params["layers"]["depth"])[0]


@model(
    "gradient",
    lambda: {"inertia": {"moments": A([1.0, 1.0, 3.0])}},
    family="degenerate eigenvalues",
    origin="inertia.moments",
)
def principal_axis(params, args):
    tensor = jnp.diag(params["inertia"]["moments"])
    _, axes = jnp.linalg.eigh(tensor)  #! principal_axis
    return jnp.sum(axes[0] ** 3)


@model(
    "gradient",
    lambda: {"tau": A([[0.5, 0.0], [1.0, 2.0]])},
    operation="derivative of sqrt at 0",
    origin="tau[0, 1]",
    lane=(0, 1),
)
def nested_lanes(params, args):
    def one(tau):
        return jnp.sqrt(tau)  #! nested_lanes

    return jnp.sum(jax.vmap(jax.vmap(one))(params["tau"]))


class Disc(eqx.Module):
    """A model with methods, as users write them."""

    cosine: jax.Array
    flux: jax.Array

    def brightness(self):
        angle = jnp.arccos(self.cosine)  #! limb
        return self.flux * jnp.cos(angle / 2)


@model("gradient", lambda: Disc(A([0.1, 1.0]), A(1.0)), origin="cosine[1]", family="domain")
def limb(params, args):
    return jnp.sum(params.brightness())


@jax.custom_jvp
def saturate(x):
    return jnp.tanh(x)


@saturate.defjvp
def _saturate_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    y = jnp.tanh(x)
    return y, t * (1 - y**2) * (x / jnp.abs(x))  #! detector


@model("gradient", lambda: {"gain": A([1.0, 0.0])}, operation="0/0", origin="gain[1]")
def detector(params, args):
    return jnp.sum(saturate(params["gain"]))


@jax.custom_vjp
def threshold(x):
    return jnp.maximum(x, 0.0)


def _threshold_forward(x):
    return threshold(x), x


def _threshold_backward(x, g):
    ratio = jnp.maximum(x, 0.0) / x  #! trigger
    return (g * ratio,)


threshold.defvjp(_threshold_forward, _threshold_backward)


@model("gradient", lambda: {"level": A([2.0, 0.0])}, operation="0/0", origin="level[1]")
def trigger(params, args):
    return jnp.sum(threshold(params["level"]))


@model(
    "gradient",
    lambda: {"opacity": A(0.0), "scale": A(1.0)},
    operation="derivative of sqrt at 0",
    origin="opacity",
)
def recomputed_layer(params, args):
    @jax.checkpoint
    def transfer(opacity):
        return jnp.sqrt(jnp.sinh(opacity)) * params["scale"]  #! recomputed_layer

    return transfer(params["opacity"])


# The model itself goes bad.


@model(
    "forward",
    lambda: {"rate": A(0.3), "start": A(1.0)},
    operation="log of a negative number",
    iteration=3,
    origin="rate",
)
def fori_decay(params, args):
    def body(k, state):
        level, entropy = state
        level = level - params["rate"]
        return level, entropy + jnp.log(level)  #! fori_decay

    return lax.fori_loop(0, 6, body, (params["start"], 0.0))[1]


@model(
    "forward",
    lambda: {"rate": A(0.001), "start": A(1.0)},
    operation="log of a negative number",
    origin="rate",
)
def long_decay(params, args):
    def body(level, _):
        level = level - params["rate"]
        return level, jnp.log(level)  #! long_decay

    return jnp.sum(lax.scan(body, params["start"], None, length=3000)[1])


@model(
    "forward", lambda: {"x": A(3.0)}, operation="sqrt of a negative number", iteration=5, origin="x"
)
def long_while(params, args):
    def body(state):
        k, x = state
        x = x - 0.5 * jnp.sqrt(x)  # converges
        return k + 1, jnp.where(k == 5, jnp.sqrt(x - 100.0), x)  #! long_while

    start = lax.stop_gradient(params["x"])
    return lax.while_loop(lambda s: s[0] < 4000, body, (0, start))[1] + params["x"]


@model(
    "forward",
    lambda: {"gas": {"density": A(-0.5)}, "gamma": A(1.4)},
    operation="power of a negative base",
    origin="gas.density",
)
def switch_branch(params, args):
    branches = [
        lambda r: r * 2.0,
        lambda r: r ** params["gamma"],  #! switch_branch
        lambda r: r - 1.0,
    ]
    return lax.switch(jnp.int32(1), branches, params["gas"]["density"])


@model(
    "forward",
    lambda: {"kernel": {"width": A(0.0)}, "jitter": A(0.0)},
    lambda: {"t": jnp.linspace(0.0, 1.0, 4)},
    family="singular matrix",
)
def gaussian_process(params, args):
    gap = (args["t"][:, None] - args["t"][None, :]) * params["kernel"]["width"]
    covariance = jnp.exp(-(gap**2)) - 0.5 * jnp.eye(4)
    factor = jnp.linalg.cholesky(covariance)  #! gaussian_process
    return jnp.sum(jnp.log(jnp.diag(factor)))


@model("forward", lambda: {"a": A([[1.0, 2.0], [2.0, 4.0]])}, family="singular matrix", origin="a")
def inverse_covariance(params, args):
    inverse = jnp.linalg.inv(params["a"])  #! inverse_covariance
    return jnp.sum(inverse)


@model(
    "forward",
    lambda: {"energy": A([1.0, 900.0])},
    operation="overflow of exp",
    origin="energy[1]",
    family="overflow",
)
def partition_function(params, args):
    weights = jnp.exp(params["energy"])  #! partition_function
    return jnp.log(jnp.sum(weights))


@jax.jit
def contrast(high, low):
    return (high - low) / (high + low)  #! visibility


@model(
    "forward",
    lambda: {"fringe": {"high": A([1.0, 0.0]), "low": A([0.5, 0.0])}},
    operation="0/0",
    origin="fringe.high[1]",
)
def visibility(params, args):
    healthy = contrast(A([2.0]), A([1.0]))
    return jnp.sum(contrast(params["fringe"]["high"], params["fringe"]["low"])) + healthy[0]


@model(
    "forward",
    lambda: {"spectrum": A([1.0, 2.0, 0.0, 1.0])},
    operation="log of 0",
    origin="spectrum[2]",
)
def gathered(params, args):
    order = A([3, 2, 0])
    return jnp.sum(jnp.log(params["spectrum"][order]))  #! gathered


@model("forward", lambda: {"phase": A([0.0, 0.0, 0.0, 0.0])}, operation="0/0")
def dark_image(params, args):
    field = jnp.fft.fft(params["phase"] + 0j)
    power = jnp.abs(field) ** 2
    image = power / jnp.sum(power)  #! dark_image
    return jnp.sum(image)


@model(
    "forward", lambda: {"n": A([3.0, -2.0])}, operation="log", origin="n[1]", lane=1, family="log"
)
def mapped_entropy(params, args):
    def one(n):
        return lax.cond(n > 0, lambda m: m, lambda m: m - 1.0, n)

    return jnp.sum(jax.vmap(lambda n: jnp.log(one(n)))(params["n"]))  #! mapped_entropy


# The data are to blame.


@model(
    "data",
    lambda: {"line": {"slope": A(1.0)}},
    lambda: {"x": jnp.arange(4.0), "y": A([1.0, 2.0, jnp.nan, 4.0])},
    origin="args.y[2]",
    family="data",
)
def dead_pixel(params, args):
    model = params["line"]["slope"] * args["x"]
    residual = model - args["y"]  #! dead_pixel
    return jnp.sum(residual**2)


@model(
    "data",
    lambda: {"level": A(1.0)},
    lambda: {"y": A([1.0, 2.0]), "sigma": A([0.0, 1.0])},
    operation="division by zero",
    origin="args.sigma[0]",
)
def no_error_bar(params, args):
    pull = (args["y"] - params["level"] - 0.5) / args["sigma"]  #! no_error_bar
    return jnp.sum(pull**2)


CAPTURED = A([1.0, jnp.nan, 3.0])


@model("data", lambda: {"level": A(1.0)}, origin="a captured array of shape (3,), element [1]")
def captured_data(params, args):
    residual = params["level"] - CAPTURED  #! captured_data
    return jnp.sum(residual**2)


# Harmless: no report is wanted.


@model(None, lambda: {"r": A([0.0, 4.0])})
def safe_where(params, args):
    good = params["r"] > 0
    return jnp.sum(jnp.where(good, jnp.sqrt(jnp.where(good, params["r"], 1.0)), 0.0))


@model(None, lambda: {"w": A([0.1, 0.3])})
def masked_softmax(params, args):
    weights = jnp.where(A([True, False]), params["w"], -jnp.inf)
    return jsp.special.logsumexp(weights)


@model(None, lambda: {"amp": A(2.0)}, lambda: {"y": A([jnp.nan, 1.0])})
def nan_mean(params, args):
    return (params["amp"] - jnp.nanmean(args["y"])) ** 2


@model(None, lambda: {"amp": A(1.0)}, lambda: {"sigma": A([1.0, jnp.inf])})
def infinite_error(params, args):
    return jnp.sum((params["amp"] / args["sigma"]) ** 2)


@model(None, lambda: {"x": A([3.0, -1.0])})
def running_maximum(params, args):
    def step(best, x):
        return jnp.maximum(best, x), best

    best, _ = lax.scan(step, -jnp.inf, params["x"])
    return best**2
