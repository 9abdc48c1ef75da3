"""Fits of the same content share what was compiled, and no others do."""

import contextlib
import gc
import weakref
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk
from fitkit._fit import problem

_COMPILED: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def listening():
    def note(event, duration_secs, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            _COMPILED.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield
    with contextlib.suppress(AttributeError):
        jax.monitoring.unregister_event_duration_listener(note)


def compiled(action):
    """Count what XLA compiles during an action."""
    before = len(_COMPILED)
    action()
    return len(_COMPILED) - before


CELL = """
import jax, jax.numpy as jnp, numpy as np, equinox as eqx, functools
from jax import lax

scale = 2.0
table = np.array([1.0, 2.0, 3.0])
config = {"power": 2, "names": ["a", "b"]}

def helper(x):
    return scale * x

@jax.jit
def jitted(x):
    return x * scale

@eqx.filter_jit
def filtered(x):
    return x * scale

def body(carry, _):
    return carry * scale, None

@jax.custom_jvp
def custom(x):
    return x * scale

@custom.defjvp
def custom_jvp(at, along):
    return custom(at[0]), scale * along[0]

def made(factor):
    def loss(params, args):
        return jnp.sum((factor * params["a"] - args) ** 2)
    return loss

def by_default(params, args, factor=2.0):
    return jnp.sum((factor * params["a"] - args) ** 2)

closed = made(2.0)
partial = functools.partial(lambda factor, params, args: made(factor)(params, args), 2.0)
plain = lambda params, args: jnp.sum((2.0 * params["a"] - args) ** 2)
reads_global = lambda params, args: jnp.sum((scale * params["a"] - args) ** 2)
calls_helper = lambda params, args: jnp.sum((helper(params["a"]) - args) ** 2)
calls_jitted = lambda params, args: jnp.sum((jitted(params["a"]) - args) ** 2)
calls_filtered = lambda params, args: jnp.sum((filtered(params["a"]) - args) ** 2)
calls_custom = lambda params, args: jnp.sum((custom(params["a"]) - args) ** 2)
calls_vmapped = lambda params, args: jnp.sum((jax.vmap(helper)(params["a"]) - args) ** 2)
scans = lambda params, args: jnp.sum((lax.scan(body, params["a"], None, 1)[0] - args) ** 2)
reads_table = lambda params, args: jnp.sum((table[1] * params["a"] - args) ** 2)
reads_config = lambda params, args: jnp.sum((config["power"] * params["a"] - args) ** 2)
within = lambda params, args: jnp.sum(jnp.array([scale * a for a in params["a"]]) - args) ** 2
"""
SHARED = (
    *("closed", "by_default", "partial", "plain", "reads_global", "calls_helper", "calls_jitted"),
    *("calls_filtered", "calls_custom", "calls_vmapped", "scans", "reads_table", "reads_config"),
    "within",
)


def cell(source=CELL) -> dict[str, Any]:
    """Run a cell of a notebook, anew."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    return names


def make_fit(loss, optimiser=None, args: Any = 2.0, a=(1.0, 1.0), **more):
    return fk.Fit(
        loss=loss,
        params={"a": jnp.array(a)},
        args=jnp.asarray(args),
        optimiser=optimiser or optax.adam(0.1),
        **more,
    )


def gone_through(fit):
    fit.run(3, progress=False)
    fit.fisher()
    fit.result()
    return fit


def share(one, other):
    """Whether two fits share all programs."""
    one, other = (fit.snapshot.place.program for fit in (one, other))
    return one.traced is other.traced and one.compiled is other.compiled


def test_a_function_is_checked_once(monkeypatch, unchecked):
    source = """
import jax.numpy as jnp
several = False
def loss(params, args):
    squares = 17.25 * (params["a"] - args) ** 2
    return squares if several else jnp.sum(squares)
"""
    checks, check = [], problem.has_reverse
    monkeypatch.setattr(problem, "has_reverse", lambda *given: checks.append(1) or check(*given))
    names = cell(source)
    for loss in (names["loss"], names["loss"], cell(source)["loss"]):
        make_fit(loss)
    assert len(checks) == 1
    make_fit(names["loss"], a=(1.0, 1.0, 1.0))
    assert len(checks) == 2
    make_fit(names["loss"], args=np.float32(2.0))
    assert len(checks) == 3
    names["several"] = True
    with pytest.raises(TypeError, match="must return one real"):
        make_fit(names["loss"])


@pytest.mark.parametrize("name", SHARED)
def test_a_cell_that_runs_again_shares_programs(name, unchecked):
    assert share(make_fit(cell()[name]), make_fit(cell()[name]))


def test_what_is_shared_is_not_compiled_again(unchecked):
    first = gone_through(make_fit(cell()["calls_filtered"]))
    second = make_fit(cell()["calls_filtered"])
    assert compiled(lambda: gone_through(second)) == 0
    np.testing.assert_array_equal(first.history.loss, second.history.loss)


OPTIMISERS = {
    "adam": lambda: optax.adam(0.1),
    "schedule": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 100))
    ),
    "own schedule": lambda: optax.sgd(lambda step: 0.1 / (1 + step)),
    "mapping": lambda: {"a": optax.sgd(0.1)},
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(0.1),
    "lbfgs": optax.lbfgs,
    "max_step_size": lambda: optax.chain(optax.sgd(0.1), fk.max_step_size(0.1)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_made_again_shares_programs(name, unchecked):
    one, other = (make_fit(cell()["plain"], OPTIMISERS[name]()) for _ in range(2))
    assert share(one, other)
    other.run(2, progress=False)
    # Some schedules write to their own variables while they are traced.
    assert share(one, make_fit(cell()["plain"], OPTIMISERS[name]()))


def test_gauss_newton_made_again_compiles_nothing(unchecked):
    def make():
        def residuals(params, args):
            return params["slope"] * args - 1.0

        return fk.Fit(residuals=residuals, params={"slope": 0.5}, args=jnp.arange(1.0, 5.0))

    gone_through(make())
    assert compiled(lambda: gone_through(make())) == 0


def test_numbers_of_priors_and_functions_made_again_compile_nothing(unchecked):
    def make(mean, power=4):
        return fk.Fit(
            residuals=lambda params, args: params["slope"] * args - 1.0,
            params={"slope": jnp.array([0.5, 0.5]), "offset": 1.0},
            args=jnp.arange(1.0, 3.0),
            priors={"slope": fk.Normal(mean, 1.0), "offset": lambda value: value**power},
            derived=lambda params: {"total": params["slope"].sum()},
            optimiser=optax.lbfgs(),
        )

    one, other, changed = make(0.0), make([3.0, 4.0]), make(0.0, 2)
    gone_through(one)
    assert compiled(lambda: gone_through(other)) == 0
    for fit, mean, power in ((one, 0.0, 4), (other, np.array([3.0, 4.0]), 4), (changed, 0.0, 2)):
        slope, offset = fit.params["slope"], fit.params["offset"]
        loss = 0.5 * np.sum((slope * np.arange(1.0, 3.0) - 1) ** 2 + (slope - mean) ** 2)
        assert fit.loss == pytest.approx(float(loss + offset**power), rel=1e-12)


# Never wrongly: the second fit must have the loss of its own function.

FACTS = {
    "closed": ("made(2.0)", "made(3.0)"),
    "by_default": ("factor=2.0", "factor=3.0"),
    "partial": ("args), 2.0)", "args), 3.0)"),
    "plain": ('2.0 * params["a"] - args) ** 2)', '3.0 * params["a"] - args) ** 2)'),
    "reads_table": ("[1.0, 2.0, 3.0]", "[1.0, 3.0, 3.0]"),
    "reads_config": ('"power": 2', '"power": 3'),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_cell_that_was_changed_shares_nothing(name, unchecked):
    old, new = FACTS.get(name, ("scale = 2.0", "scale = 3.0"))
    assert old in CELL
    one = make_fit(cell()[name], a=(1.5, 0.5))
    changed = cell(CELL.replace(old, new))[name]
    other = make_fit(changed, a=(1.5, 0.5))
    assert not share(one, other)
    # The function itself, without any of fitkit.
    assert other.loss == pytest.approx(float(changed({"a": jnp.array([1.5, 0.5])}, 2.0)), rel=1e-12)
    assert other.loss != one.loss


@pytest.mark.parametrize(
    "name", ["reads_global", "calls_helper", "calls_jitted", "calls_filtered", "scans", "within"]
)
def test_a_global_that_changes_between_two_fits_counts(name, unchecked):
    """JAX itself keeps what it traced of a jitted function or a loop's body, by the object."""
    names = cell()
    gone_through(make_fit(names[name]))
    names["scale"] = 3.0
    expected = float(
        cell(CELL.replace("scale = 2.0", "scale = 3.0"))[name]({"a": jnp.ones(2)}, 2.0)
    )
    again = make_fit(names[name])
    again.run(1, progress=False)
    assert again.history.loss[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["reads_global", "calls_helper", "calls_jitted", "reads_table"])
def test_a_global_that_changes_between_two_runs_counts(name, unchecked):
    names = cell()
    fit = make_fit(names[name], optax.sgd(0.0))
    fit.run(2, progress=False)
    names["scale"], names["table"] = 3.0, np.array([1.0, 3.0, 3.0])
    fit.run(2, progress=False)
    # (2 - 2)² and (3 - 2)², of two elements; the rate is 0.
    np.testing.assert_array_equal(fit.history.loss, [0.0, 0.0, 2.0, 2.0])
    assert fit.best.loss == fit.loss == 2.0
    assert fit.events[-1].text == "what the function reads has changed"
    names["scale"], names["table"] = 4.0, np.array([1.0, 4.0, 3.0])
    # Half the square of one standard error is a gain of 1/2: Hessian 2 · 4².
    np.testing.assert_allclose(fit.fisher().matrix, np.diag([32.0, 32.0]), rtol=1e-12)


def test_what_was_traced_by_hand_before_is_not_taken_for_the_present(unchecked):
    names = cell()
    jax.jit(names["scans"])({"a": jnp.ones(2)}, jnp.asarray(2.0))
    names["scale"] = 3.0
    make_fit(names["scans"]).run(1, progress=False)
    fresh = make_fit(cell(CELL.replace("scale = 2.0", "scale = 3.0"))["scans"])
    fresh.run(1, progress=False)
    assert fresh.history.loss[0] == 2.0


def test_a_function_that_was_shared_and_has_changed_since_serves_nobody(unchecked):
    """The first fit's function is the one that is traced, also later and for the second fit."""
    names = cell()
    first = make_fit(names["reads_global"])
    first.run(1, progress=False)
    names["scale"] = 3.0
    second = make_fit(cell()["reads_global"])
    second.run(1, progress=False)
    assert second.history.loss[0] == 0.0
    np.testing.assert_allclose(second.fisher().matrix, np.diag([8.0, 8.0]), rtol=1e-12)


def test_another_optimiser_of_the_same_shape_shares_nothing():
    def last(optimiser):
        fit = make_fit(lambda params, args: jnp.sum(params["a"] ** 2), optimiser)
        fit.run(1, progress=False)
        return float(fit.params["a"][0])

    assert last(optax.sgd(0.25)) == 0.5
    assert last(optax.sgd(0.125)) == 0.75
    assert last(optax.sgd(lambda step: 0.25)) == 0.5
    assert last(optax.sgd(lambda step: 0.125)) == 0.75


def test_data_captured_by_a_closure_and_static_parts_count():
    def of(data, power):
        def loss(params, args):
            return jnp.sum((params["f"](params["a"]) - data) ** args["power"])

        return fk.Fit(
            loss=loss,
            params={"a": jnp.ones(2), "f": jnp.square if power == 2 else jnp.exp},
            args={"power": power},
            optimiser=optax.sgd(0.1),
        ).loss

    assert of(np.array([0.0, 1.0]), 2) == 1.0
    assert of(np.array([0.0, 3.0]), 2) == 5.0
    assert of(jnp.array([0.0, 0.0]), 2) == 2.0
    assert of(np.array([0.0, 1.0]), 4) == pytest.approx(np.e**4 + (np.e - 1) ** 4)


def test_bounds_and_what_is_done_over_nonfinite_values_count():
    def ending(**more):
        fit = make_fit(lambda params, args: jnp.sum(params["a"]), optax.sgd(1.0), **more)
        fit.run(5, progress=False)
        return float(fit.params["a"][0])

    assert ending() == -4.0
    assert ending(bounds={"a": (-1, None)}) == -1.0
    assert ending(bounds={"a": (-2, None)}) == -2.0


def test_settings_of_jax_count():
    def dtype():
        fit = make_fit(lambda params, args: jnp.sum(params["a"] ** 2))
        return fit.params["a"].dtype

    assert dtype() == np.float64
    with jax.enable_x64(False):
        assert dtype() == np.float32
    assert dtype() == np.float64


# What can change unseen.


class Lens:
    """A class of the user's own."""

    def __init__(self, power):
        self.power = power

    def loss(self, params, args):
        return jnp.sum((self.power * params["a"] - args) ** 2)


class Sky(eqx.Module):
    """One that JAX knows."""

    level: float = eqx.field(static=True)


def private_losses():
    lens, noise, count = Lens(2.0), np.random.default_rng(0), {"traces": 0}

    def of_object(params, args):
        return jnp.sum((lens.power * params["a"] - args) ** 2)

    def random(params, args):
        return jnp.sum((params["a"] - noise.normal()) ** 2)

    def counting(params, args):
        count["traces"] += 1
        return jnp.sum((params["a"] - args) ** 2)

    def large(params, args):
        return jnp.sum((params["a"] - big[0]) ** 2)

    big = np.ones(2_000_000)
    return {
        "object": of_object,
        "bound method": lens.loss,
        "random": random,
        "counting": counting,
        "large array": large,
    }


@pytest.mark.parametrize("name", private_losses())
def test_what_can_change_unseen_is_not_shared_but_restarts(name):
    loss = private_losses()[name]
    one, other = make_fit(loss), make_fit(loss)
    for key in ("traced", "compiled"):
        theirs = [getattr(fit.snapshot.place.program, key) for fit in (one, other)]
        assert theirs[0] is not theirs[1] or key == "compiled"
    one.run(2, progress=False)

    def again():
        one.restart()
        one.run(2, progress=False)
        one.run(2, progress=False)

    assert compiled(again) == 0


def test_an_object_that_was_changed_is_seen_by_the_next_fit():
    lens = Lens(2.0)
    assert make_fit(lens.loss).loss == 0.0
    lens.power = 3.0
    assert make_fit(lens.loss).loss == 2.0


def test_an_object_that_the_body_of_a_loop_reads_is_seen_by_the_next_fit():
    lens = Lens(2.0)

    def body(carry, _):
        return carry * lens.power, None

    def loss(params, args):
        return jnp.sum((jax.lax.scan(body, params["a"], None, 1)[0] - args) ** 2)

    assert make_fit(loss).loss == 0.0
    lens.power = 3.0
    assert make_fit(loss).loss == 2.0


def test_a_static_field_counts():
    def loss(params, args):
        return jnp.sum((params["a"] - args.level) ** 2)

    def of(level):
        return fk.Fit(
            loss=loss, params={"a": jnp.ones(2)}, args=Sky(level), optimiser=optax.sgd(0.1)
        ).loss

    assert (of(1.0), of(2.0)) == (0.0, 2.0)


MODEL = """
import dataclasses, equinox as eqx, jax, jax.numpy as jnp, zodiax as zdx

scale = 2.0

def doubled(x):
    return scale * x

class Base(zdx.Base):
    gain = 1.0

    def times(self, a):
        return scale * a

class Telescope(Base):
    power: float = eqx.field(converter=lambda x: scale * x / 2)
    table: list = eqx.field(default_factory=lambda: [scale])
    slope: jax.Array = eqx.field(default_factory=lambda: jnp.ones(()))

    @property
    def own(self):
        return self.power * scale / 2

    @staticmethod
    def constant():
        return scale

    @classmethod
    def of_class(cls):
        return scale * cls.gain

    @eqx.filter_jit
    def jitted(self, a):
        return scale * a

    def image(self, a):
        return self.times(a)

@dataclasses.dataclass(frozen=True)
class Plain:
    power: float

    def __call__(self, params, args):
        return jnp.sum((scale * params["a"] - args[1]) ** 2)

def loss_of(method):
    def loss(params, args):
        model, data = args
        return jnp.sum((method(model, params["a"]) - data) ** 2)
    return loss

losses = {
    "method": loss_of(lambda model, a: model.image(a)),
    "property": loss_of(lambda model, a: model.own * a),
    "static method": loss_of(lambda model, a: model.constant() * a),
    "class method": loss_of(lambda model, a: model.of_class() * a),
    "jitted method": loss_of(lambda model, a: model.jitted(a)),
    "converter": loss_of(lambda model, a: Telescope(2.0).power * a),
    "default": loss_of(lambda model, a: Telescope(2.0).table[0] * a),
    "object that is called": Plain(2.0),
}
start = Telescope(2.0)
"""


def fit_model(names, name):
    # The data are floats and no integers, as the model's static numbers stay.
    args = (names["start"], jnp.asarray(2.0))
    return fk.Fit(
        loss=names["losses"][name], params={"a": jnp.ones(2)}, args=args, optimiser=optax.adam(0.1)
    )


@pytest.mark.parametrize("name", cell(MODEL)["losses"])
def test_methods_of_a_model_are_shared_and_read_again(name, unchecked):
    names = cell(MODEL)
    first = gone_through(fit_model(names, name))
    assert share(first, fit_model(names, name))
    assert compiled(lambda: gone_through(fit_model(names, name))) == 0
    names["scale"] = 3.0
    again = fit_model(names, name)
    assert not share(first, again)
    # (3 - 2)² of two elements.
    assert again.loss == 2.0


@pytest.mark.parametrize(
    "change",
    [
        lambda names: setattr(names["Telescope"], "image", lambda self, a: 3.0 * a),
        lambda names: setattr(names["Base"], "times", lambda self, a: 3.0 * a),
        lambda names: names.update(start=names["Telescope"](1.5)),
        lambda names: setattr(names["Base"], "gain", 1.5),
        lambda names: names.update(cell(MODEL.replace("scale = 2.0", "scale = 3.0"))),
    ],
    ids=["method", "method of the base", "field", "attribute of the class", "cell"],
)
def test_a_model_that_was_changed_shares_nothing(change, unchecked):
    source = MODEL.replace("return self.times(a)", "return self.times(a) * self.gain * self.power")
    names = cell(source.replace("start = Telescope(2.0)", "start = Telescope(1.0)"))
    first = gone_through(fit_model(names, "method"))
    assert first.history.loss[0] == 0.0
    change(names)
    again = fit_model(names, "method")
    assert not share(first, again)
    expected = names["losses"]["method"]({"a": jnp.ones(2)}, (names["start"], 2.0))
    assert again.loss == pytest.approx(float(expected), rel=1e-12) and again.loss > 0


UNUSUAL = """
import dataclasses, equinox as eqx, jax, jax.numpy as jnp

scale = 2.0

@dataclasses.dataclass(frozen=True)
class OwnInit:
    power: float

    def __init__(self, power):
        object.__setattr__(self, "power", power * scale)

@dataclasses.dataclass(frozen=True)
class Base:
    power: float

class Derived(Base):
    def __init__(self, power):
        super().__init__(power * scale)

@dataclasses.dataclass(frozen=True)
class Listed(list):
    power: float

beside = Base(1.0)
object.__setattr__(beside, "more", 2.0)
listed = Listed(1.0)
listed.append(2.0)

class Lens(eqx.Module):
    slope: jax.Array = eqx.field(default_factory=lambda: jnp.ones(()))

    def times(self, a):
        return scale * a

class Telescope(Lens):
    @eqx.filter_jit
    def above(self, a):
        return super().times(a)

    @eqx.filter_jit
    def within(self, a):
        return self.times(a)

@eqx.filter_jit
def jitted(lens, a):
    return lens.times(a)

def body(carry, _):
    lens, a = carry
    return (lens, lens.times(a)), None

images = {
    "own init": lambda a: OwnInit(1.0).power * a,
    "own init of a derived class": lambda a: Derived(1.0).power * a,
    "beside the fields": lambda a: beside.more * a,
    "elements": lambda a: listed[0] * a,
    "jitted with super": lambda a: Telescope().above(a),
    "jitted method": lambda a: Telescope().within(a),
    "jitted function of a model": lambda a: jitted(Telescope(), a),
    "body of a loop": lambda a: jax.lax.scan(body, (Telescope(), a), None, 1)[0][1],
}

def change():
    global scale
    scale = 3.0
    object.__setattr__(beside, "more", 3.0)
    listed[0] = 3.0
"""


@pytest.mark.parametrize("name", cell(UNUSUAL)["images"])
def test_what_no_field_and_no_name_says_of_an_object_is_seen(name):
    names = cell(UNUSUAL)
    image = names["images"][name]

    def make():
        return make_fit(lambda params, args: jnp.sum((image(params["a"]) - args) ** 2))

    assert gone_through(make()).history.loss[0] == 0.0
    names["change"]()
    # (3 - 2)² of two elements.
    assert make().loss == 2.0


# Changes of one fit.


def test_restart_and_another_optimiser_and_back_compile_nothing(unchecked):
    first, second = optax.sgd(0.1), optax.adam(0.1)
    fit = gone_through(make_fit(cell()["plain"], first))
    fit.change_optimiser(second)
    fit.run(2, progress=False)

    def again():
        fit.restart(params={"a": jnp.array([3.0, 4.0])}, args=jnp.asarray(1.0))
        fit.run(2, progress=False)
        fit.change_optimiser(optax.sgd(0.1))
        gone_through(fit)

    assert compiled(again) == 0


def test_programs_are_kept_in_bounded_number_and_hold_no_data():
    arrays = []

    def use(number):
        data = jnp.full(3, float(number))
        arrays.append(weakref.ref(data))
        make_fit(lambda params, args: jnp.sum(params["a"]) * number + jnp.sum(args), args=data)

    for number in range(40):
        use(number)
    gc.collect()
    assert not any(one() is not None for one in arrays)
    from fitkit._fit import loop

    assert len(loop._TRACED._kept) <= loop._MOST_PROBLEMS


def test_programs_are_forgotten_before_there_is_no_room_for_more(monkeypatch):
    """A running fit goes on, and what was forgotten is compiled again."""

    def make(power):
        return fk.Fit(
            loss=lambda params, args: (params["a"] - 1) ** power,
            params={"a": 0.0},
            optimiser=optax.sgd(1e-3),
        )

    forgotten = []
    clear = jax.clear_caches
    monkeypatch.setattr(jax, "clear_caches", lambda: forgotten.append(clear()))
    running = make(2)
    running.start(10**9)
    make(4).run(3, progress=False)
    assert not forgotten
    monkeypatch.setattr("fitkit._programs.pieces._MOST", 0.0)
    make(6).run(3, progress=False)
    assert forgotten
    running.stop()
    assert running.error is None
    make(4).run(3, progress=False)
