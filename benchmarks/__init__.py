"""Benchmarks: ``python -m benchmarks``, or ``./run bench``.

Machines are noisy and differ, so figures are compared within one run: each round measures the library and its yardstick
one after the other, and what is printed is the median of the rounds and of their ratios.
"""
