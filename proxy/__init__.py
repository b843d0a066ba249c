"""CoRD proxy: several local LLMs write the reasoning together, behind OpenAI's wire format."""

__version__ = "0.1.0"
