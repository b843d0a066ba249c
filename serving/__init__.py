"""An OpenAI-compatible completions server for one local transformers model: the embedded teacher.

A leaf: `python -m serving FOLDER`. Any checkpoint that transformers loads is served the same way, a
tiny one as well as a real one. Importing this loads no torch.
"""
