"""Measurements that anyone can run again; every figure in the README and the docs comes from here."""
