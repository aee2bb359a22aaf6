"""The length-preference lab: what each weighting of response lengths does, on problems whose lengths are controlled."""
