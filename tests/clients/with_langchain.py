"""langchain-openai, as its users write it. Run by the environment it is installed in: URL and key as arguments."""

import json
import sys

from langchain_openai import ChatOpenAI

url, key = sys.argv[1:]
model = ChatOpenAI(model="cord", base_url=url, api_key=key, max_retries=0)
question = [("system", "Be brief."), ("human", "What is 6 × 7?")]
whole = model.invoke(question)
streamed = "".join(str(chunk.content) for chunk in model.stream(question))
print(
    json.dumps(
        {
            "whole": whole.content,
            "streamed": streamed,
            "tokens": whole.usage_metadata["output_tokens"],
        }
    )
)
