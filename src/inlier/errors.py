"""The whole exception tree.

InlierError                 everything that the world, not the programmer, did wrong
├── ConfigError             a configuration file or override that cannot be used
├── ManifestError           a data set that cannot be read as one
├── ImageReadError          a photo that cannot be decoded
├── NotFittedError          a detector used before ``fit``
├── ModelError              a MODEL or BACKBONE folder that is damaged, foreign or unsuitable
├── WeightsError            backbone weights that cannot be found or do not fit
├── CollapseError           a training whose embeddings become all alike
├── ReviewError             a decision that a review cannot take, or photos that it does not have
└── MissingExtraError       an optional dependency that is not installed

Wrong arguments raise the built-in ``ValueError`` and ``TypeError``. The command line turns an
``InlierError`` into one sentence and exit status 2.
"""


class InlierError(Exception):
    """Base of every error that a user can cause and mend; its message is one sentence for that user."""


class ConfigError(InlierError):
    """A configuration file or a ``--set`` override cannot be used."""


class ManifestError(InlierError):
    """A data set cannot be read, or lacks what the request needs."""


class ImageReadError(InlierError):
    """A photo cannot be decoded."""


class NotFittedError(InlierError):
    """A detector was asked for a prediction before it was fitted."""


class ModelError(InlierError):
    """A MODEL or BACKBONE folder is damaged, foreign, or not fit for the request."""


class WeightsError(InlierError):
    """Weights of a backbone cannot be found, or do not fit its network."""


class CollapseError(InlierError):
    """Embeddings become all alike in training, so that there is nothing left to learn from it."""


class ReviewError(InlierError):
    """A review has no such photo, cannot take a decision, or its database fails."""


class MissingExtraError(InlierError):
    """An optional dependency is not installed; the message gives the install line."""
