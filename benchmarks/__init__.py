"""How fast, how accurate and how reproducible stableops is beside what people use now.

Run ``python -m benchmarks`` from the root of the repository; ``--help`` lists what else there is.
A case is one entry of a list in ``bench_<family>.py``; a library is one module in ``peers/``.
"""
