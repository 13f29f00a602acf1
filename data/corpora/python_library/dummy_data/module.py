"""Says café."""


def f():
    return 1
