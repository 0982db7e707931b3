"""`python -m tvm_practice`: the command `tvm-practice`, where it is not on the path."""

import sys

from tvm_practice.commands import main

sys.exit(main())
