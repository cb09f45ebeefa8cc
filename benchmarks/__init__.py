"""Speed and memory of the library against other people's tools and against itself.

`make bench` runs all of it, `python -m benchmarks --list` names the rows.
"""
