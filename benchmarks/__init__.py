"""Speed and memory of the library against other people's tools and against itself: `make bench`, `python -m benchmarks --list`."""
