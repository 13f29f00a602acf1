# made by hand
topics = {
    "with": r"""The "with" statement
********

It wraps.
""",
    "yield": 'The "yield"\n',
}
