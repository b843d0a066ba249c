// The list of stored traces, with filters that live in the address, so that a view can be kept or sent.
import { html, useEffect, useState } from "./html.js";
import { getJson } from "./client.js";
import { score, seconds } from "./explain.js";
import { Teacher } from "./teachers.js";

const FILTERS = [
  { name: "text", label: "Text", type: "search" },
  { name: "model", label: "Model" },
  { name: "teacher", label: "Teacher" },
  { name: "outcome", label: "Outcome", choices: ["finished", "failed", "cancelled"] },
  { name: "source", label: "Source", choices: ["reference", "consensus", "none"] },
  { name: "min_value", label: "Score from", type: "number" },
  { name: "max_value", label: "Score to", type: "number" },
  { name: "since", label: "Since", type: "date" },
  { name: "until", label: "Until", type: "date" },
];

export function TracesPage({ query, unlocked }) {
  const filters = new URLSearchParams(query);
  const [pages, setPages] = useState([]);
  const [state, setState] = useState("loading");
  const load = async (before) => {
    setState("loading");
    try {
      const asked = new URLSearchParams(filters);
      if (asked.has("until")) asked.set("until", `${asked.get("until")}T23:59:59`);
      const cursor = before.at(-1)?.next;
      if (cursor) asked.set("cursor", cursor);
      const page = await getJson(`/v1/cord/traces?${asked}`);
      setPages([...before, page]);
      setState("done");
    } catch (error) {
      setState(error.message);
    }
  };
  useEffect(() => {
    setPages([]);
    load([]);
  }, [query, unlocked]);
  const entries = pages.flatMap((page) => page.data);
  const more = pages.at(-1)?.next;
  return html`<div class="traces">
    <${Filters} filters=${filters} />
    ${state !== "done" && state !== "loading" ? html`<p class="error" role="alert">${state}</p>` : null}
    <${Table} entries=${entries} />
    <p class="faint" role="status">
      ${state === "loading" ? "Loading…" : entries.length === 0 ? "No trace matches." : `${entries.length} shown${more ? "" : ", that is all"}.`}
    </p>
    ${more ? html`<button onClick=${() => load(pages)} disabled=${state === "loading"}>Show more</button>` : null}
  </div>`;
}

function Filters({ filters }) {
  const apply = (event) => {
    event.preventDefault();
    const asked = new URLSearchParams([...new FormData(event.currentTarget)].filter(([, value]) => value));
    location.hash = `#/traces?${asked}`;
  };
  return html`<form class="filters" role="search" onSubmit=${apply}>
    ${FILTERS.map(({ name, label, type = "text", choices }) => html`<label key=${name}>${label}
      ${choices
        ? html`<select name=${name} value=${filters.get(name) ?? ""}>
            <option value="">any</option>${choices.map((choice) => html`<option key=${choice}>${choice}</option>`)}
          </select>`
        : html`<input name=${name} type=${type} step="any" value=${filters.get(name) ?? ""} />`}
    </label>`)}
    <div class="buttons"><button class="primary">Filter</button><a class="button" href="#/traces">Clear</a></div>
  </form>`;
}

function Table({ entries }) {
  if (entries.length === 0) return null;
  const teachers = [...new Set(entries.flatMap((entry) => entry.teachers))].sort();
  return html`<div class="table"><table>
    <thead><tr>${["When", "Problem", "Answer", "Model", "Score", "Steps", "Took", "Outcome"].map((name) => html`<th key=${name} scope="col">${name}</th>`)}</tr></thead>
    <tbody>
      ${entries.map((entry) => html`<tr key=${entry.id}>
        <td class="when">${new Date(entry.time).toLocaleString()}</td>
        <td><a class="model-text clamp" href=${`#/traces/${entry.id}`}>${entry.prompt || "(nothing)"}</a></td>
        <td><div class="model-text clamp">${entry.answer}</div></td>
        <td>${entry.model}<br /><span class="faint">${[entry.strategy, entry.objective].filter(Boolean).join(", ")}</span></td>
        <td>${score(entry.value)}<br /><span class="faint">${entry.source}</span></td>
        <td><${Wins} teachers=${teachers} by=${entry.teachers} /></td>
        <td class="when">${seconds(entry.duration_s)}<br /><span class="faint">${entry.candidates} cand.</span></td>
        <td><span class=${`state ${entry.outcome}`} title=${entry.error}>${entry.outcome}</span></td>
      </tr>`)}
    </tbody>
  </table></div>`;
}

// Who wrote how many of the winner's steps.
function Wins({ teachers, by }) {
  const counts = new Map();
  for (const name of by) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].map(([name, number]) => html`<div key=${name} class="wins"><${Teacher} teachers=${teachers} name=${name} /> ${number}</div>`);
}
