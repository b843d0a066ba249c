// One stored trace: what was asked, the search as a picture to replay, and the raw record.
import { html, useEffect, useMemo, useState } from "./html.js";
import { getTrace } from "./client.js";
import { eventsOf } from "./from_trace.js";
import { CopyButton } from "./form.js";
import { Replay } from "./replay.js";

export function TracePage({ id, unlocked }) {
  const [trace, setTrace] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    setTrace(null);
    setError(null);
    getTrace(id).then(setTrace, (failure) => setError(failure.message));
  }, [id, unlocked]);
  return html`<div class="trace">
    <p class="crumb"><a href="#/traces">All traces</a></p>
    ${error ? html`<p class="error" role="alert">${error}</p>` : null}
    ${trace ? html`<${TraceView} trace=${trace} />` : error ? null : html`<p class="faint">Loading…</p>`}
  </div>`;
}

export function TraceView({ trace }) {
  const events = useMemo(() => eventsOf(trace), [trace]);
  return html`<div>
    <${Heading} trace=${trace} />
    <${Replay} events=${events} />
    <${Raw} trace=${trace} />
  </div>`;
}

function Heading({ trace }) {
  const { settings } = trace;
  return html`<header class="asked">
    <h2>${trace.model} <span class="faint">${new Date(trace.time).toLocaleString()} · ${settings.strategy} · ${trace.objective ?? "no score"}</span></h2>
    ${trace.messages.map((message, i) => html`<div key=${i} class="message">
      <span class="role">${message.role}</span><pre class="model-text">${said(message)}</pre>
    </div>`)}
    ${trace.references.length ? html`<div class="message"><span class="role">reference</span><pre class="model-text">${trace.references.join("\n")}</pre></div>` : null}
  </header>`;
}

// Text as it is; what is not text (tool calls, parts) as JSON.
function said({ content, tool_calls: calls }) {
  const text = typeof content === "string" || content === null ? (content ?? "") : JSON.stringify(content);
  return calls?.length ? `${text}\n${JSON.stringify(calls)}`.trim() : text;
}

function Raw({ trace }) {
  const [open, setOpen] = useState(false);
  const text = () => JSON.stringify(trace, null, 2);
  return html`<details class="raw" onToggle=${(event) => setOpen(event.target.open)}>
    <summary>Raw record</summary>
    ${open ? html`<${CopyButton} label="Copy" text=${text} /><pre class="model-text">${text()}</pre>` : null}
  </details>`;
}
