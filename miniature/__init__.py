"""A miniature panel: three teachers and a meta-prover trained from scratch on a synthetic task.

Real networks that ship with the project, so that the whole method can run and be measured on two
CPU cores. Nothing here is imported by the proxy; it meets these models as any other checkpoint.
"""
