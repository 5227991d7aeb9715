"""The error of the ``inspect`` command."""


class InspectionError(ValueError):
    """A line that says what a user has to change before the checkpoint can be inspected."""
