"""The search itself: pure policy over frozen values, and the one place where it awaits.

Knows no HTTP, no torch, no wire format and no chat template; teachers and scorer reach it through `ports`.
"""
