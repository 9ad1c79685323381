"""What can go wrong, as exceptions whose text is one complete sentence: what, where, found, expected, what to do.

The classes follow the statuses of kd's C library, so a script may tell them apart as it tells exit codes apart.
"""


class Error(Exception):
    """The base of all of them."""

    def within(self, where):
        """The same error with "where: " before its text."""
        self.args = (f"{where}: {self.args[0]}",)
        return self


class Damaged(Error):
    """Bytes are not what was written: a checksum, a size or a field is wrong."""


class Mismatch(Error):
    """Whole things that do not fit together: another format version, contract, store or chunk."""


class Usage(Error, ValueError):
    """An argument that cannot be meant."""


class NotFound(Error, LookupError):
    """No such store, column, segment or chunk."""


class Exists(Error):
    """Something finished or unfinished is in the way."""


class Unsupported(Error):
    """This version does not know an encoding or a filter, or a column has no such form."""


class Numeric(Error, ValueError):
    """A value is not a finite number where one is needed."""


class Limit(Error):
    """Over a limit of the format."""


class Full(Error, OSError):
    """The disk is full; what was committed is safe."""
