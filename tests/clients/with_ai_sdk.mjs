// Vercel's AI SDK, as its users write it: its default model class asks /v1/responses. Arguments: folder, URL, key, and
// the URL of a panel that calls tools.
import { createRequire } from 'node:module'

const [folder, baseURL, apiKey, callingURL] = process.argv.slice(2)
const require = createRequire(`${folder}/`)
const { generateText, streamText, tool } = require('ai')
const { createOpenAI } = require('@ai-sdk/openai')
const { z } = require('zod')

const provider = createOpenAI({ baseURL, apiKey })
const calling = createOpenAI({ baseURL: callingURL, apiKey })
const prompt = 'What is 6 × 7?'
const whole = await generateText({ model: provider('cord'), prompt, maxRetries: 0 })
const streaming = streamText({ model: provider('cord'), prompt, maxRetries: 0 })
let streamed = ''
let reasoning = ''
for await (const part of streaming.fullStream) {
  if (part.type === 'text-delta') streamed += part.text
  if (part.type === 'reasoning-delta') reasoning += part.text
}
const weigh = tool({ description: 'Weigh it.', inputSchema: z.object({ what: z.string().optional() }) })
const called = await generateText({ model: calling('cord'), prompt, tools: { weigh }, maxRetries: 0 })
const calls = called.toolCalls.map((call) => [call.toolName, call.input])
const tokens = whole.usage.outputTokens
console.log(JSON.stringify({ whole: whole.text, thought: whole.reasoningText, streamed, reasoning, calls, tokens }))
