// One candidate in words: who wrote it, what it says, what it scored and why it lived or fell.
import { html } from "./html.js";
import { count, fateText, score, seconds, stepText } from "./explain.js";
import { Teacher } from "./teachers.js";

export function Details({ search, id, onClose }) {
  const candidate = search.candidates.get(id);
  return html`<article class="details" id="chosen" aria-live="polite">
    <header>
      <h3>Step ${candidate.depth} by <${Teacher} teachers=${search.teachers} name=${candidate.teacher} /></h3>
      <button class="quiet" onClick=${onClose} aria-label="Close the details">✕</button>
    </header>
    <p class="fate">${fateText(candidate)}${candidate.reason ? html` <span class="faint">(${candidate.reason})</span>` : null}</p>
    <pre class="model-text">${stepText(candidate.text) || "…"}</pre>
    <dl>${rowsOf(search, candidate).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    <${Parts} judged=${candidate.score} />
  </article>`;
}

function rowsOf(search, candidate) {
  const rows = [["Score", score(search.value(candidate))]];
  if (candidate.score) rows.push(["Judged by", `${candidate.score.objective}, ${candidate.score.nats?.toFixed(2)} nats`]);
  if (candidate.tokens) rows.push(["Length", count(candidate.tokens, "token")]);
  if (candidate.landed_s !== null) rows.push(["Written in", seconds(candidate.landed_s - candidate.asked_s)]);
  if (candidate.scored_s !== null) rows.push(["Scored after", seconds(candidate.scored_s - candidate.landed_s)]);
  rows.push(["Asked at", seconds(candidate.asked_s)]);
  if (candidate.ended === "closed" || candidate.ended === "eos") rows.push(["Ends", "the thinking"]);
  if (candidate.ended === "length") rows.push(["Ends", "cut: out of tokens"]);
  return rows;
}

// What each model of the scorer made of it, and the other scores of a blend. Older traces use other names for these.
function Parts({ judged }) {
  if (!judged) return null;
  const parts = judged.per_model ?? judged.parts ?? [];
  const others = judged.blended ?? judged.beside ?? [];
  if (parts.length + others.length === 0) return null;
  const rows = [
    ...parts.map((part) => [part.model, part.nats, part.tokens]),
    ...others.map((other) => [`+ ${other.objective}`, other.nats, other.length]),
  ];
  return html`<table class="parts">
    <caption>What the score is made of</caption>
    <thead><tr><th scope="col">Judge</th><th scope="col">Nats</th><th scope="col">Tokens</th><th scope="col">Score</th></tr></thead>
    <tbody>
      ${rows.map(([name, nats, tokens]) => html`<tr>
        <th scope="row">${name}</th><td>${nats?.toFixed(2)}</td><td>${Math.round(tokens)}</td>
        <td>${score(tokens ? Math.exp(nats / tokens) : null)}</td>
      </tr>`)}
    </tbody>
  </table>`;
}
