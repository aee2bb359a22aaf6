"""An exact simulator: tabular policies on a small state machine, trained with the package's own objective."""
