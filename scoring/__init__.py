"""The meta-prover: scores reasoning steps by how predictable they make an answer, or how likely
they are themselves.

A leaf that others can take out and use alone: `scoring.engine` in a process, `python -m scoring
serve` as a service, `scoring.client` to reach it. Importing this loads no torch.
"""
