"""Arrays and plain values in a file that is whole or not there."""

from fitkit._checkpoint.file import CheckpointError as CheckpointError
from fitkit._checkpoint.file import read as read
from fitkit._checkpoint.file import write as write
from fitkit._checkpoint.replace_file import hidden_prefix as hidden_prefix
from fitkit._checkpoint.replace_file import resolve as resolve
from fitkit._checkpoint.tree_arrays import difference as difference
from fitkit._checkpoint.tree_arrays import fingerprint as fingerprint
from fitkit._checkpoint.tree_arrays import flatten as flatten
from fitkit._checkpoint.tree_arrays import restore as restore
