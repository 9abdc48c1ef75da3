"""Arrays that are stretches of vectors: cut out where one is wanted, joined where many are."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from fitkit._jaxprs import Constant

#: Up to so many stretches are cut out and joined; beyond, one gather is cheaper.
_FEW = 8

#: To copy so many elements takes no longer than to cut out one stretch, 0.1 µs.
_COPIED = 200


class Place(NamedTuple):
    """Where the elements of an array are: a stretch of a vector."""

    source: int
    start: int
    size: int


class Stretches:
    """The vectors of a computation, by the numbers of their sources."""

    def __init__(self) -> None:
        self._vectors: dict[int, Array] = {}
        # The sources that are stretches of another one's vector.
        self._within: dict[int, Place] = {}
        self._sizes: dict[int, list[int]] = {}
        self._cut: dict[int, dict[Place, Array]] = {}

    def define(self, source: int, value: Array) -> None:
        """Say what the array of a source is."""
        self._vectors[source] = value

    def define_parts(self, sources: Sequence[int], sizes: Sequence[int], vector: Array) -> None:
        """Say that some sources are side by side in one vector."""
        whole = sources[0]
        self._vectors[whole], self._sizes[whole] = vector, list(sizes)
        for source, start, size in zip(sources, _starts(sizes), sizes, strict=True):
            self._within[source] = Place(whole, start, size)

    def array(self, place: Place, shape: tuple[int, ...]) -> Array:
        """Return one array, a single element repeated to its shape."""
        place = self._found(place)
        flat = self._stretch(place)
        if flat.shape == shape:
            return flat
        if place.size == 1:
            return lax.broadcast(lax.reshape(flat, ()), shape)
        return lax.reshape(flat, shape)

    def vector(self, places: Sequence[Place | Constant], sizes: Sequence[int]) -> Array:
        """Return the elements of many arrays side by side, single ones repeated to their sizes."""
        if all(isinstance(place, Constant) for place in places):
            return _constants([place.value for place in places], sizes)  # pyright: ignore
        found = [p if isinstance(p, Constant) else self._found(p) for p in places]
        runs = [
            list(run)
            for _, run in itertools.groupby(
                zip(found, sizes, strict=True), key=lambda pair: getattr(pair[0], "source", None)
            )
        ]
        if len(runs) > _FEW and (mixed := self._mixed(found, sizes)) is not None:
            return mixed
        parts = [self._run([p for p, _ in run], [size for _, size in run]) for run in runs]
        return parts[0] if len(parts) == 1 else lax.concatenate(parts, 0)

    def _mixed(self, places: Sequence[Place | Constant], sizes: Sequence[int]) -> Array | None:
        """Return stretches of a few vectors in turn, by one gather from all of these."""
        own = [place for place in places if isinstance(place, Place)]
        wholes = {place.source: self._vectors[place.source].ravel() for place in own}
        counts = [whole.size for whole in wholes.values()]
        if len(own) < len(places) or len(wholes) > _FEW or sum(counts) > _COPIED * len(sizes):
            return None
        firsts = dict(zip(wholes, _starts(counts), strict=True))
        indices = [
            firsts[place.source] + _indices(place, size)
            for place, size in zip(own, sizes, strict=True)
        ]
        whole = lax.concatenate(list(wholes.values()), 0)
        return whole.at[np.concatenate(indices)].get(mode="promise_in_bounds")

    def _found(self, place: Place) -> Place:
        within = self._within.get(place.source)
        if within is None:
            return place
        return Place(within.source, within.start + place.start, place.size)

    def _stretch(self, place: Place) -> Array:
        whole = self._vectors[place.source]
        if whole.size == place.size:
            return whole
        if place.source not in self._cut:
            # Of all at once, for each a slice would be a kernel of its own.
            sizes = self._sizes.get(place.source, [])
            places = [Place(place.source, *one) for one in zip(_starts(sizes), sizes, strict=True)]
            pieces = lax.split(whole, sizes) if sizes else []
            self._cut[place.source] = dict(zip(places, pieces, strict=True))
        piece = self._cut[place.source].get(place)
        if piece is None:
            piece = lax.slice(whole.ravel(), (place.start,), (place.start + place.size,))
        return piece

    def _run(self, places: Sequence, sizes: Sequence[int]) -> Array:
        """Return stretches of one vector, or constants, side by side."""
        if isinstance(places[0], Constant):
            return _constants([place.value for place in places], sizes)
        if len(set(places)) == 1 and places[0].size == 1:
            return lax.broadcast(self.array(places[0], ()), (sum(sizes),))
        whole = self._vectors[places[0].source].ravel()
        indices = np.concatenate([_indices(*one) for one in zip(places, sizes, strict=True)])
        if np.array_equal(indices, np.arange(whole.size)):
            return whole
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        if len(breaks) < _FEW:
            runs = np.split(indices, breaks)
            parts = [lax.slice(whole, (int(r[0]),), (int(r[-1]) + 1,)) for r in runs]
            return parts[0] if len(parts) == 1 else lax.concatenate(parts, 0)
        return whole.at[indices].get(mode="promise_in_bounds")


def _indices(place: Place, size: int) -> np.ndarray:
    """Return where the elements of a stretch are, or its single one so many times."""
    if place.size != size:
        return np.full(size, place.start)
    return np.arange(place.start, place.start + place.size)


def _constants(values: Sequence[np.ndarray], sizes: Sequence[int]) -> Array:
    if len({value.tobytes() for value in values}) == 1:
        return lax.broadcast(jnp.asarray(values[0]), (sum(sizes),))
    return jnp.asarray(np.repeat(np.stack(values), sizes))


def _starts(sizes: Sequence[int]) -> list[int]:
    return np.cumsum([0, *sizes])[:-1].tolist()
