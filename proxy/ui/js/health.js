// Who is up, how fast, and how often right: from `/ready` and `/metrics`.
import { html, useEffect, useState } from "./html.js";
import { getJson, getReadiness, getText } from "./client.js";
import { count, seconds } from "./explain.js";
import { Samples } from "./prometheus.js";
import { Teacher } from "./teachers.js";

const EVERY_MS = 3000;

export function HealthPage({ unlocked }) {
  const [seen, setSeen] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    let gone = false;
    const look = async () => {
      try {
        const [ready, text, searches] = await Promise.all([getReadiness(), getText("/metrics"), getJson("/v1/cord/searches")]);
        if (!gone) setSeen({ ready, samples: new Samples(text), searches: searches.data });
        if (!gone) setError(null);
      } catch (failure) {
        if (!gone && failure.status !== 401) setError(`The server does not answer: ${failure.message}`);
      }
    };
    look();
    const clock = setInterval(() => document.visibilityState === "visible" && look(), EVERY_MS);
    return () => {
      gone = true;
      clearInterval(clock);
    };
  }, [unlocked]);
  return html`<div class="health">
    ${error ? html`<p class="error" role="alert">${error}</p>` : null}
    ${seen ? html`<${Overview} ...${seen} /><${Components} ...${seen} /><${Running} searches=${seen.searches} />` : error ? null : html`<p class="faint">Loading…</p>`}
  </div>`;
}

function Overview({ ready, samples }) {
  const ended = samples.sum("cord_request_duration_seconds_count");
  const finished = samples.sum("cord_request_duration_seconds_count", { outcome: "finished" });
  const took = samples.mean("cord_request_duration_seconds", { outcome: "finished" });
  const first = samples.mean("cord_time_to_first_token_seconds");
  const figures = [
    ["Searches running", samples.sum("cord_requests_in_flight")],
    ["Searches ended", ended ? `${ended}, ${Math.round((100 * finished) / ended)} % ok` : 0],
    ["A search takes", took === null ? "–" : seconds(took)],
    ["First text after", first === null ? "–" : seconds(first)],
    ["Scorer calls", samples.sum("cord_scorer_call_duration_seconds_count")],
    ["A score takes", short(samples.mean("cord_scorer_call_duration_seconds"))],
    ["Wait for the scorer", short(samples.mean("cord_scorer_queue_wait_seconds"))],
    ["Traces not written", samples.sum("cord_trace_write_failures_total")],
  ];
  return html`<section aria-label="Overview">
    <h2><span class=${`state ${ready.status === "ready" ? "finished" : "failed"}`}>${ready.status === "ready" ? "Ready" : "Not ready"}</span></h2>
    <dl class="tiles">${figures.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  </section>`;
}

const short = (value) => (value === null ? "–" : value < 1 ? `${(value * 1000).toFixed(1)} ms` : seconds(value));

function Components({ ready, samples }) {
  const parts = Object.values(ready.components).filter((part) => part.name !== "teachers");
  const teachers = parts.filter((part) => part.name !== "scorer").map((part) => part.name);
  const heads = ["", "State", "Calls", "Failed", "A call takes", "Tokens", "Used", "Steps won"];
  return html`<div class="table"><table>
    <caption>Teachers and scorer</caption>
    <thead><tr>${heads.map((name) => html`<th key=${name} scope="col">${name}</th>`)}</tr></thead>
    <tbody>
      ${parts.map((part) => html`<tr key=${part.name}>
        <th scope="row">${part.name === "scorer" ? "scorer" : html`<${Teacher} teachers=${teachers} name=${part.name} />`}</th>
        <td><span class=${`state ${part.ok ? "finished" : "failed"}`}>${part.ok ? "up" : (part.status ?? "down")}</span>
          ${part.detail ? html`<div class="faint">${part.detail}</div>` : null}</td>
        ${part.name === "scorer" ? html`<td colspan="6"></td>` : figuresOf(samples, part.name).map((value, i) => html`<td key=${i}>${value}</td>`)}
      </tr>`)}
    </tbody>
  </table></div>`;
}

function figuresOf(samples, teacher) {
  const calls = samples.sum("cord_teacher_call_duration_seconds_count", { teacher });
  const ok = samples.sum("cord_teacher_call_duration_seconds_count", { teacher, outcome: "ok" });
  const tokens = samples.sum("cord_generated_tokens_total", { teacher });
  const used = samples.sum("cord_generated_tokens_total", { teacher, fate: "won" });
  const took = samples.mean("cord_teacher_call_duration_seconds", { teacher, outcome: "ok" });
  return [
    calls.toLocaleString("en"),
    calls - ok,
    took === null ? "–" : seconds(took),
    tokens.toLocaleString("en"),
    tokens ? `${Math.round((100 * used) / tokens)} %` : "–",
    samples.sum("cord_step_wins_total", { teacher }),
  ];
}

function Running({ searches }) {
  if (searches.length === 0) return null;
  return html`<div class="table"><table>
    <caption>Latest searches</caption>
    <thead><tr>${["Search", "Model", "State", "For", "Events"].map((name) => html`<th key=${name} scope="col">${name}</th>`)}</tr></thead>
    <tbody>
      ${searches.slice(0, 20).map((one) => html`<tr key=${one.id}>
        <td class="id">${one.running ? one.id : html`<a href=${`#/traces/${one.id}`}>${one.id}</a>`}</td><td>${one.model}</td>
        <td>${one.running ? "running" : "ended"}</td><td>${seconds(one.seconds)}</td><td>${count(one.events, "event")}</td>
      </tr>`)}
    </tbody>
  </table></div>`;
}
