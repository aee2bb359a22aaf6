"""A reward that always fails, in a module that workers import quickly."""


def always_raises(completion: str, example: object) -> float:
    raise KeyError("no such column")
