"""The errors that `prr` raises on purpose: each says what was expected, what was found, where, and what to do."""


class PrrError(ValueError):
    """Anything that the caller can put right; the command line prints it in one line and exits with 2."""


class DataError(PrrError):
    """A file, a folder, an image or a mask is not what its format promises."""


class LayoutError(DataError):
    """A folder is laid out in another way than a reader's."""


class NetworkError(PrrError):
    """A network, or a pair of networks, can't be compared or swapped."""


class OptionError(PrrError):
    """An unknown profile, override, kind, network, task, start or column."""


class MissingError(PrrError):
    """A result that was to be read from the store, and nothing more, is not there yet."""


class BookError(PrrError):
    """A chapter failed, or the book could not be built."""


class JobError(PrrError):
    """A process that made a result was killed, or a batch does not fit into a CUDA device's memory."""
