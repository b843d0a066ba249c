// The page: three tabs, found by the address after the `#`.
import { html, useEffect, useState } from "./html.js";
import { whenLocked } from "./client.js";
import { HealthPage } from "./health.js";
import { KeyDialog } from "./key.js";
import { Playground } from "./playground.js";
import { ThemeButton } from "./theme.js";
import { TracePage } from "./trace.js";
import { TracesPage } from "./traces.js";

const TABS = [["playground", "Playground"], ["traces", "Traces"], ["health", "Health"]];

function useRoute() {
  const read = () => {
    const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    const [tab, ...rest] = path.split("/");
    return { tab: TABS.some(([name]) => name === tab) ? tab : "playground", id: decodeURIComponent(rest.join("/")), query };
  };
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const changed = () => setRoute(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

export function App() {
  const { tab, id, query } = useRoute();
  const [locked, setLocked] = useState(false);
  const [unlocked, setUnlocked] = useState(0); // counts the keys that were given: pages load again
  useEffect(() => whenLocked(() => setLocked(true)), []);
  const onKey = () => {
    setLocked(false);
    setUnlocked(unlocked + 1);
  };
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <strong>CoRD</strong>
      <nav aria-label="Pages">
        ${TABS.map(([name, label]) => html`<a key=${name} href=${`#/${name}`} aria-current=${name === tab ? "page" : undefined}>${label}</a>`)}
      </nav>
      <${ThemeButton} />
    </header>
    <main id="main" tabindex="-1">
      <div hidden=${tab !== "playground"}><${Playground} unlocked=${unlocked} /></div>
      ${tab === "traces" ? (id ? html`<${TracePage} id=${id} unlocked=${unlocked} />` : html`<${TracesPage} query=${query} unlocked=${unlocked} />`) : null}
      ${tab === "health" ? html`<${HealthPage} unlocked=${unlocked} />` : null}
    </main>
    ${locked ? html`<${KeyDialog} onKey=${onKey} />` : null}`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}
