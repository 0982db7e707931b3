"""`python -m tvm_practice.doctor`."""

from tvm_practice.doctor import command

command(prog_name="python -m tvm_practice.doctor")
