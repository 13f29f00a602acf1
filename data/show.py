"""`python -m data.show` says where it has gone: it needs recipes, which `data` does not know."""

import sys

if __name__ == "__main__":
    sys.exit("data.show: is now `python -m train.lab.show`, which takes the same arguments")
