"""`debug_nan_check` and `zero_nan_check`, zodiax's pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitkit as fk

BAD = {"star": {"r2": jnp.array([1.0, jnp.nan, jnp.inf])}, "n": jnp.array([3])}


def test_finite_gradients_come_back_as_the_same_object() -> None:
    grads = {"a": jnp.ones(2), "b": 1.0, "c": jnp.arange(3), "d": "text"}
    assert fk.debug_nan_check(grads) is grads


@pytest.mark.parametrize(("infinities", "also"), [(False, False), (True, True)])
def test_the_error_names_the_element(infinities: bool, also: bool) -> None:
    with pytest.raises(fk.NonFiniteError, match=r"'star\.r2\[1\]' is nan") as caught:
        fk.debug_nan_check(BAD, infinities=infinities)
    assert ("1 more" in str(caught.value)) is also
    assert isinstance(caught.value, FloatingPointError)  # what jax_debug_nans raises


def test_under_jit_it_raises_when_run_and_names_the_element() -> None:
    @jax.jit
    def step(grads):
        return jax.tree.map(lambda g: 2 * g, fk.debug_nan_check(grads))

    assert step({"a": jnp.ones(2)})["a"].tolist() == [2.0, 2.0]
    with pytest.raises(Exception, match=r"'a\[0, 1\]' is nan"):
        jax.block_until_ready(step({"a": jnp.array([[1.0, jnp.nan]])}))


def test_under_jit_it_raises_even_where_its_result_is_not_used() -> None:
    @jax.jit
    def step(grads):
        fk.debug_nan_check(grads)
        return 1.0

    with pytest.raises(Exception, match=r"'params\[0\]' is nan"):
        jax.block_until_ready(step(jnp.array([jnp.nan])))


def test_it_can_stand_inside_a_gradient() -> None:
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(fk.debug_nan_check(p) ** 2)))
    assert gradient(jnp.array([3.0])).tolist() == [6.0]


@pytest.mark.parametrize(("infinities", "wanted"), [(False, [1, 0, np.inf]), (True, [1, 0, 0])])
def test_zeros_replace_nan_and_on_request_infinities(infinities: bool, wanted: list) -> None:
    cleaned = fk.zero_nan_check(BAD, infinities=infinities)
    assert cleaned["star"]["r2"].tolist() == wanted
    assert cleaned["n"] is BAD["n"]
    assert np.isnan(BAD["star"]["r2"][1])  # the argument stays as it was


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.complex64])
def test_zeroing_keeps_the_dtype(dtype) -> None:
    assert fk.zero_nan_check(jnp.array([jnp.nan, 1.0], dtype)).dtype == dtype


def test_both_work_while_debug_nans_is_on() -> None:
    grads = {"param": np.nan, "other": 1.0}
    with jax.debug_nans(True):
        assert float(fk.zero_nan_check(grads)["param"]) == 0.0
        assert fk.debug_nan_check({"other": 1.0}) == {"other": 1.0}
