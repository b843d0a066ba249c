// A stored trace as the events that it came from, so that one picture draws both. A trace does not say when a step was
// decided or became final: that is when the next step's first call went out, or the step's last score came.

export function eventsOf(trace) {
  const events = [];
  const add = (at_s, type, fields = {}) => events.push({ type, at_s, ...fields });
  const end = trace.duration_s ?? 0;
  add(0, "started", {
    id: trace.id, model: trace.model, time: trace.time, teachers: teachersOf(trace), objective: trace.objective,
    messages: trace.messages, references: trace.references, settings: trace.settings,
  });
  const steps = decisions(trace, end);
  const decidedAt = (depth) => steps[depth - 1]?.at_s ?? end;
  for (const candidate of trace.candidates) addCalls(candidate, end, decidedAt, add);
  for (const step of steps) addDecision(step, add);
  addCommits(trace, steps, add);
  if (trace.winner) {
    const asked = steps.at(-1)?.at_s ?? 0;
    add(asked, "answer_requested", { teacher: trace.winner.answerer });
    add(end, "finished", { ...trace.winner, at_s: end });
  } else {
    const [kind, ...rest] = (trace.error ?? "").split(": ");
    if (trace.outcome === "failed") add(end, "failed", { kind, message: rest.join(": ") });
    else add(end, "cancelled");
  }
  // A stable sort: what was added first comes first where times are equal.
  return events.sort((a, b) => a.at_s - b.at_s);
}

function teachersOf(trace) {
  const named = (trace.teachers ?? []).map((teacher) => teacher.name);
  return [...new Set([...named, ...trace.candidates.map((candidate) => candidate.teacher)])];
}

function addCalls(candidate, end, decidedAt, add) {
  const { id, parent, depth, teacher, asked_s: asked, landed_s: landed, scored_s: scored } = candidate;
  add(asked, "proposal_requested", { id, parent, depth, teacher });
  if (landed === null || landed === undefined) {
    if (candidate.fate.startsWith("failed:")) {
      add(candidate.ended_s ?? asked, "teacher_failed", { id, teacher, kind: candidate.fate.slice(7), message: candidate.error });
    }
    // A call that was made in advance was stopped when its chain fell.
    if (candidate.fate === "speculative") {
      add(Math.max(asked, decidedAt(depth - 1)), "proposal_cancelled", { id, tokens: candidate.completion_tokens });
    }
    return;
  }
  add(landed, "proposed", { ...candidate, at_s: landed });
  if (candidate.score) {
    add(landed, "score_requested", { id });
    add(scored ?? end, "scored", { id, score: candidate.score });
  }
}

function decisions(trace, end) {
  const byDepth = new Map();
  for (const candidate of trace.candidates) {
    if (!byDepth.has(candidate.depth)) byDepth.set(candidate.depth, []);
    byDepth.get(candidate.depth).push(candidate);
  }
  const counts = (candidate) => candidate.fate !== "speculative";
  const parents = new Set(trace.candidates.filter(counts).map((candidate) => candidate.parent));
  const won = new Set(trace.winner?.path ?? []);
  const steps = [];
  for (const [depth, all] of [...byDepth].sort(([a], [b]) => a - b)) {
    const next = byDepth.get(depth + 1);
    const ends = all.filter(counts).map((candidate) => candidate.scored_s ?? candidate.landed_s ?? candidate.asked_s);
    const last = Math.max(0, ...ends);
    const after = next?.map((candidate) => candidate.asked_s).filter((asked) => asked >= last) ?? [];
    const at_s = Math.max(steps.at(-1)?.at_s ?? 0, Math.min(end, after.length ? Math.min(...after) : last));
    const alive = all.filter((candidate) => parents.has(candidate.id) || won.has(candidate.id));
    if (!next?.length && !trace.winner) break; // it ended before this step was decided
    steps.push({ depth, at_s, all, alive });
  }
  return steps;
}

function addDecision({ depth, at_s, all, alive }, add) {
  const living = new Set(alive.map((candidate) => candidate.id));
  for (const { id, teacher, fate, error, landed_s: landed } of all) {
    const hasLanded = landed !== null && landed !== undefined;
    if (fate === "straggler") add(at_s, "teacher_failed", { id, teacher, kind: "straggler", message: error });
    else if (hasLanded && !living.has(id) && fate !== "unfinished") add(Math.max(at_s, landed), "pruned", { id, reason: fate });
  }
  const worth = (candidate) => (candidate.score ? candidate.score.nats / (candidate.score.length || 1) : 0);
  const beam = [...alive].sort((a, b) => worth(b) - worth(a)).map((candidate) => candidate.id);
  add(at_s, "step_decided", { depth, beam, finished: [] });
}

// A step is final once every living chain shares it.
function addCommits(trace, steps, add) {
  const byId = new Map(trace.candidates.map((candidate) => [candidate.id, candidate]));
  const won = trace.winner?.path ?? [];
  let done = 0;
  for (const { depth, at_s, alive } of steps) {
    const beginnings = alive.map((candidate) => pathTo(candidate, byId));
    while (done < won.length && beginnings.length && beginnings.every((path) => path[done] === won[done])) {
      const { id, teacher, text } = byId.get(won[done]);
      add(at_s, "committed", { id, depth: done + 1, teacher, text });
      done += 1;
    }
    if (done > depth) break;
  }
}

function pathTo(candidate, byId) {
  const path = [];
  for (let at = candidate; at; at = byId.get(at.parent)) path.unshift(at.id);
  return path;
}
