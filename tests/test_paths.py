import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
import zodiax as zdx

from fitkit._paths import (
    UnknownPathError,
    common_dtype,
    match_paths,
    named_elements,
    named_leaves,
    ravel,
)

PATHS = ("star.flux", "star.r2", "wfe.0", "wfe.1", "bg")


class Star(zdx.base.Base):
    flux: jax.Array
    spots: list


def test_paths_are_those_zodiax_understands():
    star = Star(jnp.array(1.0), [jnp.zeros(2), {"size": jnp.ones((1, 2))}])
    leaves = named_leaves(star)
    assert list(leaves) == ["flux", "spots.0", "spots.1.size"]
    for path, leaf in leaves.items():
        assert star.get(path) is not None
        assert (star.get(path) == leaf).all()


def test_elements_come_in_the_order_of_ravel_pytree():
    tree = {"b": jnp.arange(4.0).reshape(2, 2), "a": jnp.array(7.0)}
    names = named_elements(tree)
    assert names == ("a", "b[0, 0]", "b[0, 1]", "b[1, 0]", "b[1, 1]")
    flat, _ = jax.flatten_util.ravel_pytree(tree)
    assert flat[names.index("b[1, 0]")] == tree["b"][1, 0]


def test_bare_array_has_a_name():
    assert list(named_leaves(jnp.ones(3))) == ["params"]


def test_equinox_modules_have_paths():
    linear = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    assert list(named_leaves(linear)) == ["weight", "bias"]


def test_ambiguous_paths_are_refused():
    with pytest.raises(ValueError, match=r"share the path 'a\.b'"):
        named_leaves({"a.b": 1.0, "a": {"b": 2.0}})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("bg", ("bg",)),
        ("star", ("star.flux", "star.r2")),
        ("wfe.*", ("wfe.0", "wfe.1")),
        ("*.flux", ("star.flux",)),
        (("bg", "star.flux"), ("star.flux", "bg")),
        (["bg", ("wfe",)], ("wfe.0", "wfe.1", "bg")),
    ],
)
def test_patterns(pattern, expected):
    assert match_paths(pattern, PATHS, "freeze") == expected


def test_a_literal_path_beats_a_glob():
    assert match_paths("a[b]", ("a[b]", "ab"), "freeze") == ("a[b]",)


def test_unknown_path_lists_the_nearest():
    with pytest.raises(UnknownPathError, match=r"freeze: no parameter 'star\.fluxx'.*'star\.flux'"):
        match_paths("star.fluxx", PATHS, "freeze")
    with pytest.raises(KeyError, match=r"The parameters are 'star\.flux'"):
        match_paths("zzz", PATHS, "freeze")


def test_a_tree_of_several_dtypes_makes_one_vector_under_strict_promotion():
    tree = {"a": jnp.float32(1.5), "b": [jnp.array([2.0, 3.0]), jnp.ones((1, 2), jnp.float32)]}
    with jax.numpy_dtype_promotion("strict"):
        flat, unravel = ravel(tree)
        back = unravel(flat + 1)
        assert common_dtype(*jax.tree.leaves(tree)) == flat.dtype == jnp.float64
    assert flat.tolist() == [1.5, 2.0, 3.0, 1.0, 1.0]
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, (tree, back))
    assert dtypes[0] == dtypes[1]
    assert back["a"] == 2.5
