// Ask, and watch the search while it runs.
import { html, useEffect, useRef, useState } from "./html.js";
import { getModels } from "./client.js";
import { Form } from "./form.js";
import { useLiveSearch } from "./live.js";
import { Stage } from "./stage.js";

export function Playground({ unlocked }) {
  const [models, setModels] = useState([]);
  const [problem, setProblem] = useState(null);
  const [live, start] = useLiveSearch();
  useEffect(() => {
    getModels().then(
      // What only answers straight through (an embedding model) cannot be searched with.
      (all) => setModels(all.filter((model) => model.cord)),
      (error) => error.status !== 401 && setProblem(error.message),
    );
  }, [unlocked]);
  const result = useRef(null);
  const run = (body) => {
    start(body);
    // On a phone the result is below the form.
    requestAnimationFrame(() => result.current.getBoundingClientRect().top > innerHeight / 2 && result.current.scrollIntoView());
  };
  const running = live !== null && !live.ended;
  const error = live?.error ?? problem;
  return html`<div class="playground">
    <${Form} models=${models} running=${running} onRun=${run} onStop=${() => live.stop()} />
    <div class="result" ref=${result}>
      ${error ? html`<p class="error" role="alert">${error}</p>` : null}
      ${live === null ? html`<${Welcome} />` : null}
      ${live !== null && (live.search.started || running)
        ? html`<${Stage} key=${live.requestId} search=${live.search} now=${live.now} follow=${running}>
            ${live.search.outcome ? html`<a class="button" href=${`#/traces/${live.search.id}`}>Open trace</a>` : null}
          <//>`
        : null}
    </div>
  </div>`;
}

function Welcome() {
  return html`<div class="welcome">
    <h2>Several models, one chain of thought</h2>
    <p>Every teacher proposes the next step. A scorer ranks the proposals, the best survive, and the chain that wins becomes
      the answer. Ask something, and watch it being found.</p>
  </div>`;
}
