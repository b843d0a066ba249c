// A request as somebody would type it elsewhere: for curl, and for the `openai` package. Byte for byte what this page sends.

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function asCurl(body, { origin, locked }) {
  return [
    `curl -N ${origin}/v1/chat/completions`,
    `-H 'content-type: application/json'`,
    ...(locked ? [`-H "authorization: Bearer $CORD_API_KEY"`] : []),
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}

export function asPython(body, { origin, locked }) {
  const { cord, ...fields } = body;
  const lines = Object.entries(fields).map(([name, value]) => `    ${name}=${literal(value)},`);
  if (cord) lines.push(`    extra_body=${literal({ cord })},`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${locked ? `os.environ["CORD_API_KEY"]` : `os.environ.get("CORD_API_KEY", "none")`})
stream = client.chat.completions.create(
${lines.join("\n")}
)
for chunk in stream:
    for choice in chunk.choices:
        print(getattr(choice.delta, "reasoning_content", None) or choice.delta.content or "", end="", flush=True)
`;
}

// JSON's strings and numbers are Python's too; what differs is written by name.
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, entry]) => `${JSON.stringify(key)}: ${literal(entry)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
