"""`python -m tvm_practice.report` is `tvm-practice report`."""

from tvm_practice.report import command

command(prog_name="python -m tvm_practice.report")
