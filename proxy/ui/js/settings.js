// The settings the playground offers. What is left empty is not sent: the model is then searched as it is configured.

export const SETTINGS = [
  { name: "strategy", label: "Strategy", kind: "choice", choices: ["beam", "greedy", "curation", "single", "random", "longest"] },
  { name: "score", label: "Score", kind: "text", help: "what ranks the candidates; auto: predictive with a reference" },
  { name: "beam_width", label: "Beam width", kind: "number", min: 1, max: 64, help: "chains that survive a step" },
  { name: "samples", label: "Samples", kind: "number", min: 1, max: 16, help: "proposals per teacher and chain" },
  { name: "max_steps", label: "Steps at most", kind: "number", min: 1, max: 1024 },
  { name: "step_tokens", label: "Tokens a step", kind: "number", min: 1 },
  { name: "answer_tokens", label: "Tokens of the answer", kind: "number", min: 1 },
  { name: "commit_lag", label: "Commit lag", kind: "number", min: 0, max: 1024, help: "a step is final at the latest this many steps back" },
  { name: "quorum", label: "Quorum", kind: "number", min: 0, max: 1, step: "any", help: "share of a step's proposals after which the rest may be left behind" },
  { name: "patience_s", label: "Patience", kind: "number", min: 0, step: "any", help: "seconds the rest is waited for after that" },
  { name: "speculate", label: "Ask in advance", kind: "choice", choices: ["auto", "off"], help: "never changes the result" },
  { name: "deadline_s", label: "Deadline", kind: "number", min: 0.1, step: "any", help: "seconds" },
  { name: "temperature", label: "Temperature", kind: "number", min: 0, max: 2, step: "any", top: true },
  { name: "top_p", label: "Top p", kind: "number", min: 0, max: 1, step: "any", top: true },
  { name: "seed", label: "Seed", kind: "number", min: 0, step: 1, top: true, help: "drawn anew for each run if empty" },
];

const LARGEST_SEED = 2 ** 31;

// The body of the request that a form's values ask for. A seed always goes along, so that what is copied gives the same.
export function requestBody({ model, prompt, reference, values }) {
  const top = {};
  const cord = reference.trim() ? { reference: reference.trim() } : {};
  for (const { name, kind, top: isTop } of SETTINGS) {
    const text = values[name] ?? "";
    if (text !== "") (isTop ? top : cord)[name] = kind === "number" ? Number(text) : text;
  }
  const seed = top.seed ?? Math.floor(Math.random() * LARGEST_SEED);
  return { model, messages: [{ role: "user", content: prompt }], stream: true, ...top, seed, cord };
}
