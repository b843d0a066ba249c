// What to ask, of whom, and how to search.
import { html, useState } from "./html.js";
import { asCurl, asPython } from "./copy.js";
import { storedKey } from "./client.js";
import { requestBody, SETTINGS } from "./settings.js";

export function Form({ models, running, onRun, onStop }) {
  const [model, setModel] = useState(null);
  const [prompt, setPrompt] = useState("");
  const [reference, setReference] = useState("");
  const [values, setValues] = useState({});
  const chosen = model ?? models[0]?.id ?? "";
  const about = models.find((entry) => entry.id === chosen)?.cord;
  const body = () => requestBody({ model: chosen, prompt, reference, values });
  const submit = (event) => {
    event.preventDefault();
    if (prompt.trim() && chosen) onRun(body());
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) submit(event);
  };
  return html`<form class="ask" onSubmit=${submit} onKeyDown=${onKeyDown}>
    <label>Ask
      <select value=${chosen} onChange=${(event) => setModel(event.target.value)}>
        ${models.map((entry) => html`<option key=${entry.id} value=${entry.id}>${modelName(entry)}</option>`)}
      </select>
    </label>
    <label>Problem
      <textarea rows="5" required value=${prompt} onInput=${(event) => setPrompt(event.target.value)}
        placeholder="What is to be solved?"></textarea>
    </label>
    <label>Reference answer <span class="faint">optional; only the scorer sees it</span>
      <input value=${reference} onInput=${(event) => setReference(event.target.value)} autocomplete="off" />
    </label>
    <details>
      <summary>Settings</summary>
      <div class="settings">
        ${SETTINGS.map((setting) => html`<${Setting} key=${setting.name} setting=${setting} about=${about}
          value=${values[setting.name] ?? ""} onChange=${(value) => setValues((before) => ({ ...before, [setting.name]: value }))} />`)}
      </div>
    </details>
    <div class="buttons">
      ${running ? html`<button type="button" class="primary" onClick=${onStop}>Stop</button>` : html`<button class="primary">Search</button>`}
      <${CopyButton} label="Copy as curl" text=${() => asCurl(body(), target())} />
      <${CopyButton} label="Copy as Python" text=${() => asPython(body(), target())} />
    </div>
  </form>`;
}

const target = () => ({ origin: location.origin, locked: storedKey() !== null });

const modelName = ({ id, cord }) => (cord?.teachers?.length > 1 ? `${id} (${cord.teachers.join(", ")})` : id);

// What the model is configured with. A setting that is not listed is left to what fits the score.
function standardOf(settings, name) {
  if (!settings || name === "seed") return "default";
  return name in settings ? String(settings[name] ?? "none") : "fits the score";
}

function Setting({ setting, value, about, onChange }) {
  const { name, label, kind, choices, help, ...bounds } = setting;
  const placeholder = standardOf(about?.settings, name);
  const input =
    kind === "choice"
      ? html`<select value=${value} onChange=${(event) => onChange(event.target.value)}>
          <option value="">${placeholder === "default" ? placeholder : `default (${placeholder})`}</option>
          ${choices.map((choice) => html`<option key=${choice} value=${choice}>${choice}</option>`)}
        </select>`
      : html`<input type=${kind} value=${value} placeholder=${placeholder} min=${bounds.min} max=${bounds.max} step=${bounds.step}
          onInput=${(event) => onChange(event.target.value)} autocomplete="off" />`;
  return html`<label title=${help}>${label}${input}${help ? html`<span class="faint">${help}</span>` : null}</label>`;
}

export function CopyButton({ label, text }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text());
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" onClick=${copy} aria-live="polite">${done ? "Copied" : label}</button>`;
}
