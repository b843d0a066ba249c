"""The OpenAI wire: HTTP requests to jobs for the service, its events to replies.

The one package that knows status codes. Imports the decoder and the service; never a teacher, a trace or torch.
"""
