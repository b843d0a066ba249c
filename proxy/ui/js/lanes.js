// Every call of a search on a time axis: a group a teacher and one for the scorer, calls that overlap in lanes of their own.

export function lanesOf(search, now) {
  const groups = new Map(search.teachers.map((name) => [name, { name, bars: [] }]));
  const scorer = { name: "scorer", bars: [], isScorer: true };
  const group = (name) => {
    if (!groups.has(name)) groups.set(name, { name, bars: [] });
    return groups.get(name);
  };
  for (const candidate of search.candidates.values()) {
    const to = candidate.ended_s ?? now;
    group(candidate.teacher).bars.push({ id: candidate.id, from: candidate.asked_s, to, candidate });
  }
  for (const answer of search.answers) {
    group(answer.teacher).bars.push({ id: null, from: answer.from, to: answer.to ?? now, answer });
  }
  for (const call of search.scoring) scorer.bars.push({ id: call.id, from: call.from, to: call.to ?? now, scoring: true });
  const all = [...groups.values(), ...(scorer.bars.length ? [scorer] : [])];
  let first = 0;
  for (const entry of all) {
    entry.first = first;
    entry.lanes = pack(entry.bars);
    first += Math.max(1, entry.lanes);
  }
  return { groups: all, lanes: first };
}

// First fit: the lowest lane that is free when a call begins.
function pack(bars) {
  const free = [];
  bars.sort((a, b) => a.from - b.from);
  for (const bar of bars) {
    let lane = free.findIndex((until) => until <= bar.from);
    if (lane < 0) lane = free.length;
    free[lane] = Math.max(bar.to, bar.from + 1e-6);
    bar.lane = lane;
  }
  return free.length;
}
