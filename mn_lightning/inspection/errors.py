"""The error of the ``inspect`` command."""


class InspectionError(ValueError):
    """What a user has to change before a checkpoint can be inspected, in one line."""
