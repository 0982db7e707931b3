"""The labs: lessons like the five phases, each about one operator or tool.

Start one as `python -m tvm_practice.labs.conv1d`; `python -m tvm_practice.main --labs` runs all of
them after the phases.
"""
