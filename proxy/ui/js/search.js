// One search as the events of `cord.events/1` tell it (docs/live.md): a fold, nothing else. Unknown events are ignored.

const ENDS = { finished: "finished", failed: "failed", cancelled: "cancelled" };

export class Search {
  constructor() {
    this.id = null;
    this.started = null;
    this.candidates = new Map();
    this.depths = []; // [depth - 1] = { ids, beam, finished, decidedAt }
    this.committed = [];
    this.twins = new Map(); // a dropped candidate to the one that says the same
    this.answers = []; // { teacher, from, to, kind }
    this.scoring = []; // { id, from, to }
    this.beingScored = new Map();
    this.answer = "";
    this.outcome = null;
    this.result = null;
    this.error = null;
    this.skipped = 0;
    this.at = 0;
    this.count = 0;
  }

  static upTo(events, count, from = null) {
    const search = from && from.count <= count ? from : new Search();
    while (search.count < count) search.apply(events[search.count]);
    return search;
  }

  get teachers() {
    return this.started ? this.started.teachers : [];
  }

  get running() {
    return this.started !== null && this.outcome === null;
  }

  get alpha() {
    return this.started?.settings?.length_penalty ?? 1;
  }

  apply(event) {
    this.count += 1;
    this.at = Math.max(this.at, event.at_s ?? 0);
    const handler = HANDLERS[event.type];
    if (handler) handler(this, event);
    else if (ENDS[event.type]) this.end(event);
  }

  end(event) {
    this.outcome = ENDS[event.type];
    if (event.type === "finished") {
      this.result = event;
      this.answer = event.answer ?? this.answer;
      for (const id of event.path ?? []) this.set(id, { fate: "won" });
      this.committed = [...(event.path ?? [])];
    } else if (event.type === "failed") {
      this.error = `${event.kind}: ${event.message}`;
    }
    for (const answer of this.answers) answer.to ??= this.at;
    for (const call of this.scoring) call.to ??= this.at;
    for (const candidate of this.candidates.values()) {
      candidate.ended_s ??= this.at;
      candidate.fate ??= candidate.landed_s === null || this.outcome !== "finished" ? "unfinished" : "outranked";
    }
  }

  set(id, change) {
    const candidate = this.candidates.get(id);
    if (candidate) Object.assign(candidate, change);
    return candidate;
  }

  depth(number) {
    while (this.depths.length < number) this.depths.push({ ids: [], beam: null, finished: [], decidedAt: null });
    return this.depths[number - 1];
  }

  endScoring(id, now) {
    const call = this.beingScored.get(id);
    if (call) call.to = now;
    this.beingScored.delete(id);
  }

  // Whether a step is asked for before the one it builds on is decided.
  isAhead(depth) {
    return depth > 1 && (this.depths[depth - 2]?.decidedAt ?? null) === null;
  }

  path(id) {
    const ids = [];
    for (let at = this.candidates.get(id); at; at = this.candidates.get(at.parent)) ids.unshift(at.id);
    return ids;
  }

  // exp(nats / length^α), as the reply tells a step's value; null where nothing was scored.
  value(candidate) {
    const score = candidate?.score;
    if (!score || score.nats === null || score.nats === undefined || !score.length) return null;
    return Math.exp(score.nats / score.length ** this.alpha);
  }
}

const HANDLERS = {
  started(search, event) {
    search.id = event.id;
    search.started = event;
  },
  proposal_requested(search, event) {
    search.candidates.set(event.id, {
      id: event.id, parent: search.twins.get(event.parent) ?? event.parent, depth: event.depth, teacher: event.teacher, speculative: search.isAhead(event.depth),
      text: "", ended: null, tokens: 0, score: null, fate: null, reason: null, committed: false,
      asked_s: event.at_s, landed_s: null, scored_s: null, ended_s: null,
    });
    search.depth(event.depth).ids.push(event.id);
  },
  teacher_skipped(search) {
    search.skipped += 1;
  },
  proposed(search, event) {
    const { text, ended, completion_tokens: tokens, at_s: now } = event;
    search.set(event.id, { text, ended, tokens, landed_s: now, ended_s: now });
  },
  teacher_failed(search, event) {
    const fate = event.kind === "straggler" ? "straggler" : `failed:${event.kind}`;
    if (event.id !== null) search.set(event.id, { fate, reason: event.message, ended_s: event.at_s });
    else for (const answer of search.answers) if (answer.to === null) Object.assign(answer, { to: event.at_s, kind: event.kind });
  },
  proposal_cancelled(search, event) {
    search.set(event.id, { fate: "speculative", tokens: event.tokens ?? 0, ended_s: event.at_s });
  },
  score_requested(search, event) {
    const call = { id: event.id, from: event.at_s, to: null };
    search.scoring.push(call);
    search.beingScored.set(event.id, call);
  },
  scored(search, event) {
    search.set(event.id, { score: event.score, scored_s: event.at_s });
    search.endScoring(event.id, event.at_s);
  },
  pruned(search, event) {
    search.set(event.id, { fate: event.reason });
    search.endScoring(event.id, event.at_s);
    if (event.kept === null || event.kept === undefined) return;
    // It was written twice: what stands under it stands under the one that is kept.
    search.twins.set(event.id, event.kept);
    for (const candidate of search.candidates.values()) if (candidate.parent === event.id) candidate.parent = event.kept;
  },
  step_decided(search, event) {
    const depth = search.depth(event.depth);
    depth.beam = event.beam;
    depth.finished = event.finished;
    depth.decidedAt = event.at_s;
  },
  committed(search, event) {
    search.committed.push(event.id);
    search.set(event.id, { committed: true });
  },
  answer_requested(search, event) {
    search.answer = "";
    search.answers.push({ teacher: event.teacher, from: event.at_s, to: null, kind: null });
  },
  answer_delta(search, event) {
    search.answer += event.text;
  },
};
