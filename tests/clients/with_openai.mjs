// openai-node, as its users write it. Arguments: the folder that has it, URL, key.
import { createRequire } from 'node:module'

const [folder, baseURL, apiKey] = process.argv.slice(2)
const OpenAI = createRequire(`${folder}/`)('openai')
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 })
const asked = { model: 'cord', messages: [{ role: 'user', content: 'What is 6 × 7?' }] }

const whole = await client.chat.completions.create(asked)
const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } })
let reasoning = ''
for await (const chunk of stream) reasoning += chunk.choices[0]?.delta?.reasoning_content ?? ''
const streamed = await stream.finalContent()
const usage = await stream.totalUsage()
let refused
try {
  await client.chat.completions.create({ ...asked, model: 'nobody' })
} catch (error) {
  refused = [error.constructor.name, error.code, error.param]
}
const models = (await client.models.list()).data.map((model) => model.id)
const told = { whole: whole.choices[0].message.content, streamed, reasoning, tokens: usage.completion_tokens, refused, models }
console.log(JSON.stringify(told))
