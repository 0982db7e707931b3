"""`python -m tvm_practice.labs.data`: see measure.py."""

import sys

from tvm_practice.labs.data.measure import main

if __name__ == "__main__":
    sys.exit(main())
