// What the search's own words mean, in plain English.

const FATES = {
  won: "part of the answer's reasoning",
  rank: "dropped: not among the best of its step",
  duplicate: "dropped: another said the same",
  empty: "dropped: it said nothing",
  outranked: "overtaken: another chain won",
  lag: "dropped: what was already sent had chosen another branch",
  straggler: "left behind: too slow for this step",
  speculative: "asked for in advance, under a chain that fell",
  unscored: "dropped: its score did not come in time",
  unfinished: "unfinished: the search ended first",
};

const FAILURES = {
  unreachable: "the teacher could not be reached",
  timeout: "the teacher took too long",
  overloaded: "the teacher was overloaded",
  rate_limited: "the teacher limits its rate",
  context_overflow: "the text was too long for the teacher",
  unknown_model: "the server does not know this model",
  refused: "the teacher refused the request",
  broken: "the teacher's reply was broken",
};

const STOPPED = {
  closed: "a teacher closed the thinking",
  steps: "the limit of steps was reached",
  tokens: "the limit of reasoning tokens was reached",
  deadline: "the deadline passed",
};

export function fateText(candidate) {
  const { fate } = candidate;
  if (fate?.startsWith("failed:")) return `failed: ${FAILURES[fate.slice(7)] ?? fate.slice(7)}`;
  if (fate) return FATES[fate] ?? fate;
  if (candidate.landed_s === null) return candidate.speculative ? "being written in advance" : "being written";
  if (candidate.committed) return "final: every living chain has it";
  return candidate.score ? "in the running" : "waiting for its score";
}

// A word for the picture, where there is no room for a sentence.
export function fateWord(candidate) {
  const { fate } = candidate;
  if (fate?.startsWith("failed:")) return fate.slice(7).replaceAll("_", " ");
  return { straggler: "left behind", rank: "lower rank", speculative: "in advance" }[fate] ?? fate;
}

export const stoppedText = (cause) => STOPPED[cause] ?? cause;

export const isDropped = (candidate) => candidate.fate !== null && candidate.fate !== "won";

export const isLost = (candidate) =>
  candidate.fate === "straggler" || (candidate.fate === "speculative" && candidate.landed_s === null) || !!candidate.fate?.startsWith("failed:");

export const seconds = (value) => (value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(1)} s`);

export const score = (value) =>
  value === null || value === undefined ? "–" : value !== 0 && value < 0.001 ? value.toExponential(1) : value.toFixed(3);

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

// A step's text without the header that the search put before it.
export const stepText = (text) => text.replace(/^\s*#+ Step \d+\.?\s*/, "").trim();
