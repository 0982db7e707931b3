"""CUDA without a GPU: the kernels that TVM makes of a scheduled function (`kernels`), run on the
CPU thread by thread (`simulate`), how they touch memory (`access`), and what they need of a GPU
(`resources`)."""
