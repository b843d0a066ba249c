// The chain that was sent or won, step by step with who wrote it, and the answer.
import { html } from "./html.js";
import { score, stepText } from "./explain.js";
import { Mark } from "./teachers.js";

export function Chain({ search, selected, onSelect }) {
  const steps = search.committed.map((id) => search.candidates.get(id)).filter(Boolean);
  return html`<section class="chain" aria-label="Reasoning">
    <h3>Reasoning ${search.outcome === "finished" ? "" : html`<span class="faint">so far, final</span>`}</h3>
    ${steps.length === 0 ? html`<p class="faint">No step is final yet.</p>` : null}
    <ol>
      ${steps.map((step) => html`<li key=${step.id} class=${step.id === selected ? "on" : ""}>
        <button class="step" onClick=${() => onSelect(step.id)} aria-pressed=${step.id === selected}>
          <span class="by"><${Mark} teachers=${search.teachers} name=${step.teacher} />${step.teacher}
            <span class="value">${score(search.value(step))}</span></span>
          <span class="model-text">${stepText(step.text)}</span>
        </button>
      </li>`)}
    </ol>
  </section>`;
}

export function Answer({ search }) {
  const by = search.answers.at(-1)?.teacher;
  const text = search.answer.trim();
  if (!text && !by) return null;
  return html`<section class="answer" aria-label="Answer" aria-live="polite">
    <h3>Answer ${by ? html`<span class="by">by <${Mark} teachers=${search.teachers} name=${by} />${by}</span>` : null}</h3>
    <pre class="model-text">${text || "…"}</pre>
  </section>`;
}
