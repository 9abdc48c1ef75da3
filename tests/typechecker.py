"""How annotations are checked while tests run."""

from beartype import BeartypeConf, beartype

# An int goes where a float is wanted, as PEP 484 has it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
