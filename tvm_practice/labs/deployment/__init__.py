"""The processes of the lab on deployment: each loads the same library, with more or less around it.

run_model.cc, runtime_only.py, with_tvm.py and with_torch.py do the same work; the lab compares what
they load and how long they take.
"""
