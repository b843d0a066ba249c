// A search as a whole: how it stands, its tree, its calls, a chosen candidate, and what came of it. Live, stored or replayed.
import { html, useState } from "./html.js";
import { Answer, Chain } from "./chain.js";
import { Details } from "./details.js";
import { count, isDropped, isLost, score, seconds, stoppedText } from "./explain.js";
import { Picture } from "./picture.js";
import { Teacher } from "./teachers.js";
import { Timeline } from "./timeline.js";

export function Stage({ search, now, until, follow = false, children }) {
  const [selected, setSelected] = useState(null);
  const chosen = search.candidates.has(selected) ? selected : null;
  return html`<div class="stage">
    <${Standing} search=${search} now=${now}>${children}<//>
    <${Legend} search=${search} />
    <div class=${chosen === null ? "split" : "split open"}>
      <div class="drawn">
        <${Picture} search=${search} selected=${chosen} onSelect=${setSelected} follow=${follow} />
        <p class="faint">${chosen === null ? "Choose a candidate to read it: click, or Tab to the picture and use the arrow keys." : "Escape closes the details."}</p>
        <h3 class="over">Calls <span class="faint">solid: in the answer · pale: dropped · outlined: lost</span></h3>
        <${Timeline} search=${search} now=${now} until=${until} selected=${chosen} onSelect=${setSelected} />
      </div>
      ${chosen === null ? null : html`<aside aria-label="Chosen candidate"><${Details} search=${search} id=${chosen} onClose=${() => setSelected(null)} /></aside>`}
    </div>
    <div class="outcome">
      <${Chain} search=${search} selected=${chosen} onSelect=${setSelected} />
      <${Answer} search=${search} />
    </div>
  </div>`;
}

function Standing({ search, now, children }) {
  return html`<div class="standing">
    <p role="status" class=${`state ${search.outcome ?? "running"}`}>${standingText(search)}</p>
    <p class="figures">${figures(search, now).map((text) => html`<span key=${text.replace(/[\d.,]+/g, "")}>${text}</span>`)}</p>
    <div class="actions">${children}</div>
  </div>`;
}

function standingText(search) {
  if (!search.started) return "Waiting for the search to begin";
  const depth = search.depths.length;
  switch (search.outcome) {
    case "finished":
      return `Finished: ${stoppedText(search.result.stopped)}`;
    case "failed":
      return `Failed: ${search.error}`;
    case "cancelled":
      return "Cancelled";
  }
  return search.answers.length ? "Writing the answer" : `Searching step ${depth || 1}`;
}

function figures(search, now) {
  const all = [...search.candidates.values()];
  const lost = all.filter(isLost).length;
  const tokens = all.reduce((sum, candidate) => sum + candidate.tokens, 0);
  const ahead = all.filter((one) => one.fate === "speculative").length;
  const wasted = all.filter((one) => isDropped(one) && !isLost(one)).reduce((sum, one) => sum + one.tokens, 0);
  const last = search.candidates.get(search.committed.at(-1));
  const value = search.result?.value !== undefined && search.result?.value !== null ? Math.exp(search.result.value) : search.value(last);
  return [
    seconds(now),
    count(search.committed.length, "final step"),
    count(all.length, "candidate"),
    tokens ? `${count(tokens, "token")}, ${Math.round((100 * wasted) / tokens)} % dropped` : null,
    ahead ? `${ahead} in advance for nothing` : null,
    lost - aheadLost(all) ? `${lost - aheadLost(all)} lost` : null,
    search.skipped ? `${search.skipped} skipped` : null,
    value !== null && value !== undefined && search.committed.length ? `score ${score(value)}` : null,
  ].filter(Boolean);
}

const aheadLost = (all) => all.filter((one) => one.fate === "speculative" && one.landed_s === null).length;

function Legend({ search }) {
  const won = new Map();
  for (const id of search.committed) {
    const teacher = search.candidates.get(id)?.teacher;
    won.set(teacher, (won.get(teacher) ?? 0) + 1);
  }
  return html`<ul class="legend" aria-label="Teachers">
    ${search.teachers.map((name) => html`<li key=${name}>
      <${Teacher} teachers=${search.teachers} name=${name} />
      <span class="faint">${count(won.get(name) ?? 0, "step")}</span>
    </li>`)}
  </ul>`;
}
