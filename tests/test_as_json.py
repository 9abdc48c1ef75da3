"""A result as JSON: every number comes back to the bit, and what is no result is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitkit as fk

T = np.linspace(0, 2, 12)


def line():
    data = 2.0 * T + 1.0 + 0.1 * np.sin(40 * T)
    fit = fk.Fit(
        residuals=lambda p, args: (p["line"][0] * T + p["line"][1] + p["still"] - data) / 0.1,
        params={"line": jnp.zeros(2), "still": jnp.float32(0.1)},
        priors={"line": fk.Normal(1.0, 3.0)},
        derived=lambda p: {"sum": p["line"].sum()},
    )
    fit.freeze("still")
    fit.run(progress=False)
    return fit.result(), "still"


def product():
    """Errors are infinite, and there are no degrees of freedom."""
    fit = fk.Fit(
        residuals=lambda params, args: (params["a"] * params["b"] - 2.0).reshape(1),
        params={"a": 1.0, "b": 1.0},
    )
    fit.run(progress=False)
    return fit.result(), "no"


def loss():
    """A loss, with nothing free: no residuals, and arrays without elements."""
    fit = fk.Fit(
        loss=lambda params, args: params["é"] ** 2, params={"é": 1.0}, optimiser=optax.sgd(0.1)
    )
    fit.freeze("*")
    return fit.result(), "é"


@pytest.mark.parametrize("case", [line, product, loss])
def test_every_number_comes_back_to_the_bit(case):
    result, fixed = case()
    text = result.to_json()
    # As the standard has it: without the words NaN and Infinity.
    json.loads(text, parse_constant=lambda word: pytest.fail(word))
    read = fk.Result.from_json(text)
    assert type(read) is fk.Result
    assert read.fixed == result.fixed == ({fixed} - {"no"})
    for field in dataclasses.fields(fk.Result):
        if field.name in ("params", "_by_profile"):
            continue
        before, after = (jax.tree.flatten(_plain(one, field.name)) for one in (result, read))
        assert before[1] == after[1], field.name
        for a, b in zip(before[0], after[0], strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype, field.name
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), field.name
    assert list(read.values) == list(result.values) == list(read.params)
    assert str(read) == str(result)
    assert read.to_json() == text


def _plain(result, name):
    """Read a field, of a record the fields of it."""
    value = getattr(result, name)
    if name in ("fisher", "assessment"):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return sorted(value) if isinstance(value, frozenset) else value


def test_people_and_other_languages_read_it():
    result, _ = line()
    record = json.loads(result.to_json())
    assert (record["format"], record["version"]) == ("fitkit.Result", 1)
    assert record["success"] is True
    assert record["message"] == result.message
    found = record["values"]["line"]
    assert (found["dtype"], found["shape"]) == ("float64", [2])
    assert found["data"] == result.values["line"].tolist()
    infinite = json.loads(product()[0].to_json())
    assert infinite["errors"]["a"]["data"] == ["inf"]


def test_what_was_read_has_no_model():
    read = fk.Result.from_json(line()[0].to_json())
    with pytest.raises(ValueError, match="comes from a file"):
        read.intervals()
    low, high = read.intervals(method="parabola")["line"]
    np.testing.assert_allclose(high - low, 2 * read.errors["line"], rtol=1e-12)


def test_what_is_no_result_is_refused():
    text = line()[0].to_json()
    for other, match in (
        ("{", "the text is no JSON"),
        ("[]", "the JSON is no result"),
        ('{"values": {}}', "the JSON is no result"),
        (text.replace('"version": 1', '"version": 2'), "is of version 2; this fitkit reads vers"),
        (text.replace('"covariance"', '"kovarianz"'), r"damaged \(KeyError\('covariance'\)\)"),
        (text.replace('"kind": "minimum"', '"kind": "best"'), "damaged"),
    ):
        with pytest.raises(ValueError, match=f"Result.from_json: .*{match}"):
            fk.Result.from_json(other)
