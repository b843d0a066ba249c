"""What the scoring service and the embedded server share: the one layer below both.

Checkpoints, the prefix cache, sampling, stop texts, thinking markup, and the small parts of a
service process. A leaf: it imports nothing else of this project. Importing the package loads no
torch; only `checkpoints`, `prefix_cache` and `sampling` need it.
"""
