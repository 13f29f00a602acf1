"""Python's own standard library: source code with its docstrings, and the language reference's topics."""

from data.corpora.corpus import Corpus

CORPUS = Corpus(
    package=None,  # the Python that runs this
    version="3.12",
    builder_version="1.0.0",
    files="*.py",
    # programs rather than library, tables rather than text, and what differs from one machine to the next
    left_out=(
        "idlelib",
        "lib2to3",
        "ensurepip",
        "encodings",
        "entities.py",
        "__hello__.py",
        "__phello__",
        "_sysconfig*",
    ),
    languages={None: "en"},
    domain="code",
    homepage="https://docs.python.org/3/library/",
    licence="PSF-2.0",
    attribution_required=True,
    attribution=(
        "Python standard library, copyright (c) 2001 Python Software Foundation, all rights reserved, PSF licence 2 "
        "(https://docs.python.org/3/license.html); tests, tables and generated files left out."
    ),
)
