"""litellm as a client, as its users write it. Run by the environment it is installed in: URL and key as arguments."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

url, key = sys.argv[1:]
asked = {
    "model": "openai/cord",
    "api_base": url,
    "api_key": key,
    "messages": [{"role": "user", "content": "What is 6 × 7?"}],
    "num_retries": 0,
}
whole = litellm.completion(**asked)
pieces = list(litellm.completion(**asked, stream=True, stream_options={"include_usage": True}))
message = whole.choices[0].message
told = {
    "whole": message.content,
    "reasoning": message.reasoning_content,
    "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
    "tokens": whole.usage.completion_tokens,
}
print(json.dumps(told))
