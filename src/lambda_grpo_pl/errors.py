"""The one error that is the user's to mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something in the configuration, the data or the environment has to change before this can run.

    Its message names the key, file or row at fault and says what to do. The command line prints it without a traceback.
    Every other exception keeps its traceback, `ValueError` included: it may be a defect of this package, or come from
    the user's own reward hours into a run.
    """
